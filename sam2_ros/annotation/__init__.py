"""Turns recordings into data sets: a detector marks objects, the tracker follows them both ways in time."""
