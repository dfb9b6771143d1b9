"""Images, masks, prompts and pictures as files, for the node, the command line and the evaluation; knows no ROS."""
