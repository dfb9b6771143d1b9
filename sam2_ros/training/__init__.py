"""Training of the tracking network: data, synthetic clips, losses, and the recipe of the embedded checkpoint."""
