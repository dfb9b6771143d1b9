"""Measures tracking on labelled video: the metrics, data sets and protocols of the field. Knows nothing of ROS.

What is measured, by which rules and from which sources: ``docs/reference/evaluation.md``.
"""
