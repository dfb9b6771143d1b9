"""Labelled videos and photographs on disk, and clips drawn from them."""
