"""How the embedded checkpoint was made: see ``README.md`` in this folder."""
