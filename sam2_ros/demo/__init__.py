"""What ``make demo`` runs: footage, the tracker over ROS topics, the viewer's page, and a report of each clip."""
