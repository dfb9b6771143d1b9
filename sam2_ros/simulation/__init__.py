"""A simulated robot camera over a table: images, depth and ground truth. Needs MuJoCo, but no display."""
