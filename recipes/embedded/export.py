"""Writes a checkpoint that :func:`sam2_ros.model.load_model` reads, weights in half precision."""

from __future__ import annotations

from pathlib import Path

import torch

from sam2_ros.model.sam2 import Sam2Model


def export(model: Sam2Model, path: Path, quiet: bool = False) -> None:
    """Weights in float16 and the configuration."""
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    torch.save({"model": state, "config": model.config.to_dict()}, path)
    if not quiet:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
