"""Loads weights: official checkpoints, and our own, which also store their configuration."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2_ros.model.config import ModelConfig, infer_config
from sam2_ros.model.download import CHECKPOINTS, DownloadError, checkpoint_path
from sam2_ros.model.sam2 import Sam2Model

EMBEDDED = Path(__file__).parent.parent / "weights" / "embedded.pt"


class CheckpointError(ValueError):
    """A file without usable weights; ``str(error)`` says what is wrong and what is accepted."""


def load_model(source: str | Path = "embedded", device: str | torch.device = "cpu", image_size: int = 0) -> Sam2Model:
    """Builds a model and loads its weights, ready for inference.

    Args:
        source: "embedded", the name of a downloaded official checkpoint (a size of :data:`.config.HIERA`, with "-2.0"
            the older version), or a path.
        device: where the model goes.
        image_size: side of the square input in pixels; 0 = the checkpoint's own (1024 for the official ones).

    Raises:
        FileNotFoundError: no such file, with the command that gets it.
        CheckpointError: the file holds no usable weights.
        ValueError: an image size that the network cannot have.
    """
    path = find_weights(source)
    state, config = read_checkpoint(path)
    if image_size:
        config = replace(config, image_size=image_size)
    model = Sam2Model(config)
    load_strictly(model, state, path.name)
    return model.to(device).eval().requires_grad_(False)


def find_weights(source: str | Path) -> Path:
    """The file that ``source`` names; an existing path takes precedence over an official name.

    Raises:
        FileNotFoundError: no such file, with the command that gets it.
    """
    path = Path(source).expanduser()
    hint = f"give the path of a file, or one of: embedded, {', '.join(CHECKPOINTS)}"
    if source == "embedded":
        path, hint = EMBEDDED, "reinstall sam2_ros"
    elif not path.is_file():
        try:
            path, hint = checkpoint_path(str(source)), f"give a path, or run: sam2_ros download {source}"
        except DownloadError:
            if path.is_dir():
                hint = "that is a folder; " + hint
    if not path.is_file():
        raise FileNotFoundError(f"no weights for model '{source}' (looked for {path}); {hint}")
    return path


def read_checkpoint(path: Path) -> tuple[Mapping[str, Tensor], ModelConfig]:
    """Reads weights and configuration; only tensors and plain containers are unpickled, so no code can run.

    Raises:
        CheckpointError: not a checkpoint, or not one of SAM 2.
        OSError: the file can't be read.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = "can't be read as a checkpoint: it is damaged, incomplete or a file of another kind; fetch it again"
        if isinstance(error, pickle.UnpicklingError) and re.search("unsupported (class|global)", str(error), re.I):
            reason = "is refused: it holds more than tensors and plain containers, so loading it could run code"
        accepted = "the official SAM 2 checkpoints and sam2_ros's own"
        raise CheckpointError(f"{path} {reason}; accepted: {accepted}") from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} has no entry 'model' with named tensors; accepted: the official SAM 2 layout")
    if "config" not in content:
        try:
            return state, infer_config(state)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    try:
        return state, ModelConfig.from_dict(content["config"])
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} was written for another version of sam2_ros: {error}") from error


def load_strictly(model: Sam2Model, state: Mapping[str, Tensor], name: str) -> None:
    """Loads ``state``; nothing may be missing, unexpected or of another shape.

    Raises:
        CheckpointError: names the first tensor that does not fit.
    """
    wanted, found = ({k: tuple(v.shape) for k, v in tensors.items()} for tensors in (model.state_dict(), state))
    for key in wanted | found:
        if key not in found:
            problem = f"{wanted[key]} is missing"
        elif key not in wanted:
            problem = f"{found[key]} is unexpected"
        elif found[key] != wanted[key]:
            problem = f"has shape {found[key]}, expected {wanted[key]}"
        else:
            continue
        raise CheckpointError(f"{name} does not fit {model.config.name}: tensor '{key}' {problem}")
    model.load_state_dict({key: value.float() for key, value in state.items()})
