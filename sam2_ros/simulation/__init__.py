"""A simulated robot camera over a table: images, depth and the truth about them. Needs MuJoCo, and no display."""
