"""Loads weights: official checkpoints, and our own, which also store their configuration."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from sam2_ros.model.config import ModelConfig, infer_config
from sam2_ros.model.download import CHECKPOINTS, file_sha256
from sam2_ros.model.repvit import fold
from sam2_ros.model.safetensors_file import is_safetensors, read_safetensors
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.model.sam3_names import is_authors, is_sam3, joined, tracker_names
from sam2_ros.model.weight_files import EMBEDDED, find_weights
from sam2_ros.text import printable

SAFE_TORCH = "2.10"  # CVE-2025-32434 and CVE-2026-24747 are fixed there
MAX_NUMBERS = 1 << 30  # in all tensors; the largest official model has 2**27.7
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Entries of a file that may hold the weights, averaged ones first; "": the file is the state dict itself
ENTRIES = ("ema", "model", "state_dict", "")
PREFIX, COUNTER = "module.", "n_averaged"  # what DistributedDataParallel and AveragedModel add to a state dict
BATCHES = ".num_batches_tracked"  # how long batch normalisation was trained; no weight
ACCEPTED = "the official SAM 2 layout (an entry 'model'), an entry 'ema' or 'state_dict', or a bare state dict"

_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A file without usable weights; ``str(error)`` says what is wrong and what is accepted."""


def load_model(source: str | Path = "embedded", device: str | torch.device = "cpu", image_size: int = 0) -> Sam2Model:
    """Builds a model and loads its weights, ready for inference.

    Args:
        source: "embedded", the name of a downloaded official checkpoint (a size of :data:`.config.HIERA`, with "-2.0"
            the older version), or a path, also of a checkpoint of SAM 3, EdgeTAM or EfficientTAM.
        device: where the model goes.
        image_size: side of the square input in pixels; 0 = the checkpoint's own (1024 for the official ones; 1008 for
            SAM 3; 512 for EfficientTAM's with this in their names).

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


def read_checkpoint(path: Path) -> tuple[Mapping[str, Tensor], ModelConfig]:
    """Reads weights and configuration; only tensors and plain containers are unpickled, so no code can run.

    Raises:
        CheckpointError: not a checkpoint, or not one of SAM 2.
        OSError: the file can't be read.
    """
    plain = is_safetensors(path)
    if not plain:
        check_foreign(path)
    try:
        content: Any = read_safetensors(path, _needed, MAX_NUMBERS) if plain else _unpickled(path)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = "can't be read as a checkpoint: it is damaged, incomplete or a file of another kind; fetch it again"
        if isinstance(error, pickle.UnpicklingError) and re.search("unsupported (class|global)", str(error), re.I):
            reason = "is refused: it holds more than tensors and plain containers, so loading it could run code"
        accepted = "the official SAM 2, SAM 3, EdgeTAM and EfficientTAM checkpoints, and sam2_ros's own"
        raise CheckpointError(f"{path} {reason}; accepted: {accepted}") from error
    entry, state = _weights_of(content)
    if not state:
        raise CheckpointError(f"{path} has no entry with named tensors; accepted: {ACCEPTED}")
    try:
        if is_sam3(state):
            names = tracker_names(state)
            raw = {ours: state[theirs] for theirs, ours in names.items()}
            # Joining makes new tensors. Those of a genuine file do not overlap, so that they are no larger than it.
            _check_numbers(raw, path.stat().st_size)
            state = joined(raw, is_authors(names))
            _log.info("SAM 3: only its tracker is used")
        else:
            _check_numbers(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if ours := entry == "model" and "config" in content:
        try:
            config = ModelConfig.from_dict(content["config"])
        except Exception as error:  # of what a file says, anything
            reason = printable(error, 300)
            raise CheckpointError(f"{path} was written for another version of sam2_ros: {reason}") from error
    else:
        try:
            config = as_named(infer_config(state), path.stem)
            state = fold(state) if config.trunk == "repvit" else state
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    if (ours or config.trunk == "sam3") and not path.samefile(EMBEDDED):  # the file says how large the network is
        with torch.device("meta"):  # takes no memory, whatever a file says of the network's size; but a second of time
            try:
                model = Sam2Model(config)
            except Exception as error:  # sizes that do not fit each other
                raise CheckpointError(f"{path}: no network has its settings ({printable(error, 300)})") from error
            check_shapes(model, state, path.name)
    return state, config


def _needed(names: Iterable[str]) -> Iterable[str]:
    """Which tensors of a file with these names are used."""
    return tracker_names(names) if is_sam3(names) else names


def _check_numbers(state: Mapping[str, Tensor], most_bytes: int | None = None) -> None:
    """
    Raises:
        ValueError: tensors of a kind that no weights are, or more of them than any network has, or than ``most_bytes``.
    """
    for name, tensor in state.items():
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided or tensor.device.type != "cpu":
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise ValueError(f"tensor '{printable(name)}' is {kind}; accepted: dense numbers of {accepted}")
    if (count := sum(tensor.numel() for tensor in state.values())) > MAX_NUMBERS:
        raise ValueError(f"it holds {count} numbers; accepted: up to {MAX_NUMBERS}")
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if most_bytes is not None and size > most_bytes:
        raise ValueError(f"its tensors have {size} bytes, but the file has {most_bytes}; accepted: no overlapping ones")


def as_named(config: ModelConfig, name: str) -> ModelConfig:
    """What a file of EfficientTAM says by its name alone: all variants of a size have the same tensors.

    Raises:
        ValueError: a variant whose attention reads averages of neighbouring memory tokens.
    """
    if config.trunk != "vit":
        return config
    if name.endswith(("_1", "_2")):
        raise ValueError(
            f"the variant '{name[-2:]}' of EfficientTAM reads its memory in another way, which is not supported; "
            "accepted: efficienttam_ti, efficienttam_s, and these with _512x512"
        )
    return replace(config, image_size=512) if name.endswith("_512x512") else config


def check_foreign(path: Path) -> None:
    """Refuses to unpickle what may be anyone's file with a PyTorch whose ``weights_only`` can be broken.

    Raises:
        CheckpointError: such a PyTorch, and neither the embedded checkpoint nor an official one.
        OSError: the file can't be read.
    """
    if TorchVersion(torch.__version__) >= SAFE_TORCH or (path.exists() and path.samefile(EMBEDDED)):
        return
    if file_sha256(path) not in {checkpoint.sha256 for checkpoint in CHECKPOINTS.values()}:
        raise CheckpointError(
            f"{path} is refused: reading it with PyTorch {torch.__version__} could run code; accepted: embedded, the "
            f"official checkpoints, or PyTorch {SAFE_TORCH} and newer"
        )


def _unpickled(path: Path) -> Any:
    """What ``torch.load`` reads. Refuses an archive that unpacks to more than its size; torch writes none that does."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("compressed")
    return torch.load(path, map_location="cpu", weights_only=True)


