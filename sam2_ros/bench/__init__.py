"""What ``sam2_ros bench`` measures: the engine beside its peers on the same frames, and the node, camera to mask."""
