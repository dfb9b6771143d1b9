"""Labelled videos and stills on disk, and the clips that are drawn from them."""