def _weights_of(content: Any) -> tuple[str, dict[str, Tensor]]:
    """Which of :data:`ENTRIES` holds named tensors, and these, without what training has added to their names."""
    for entry in ENTRIES:
        state = content if not entry else content.get(entry) if isinstance(content, dict) else None
        if not isinstance(state, dict) or not state:
            continue
        if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
            continue
        state = {name: value for name, value in state.items() if not name.endswith(BATCHES)}
        named = {name: value for name, value in state.items() if name != COUNTER}
        if prefixed := bool(named) and all(name.startswith(PREFIX) for name in named):
            state = {name.removeprefix(PREFIX): value for name, value in named.items()}
        if prefixed or entry != "model":
            where = f"entry '{entry}'" if entry else "a bare state dict"
            _log.info("weights from %s%s", where, f", without the prefix '{PREFIX}'" if prefixed else "")
        return entry, state
    return "", {}


def load_strictly(model: Sam2Model, state: Mapping[str, Tensor], name: str) -> None:
    """Loads ``state``; nothing may be missing, unexpected, of another shape, or not finite.

    Raises:
        CheckpointError: names the first tensor that does not fit.
    """
    check_shapes(model, state, name)
    weights = {key: value.float() for key, value in state.items()}
    for key, value in weights.items():
        if bad := int((~torch.isfinite(value)).sum()):
            raise CheckpointError(
                f"{name}: tensor '{key}' holds {bad} values that are NaN or infinite; fetch the file again, or train "
                "it with a lower rate"
            )
    model.load_state_dict(weights)


def check_shapes(model: Sam2Model, state: Mapping[str, Tensor], name: str) -> None:
    """
    Raises:
        CheckpointError: names the first tensor that is missing, unexpected or of another shape.
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
        raise CheckpointError(f"{name} does not fit {model.config.name}: tensor '{printable(key)}' {problem}")
