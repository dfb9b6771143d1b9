"""Rendered scenes of a robot's table: models, motions, camera and labels."""
