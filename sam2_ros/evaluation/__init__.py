"""Measures tracking on labelled video by the field's metrics, data sets and protocols. Needs no ROS."""
