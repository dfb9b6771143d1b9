"""Images, masks, prompts, tables and pictures as files. Needs no ROS."""
