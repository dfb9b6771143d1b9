"""How the shipped checkpoints were made; not part of the installed package."""
