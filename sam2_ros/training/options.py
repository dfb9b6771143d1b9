"""The options of ``sam2_ros train``: each is declared once, and the command line is made from the declarations.

This module loads no torch, so that ``sam2_ros --help`` stays quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

PARTS = ("encoder", "prompts", "decoder", "memory")  # of the network
PROMPT_KINDS = ("mask", "box", "click")
MAIN, CLIPS, OPTIMISATION, RUNNING = "options", "clips and prompts", "optimisation", "running"
# These may differ when a training is resumed: they change how it runs, not what it computes.
FREE = ("out", "workers", "save_every", "log_every", "resume", "val", "val_every", "val_prompt", "device", "threads")


def option(
    default: Any,
    text: str,
    group: str = MAIN,
    *,
    limits: tuple[float, float] | None = None,
    choices: Sequence[str] = (),
    **argument: Any,
) -> Any:
    """A field of :class:`TrainOptions`.

    Args:
        default: None if it follows from other options; then ``text`` says how.
        text: the help.
        group: of the help.
        limits: least and greatest value.
        choices: accepted values.
        argument: further arguments of ``argparse.ArgumentParser.add_argument``.
    """
    if choices:
        argument["metavar"] = "|".join(choices)
    if default not in (None, (), "", False):
        shown = ",".join(f"{key}={value}" for key, value in default.items()) if isinstance(default, dict) else default
        text += f" (default: {shown})"
    about = {"group": group, "limits": limits, "choices": choices, "argument": {"help": text, **argument}}
    return field(default_factory=lambda: default, metadata=about)


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training.

    Raises:
        ValueError: a value out of range, with what is accepted.
    """

    data: Sequence[str] = option(
        (), "folder with JPEGImages/ and Annotations/, or a list of sequences in one; folder with images/ and "
        "annotations.json, or with images/ and labels/; may be given several times", metavar="PATH", action="append",
    )  # fmt: skip
    out: str = option("", "folder for all results", metavar="DIR")
    model: str = option("embedded", "embedded, tiny, small, …, or a path", metavar="MODEL")
    init: str = option("weights", "start from the model's weights, or from random ones", choices=("weights", "random"))
    size: int = option(0, "side of the network's input, pixels; 0: the model's", limits=(0, 4096), metavar="PX")
    val: Sequence[str] = option((), "held-out videos, in the DAVIS layout", metavar="PATH", action="append")
    val_every: int | None = option(None, "steps between validations (default: --save-every)", limits=(1, 10**8))
    val_prompt: str = option("box", "prompt of the first frame of a held-out video", choices=PROMPT_KINDS)

    shares: Sequence[float] = option((), "share of the clips of each --data (default: equal)", CLIPS, nargs="+")
    clip_length: int = option(8, "frames of a clip", CLIPS, limits=(2, 64))
    clips: int = option(2, "clips of a step, for each process", CLIPS, limits=(1, 1024))
    objects: int = option(3, "at most this many objects of a clip", CLIPS, limits=(1, 64))
    stride: int = option(2, "take every 1st to Nth frame of a video", CLIPS, limits=(1, 100))
    camera: float = option(0.5, "share of videos that a virtual camera films", CLIPS, limits=(0, 1))
    occlusion: float = option(0.5, "share of clips of stills with occlusions", CLIPS, limits=(0, 1))
    pieces: int = option(3, "at most this many objects fly over a still", CLIPS, limits=(1, 16))
    prompts: Mapping[str, float] = option(
        {"mask": 0.5, "box": 0.25, "click": 0.25}, "shares of the first prompts", CLIPS, metavar="SHARES"
    )
    prompted_frames: int = option(2, "at most this many frames of a clip have a first prompt", CLIPS, limits=(1, 2))
    corrected_frames: int = option(2, "at most this many frames of a clip have corrections", CLIPS, limits=(0, 8))
    clicks: int = option(7, "at most this many clicks on a corrected frame", CLIPS, limits=(1, 32))

    steps: int = option(1000, "updates", OPTIMISATION, limits=(1, 10**8))
    lr: float = option(2e-5, "learning rate", OPTIMISATION, limits=(0, 1))
    encoder_lr: float | None = option(
        None, "learning rate of the image encoder (default: 0.3 of --lr)", OPTIMISATION, limits=(0, 1)
    )
    layer_decay: float = option(
        1.0, "rate of an encoder block as a share of that of the next", OPTIMISATION, limits=(0.1, 1)
    )
    weight_decay: float = option(0.01, "decay of the weights", OPTIMISATION, limits=(0, 1))
    warmup: int | None = option(
        None, "steps of rising rate (default: a twentieth, at most 500)", OPTIMISATION, limits=(0, 10**8)
    )
    gradient_norm: float = option(0.1, "gradients are clipped to it", OPTIMISATION, limits=(1e-6, 1e6))
    ema: float = option(0.999, "decay of the averaged weights; 0: none", OPTIMISATION, limits=(0, 0.99999))
    freeze: Sequence[str] = option((), f"not trained: {', '.join(PARTS)}", OPTIMISATION, metavar="PART", nargs="+")
    seed: int = option(0, "seed of all random numbers; any integer from 0 on", OPTIMISATION, limits=(0, 2**32 - 1))

    dtype: str = option(
        "auto", "type of the computation; the weights stay float32", RUNNING, choices=("auto", "float32", "bfloat16")
    )
    device: str = option("auto", "auto: CUDA if there is one; cpu, cuda, cuda:N", RUNNING, metavar="DEVICE")
    threads: int = option(0, "CPU threads of a process; 0: torch's choice", RUNNING, limits=(0, 1024))
    checkpointing: bool = option(False, "recompute activations: less memory, more time", RUNNING)
    workers: int = option(0, "processes that draw clips ahead; 0: none", RUNNING, limits=(0, 256))
    save_every: int = option(100, "steps between saved states", RUNNING, limits=(1, 10**8))
    log_every: int = option(10, "steps between lines of the log", RUNNING, limits=(1, 10**8))
    resume: str = option(
        "auto", "auto: resume from DIR/state.pt; never: start again", RUNNING, choices=("auto", "never")
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, limits, choices = getattr(self, entry.name), entry.metadata["limits"], entry.metadata["choices"]
            if limits and value is not None and not limits[0] <= value <= limits[1]:
                raise ValueError(f"{flag(entry.name)} is {value}; accepted: {limits[0]} to {limits[1]}")
            if choices and value not in choices:
                raise ValueError(f"{flag(entry.name)} is '{value}'; accepted: {', '.join(choices)}")
        for part in self.freeze:
            if part not in PARTS:
                raise ValueError(f"--freeze '{part}' is no part of the network; accepted: {', '.join(PARTS)}")
        if set(self.freeze) == set(PARTS):
            raise ValueError("--freeze names every part of the network; leave one to train")
        for name in ("data", "out"):
            if not getattr(self, name):
                raise ValueError(f"{flag(name)} is missing; see sam2_ros train --help")
        if self.shares and (len(self.shares) != len(self.data) or min(self.shares) < 0 or sum(self.shares) <= 0):
            raise ValueError(f"--shares {list(self.shares)} does not fit {len(self.data)} data sets; one number each")
        shares = self.prompts.values()
        if not set(self.prompts) <= set(PROMPT_KINDS) or min(shares, default=0) < 0 or sum(shares) <= 0:
            kinds = ", ".join(PROMPT_KINDS)
            raise ValueError(f"prompts are {dict(self.prompts)}; accepted: shares from 0 on, not all 0, for {kinds}")

    def warmup_steps(self) -> int:
        return min(500, self.steps // 20) if self.warmup is None else self.warmup

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as ``train.json`` holds them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def flag(name: str) -> str:
    """The option of the command line."""
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every option to the command line. The namespace holds only the options that were given."""
    groups: dict[str, Any] = {MAIN: parser}
    for entry in fields(TrainOptions):
        kind, argument = str(entry.type), {"default": argparse.SUPPRESS, **entry.metadata["argument"]}
        if kind == "bool":
            argument["action"] = "store_true"
        elif not kind.startswith("Mapping") and ("int" in kind or "float" in kind):
            number, metavar = (int, "N") if "int" in kind else (float, "X")
            argument = {"type": number, "metavar": metavar, **argument}
        group = entry.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        groups[group].add_argument(flag(entry.name), **argument)


def options_from(values: Mapping[str, Any]) -> TrainOptions:
    """Options from a configuration file or the command line; paths may be :class:`~pathlib.Path`.

    Raises:
        ValueError: an unknown name, a value of another kind, out of range, or one that is missing.
    """
    kinds = {entry.name: str(entry.type) for entry in fields(TrainOptions)}
    checked: dict[str, Any] = {}
    for given, value in values.items():
        name = given.replace("-", "_")
        if name not in kinds:
            raise ValueError(f"there is no option '{given}'; accepted: {', '.join(kinds)}")
        try:
            checked[name] = _convert(kinds[name], value)
        except (ValueError, TypeError, AttributeError) as error:
            wanted = kinds[name].replace("Sequence", "list").replace("Mapping[str, float]", "name=share,…")
            raise ValueError(f"{flag(name)} is {value!r}; accepted: {wanted}") from error
    return TrainOptions(**checked)


def _convert(kind: str, value: Any) -> Any:
    """``value`` in the kind of the option; raises ValueError, TypeError or AttributeError if it does not fit."""
    if value is None and "None" in kind:
        return None
    if kind.startswith("Sequence"):
        entries = value if isinstance(value, list | tuple) else [value]
        return tuple(float(entry) if "float" in kind else str(entry) for entry in entries)
    if kind.startswith("Mapping"):
        pairs = (entry.split("=") for entry in value.split(",")) if isinstance(value, str) else value.items()
        return {str(name).strip(): float(share) for name, share in pairs}
    if kind.startswith("float"):
        return float(value)
    if kind.startswith("int") and not isinstance(value, bool) and int(value) == float(value):
        return int(value)
    if (kind == "bool" and isinstance(value, bool)) or (kind == "str" and isinstance(value, str | Path)):
        return value if kind == "bool" else str(value)
    raise ValueError(f"{value!r} is no {kind}")
