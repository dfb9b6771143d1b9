"""The engine in another process: the client of ``sam2_ros serve``, the wire protocol, and the server; knows no ROS."""
