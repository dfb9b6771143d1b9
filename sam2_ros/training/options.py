"""What ``sam2_ros train`` can be told; the names are those of the command line's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sam2_ros.training.simulate import PromptRecipe

PARTS = ("encoder", "prompts", "decoder", "memory")
# May differ when a training goes on: they change how it is run, not what it computes.
FREE = ("out", "workers", "save_every", "log_every", "resume", "val", "val_every", "val_prompt", "device", "threads")


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training. ``None`` means a value that depends on others.

    Raises:
        ValueError: a value out of range, with what is accepted.
    """

    data: Sequence[str]
    out: str
    model: str = "embedded"
    shares: Sequence[float] = ()  # of the clips, by data set; empty: equal
    init: str = "weights"  # or "random"
    size: int = 0  # pixels; 0 = the model's
    # clips
    clip_length: int = 8
    clips: int = 2
    objects: int = 3
    stride: int = 2
    camera: float = 0.5
    occlusion: float = 0.5
    pieces: int = 3
    # prompts
    prompts: Mapping[str, float] = field(default_factory=lambda: {"mask": 0.5, "box": 0.25, "click": 0.25})
    prompted_frames: int = 2
    corrected_frames: int = 2
    clicks: int = 7
    # optimisation
    steps: int = 1000
    lr: float = 2e-5
    encoder_lr: float | None = None  # 0.3 lr
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    warmup: int | None = None  # a twentieth of the steps, at most 500
    gradient_norm: float = 0.1
    ema: float = 0.999
    freeze: Sequence[str] = ()
    seed: int = 0
    # running
    dtype: str = "auto"
    device: str = "auto"
    threads: int = 0
    checkpointing: bool = False
    workers: int = 0
    save_every: int = 100
    log_every: int = 10
    resume: str = "auto"
    val: Sequence[str] = ()
    val_every: int | None = None  # save_every
    val_prompt: str = "box"

    def __post_init__(self) -> None:
        ranges = {
            "size": (0, 4096), "clip_length": (2, 64), "clips": (1, 1024), "objects": (1, 64), "stride": (1, 100),
            "camera": (0, 1), "occlusion": (0, 1), "pieces": (1, 16), "steps": (1, 10**8), "lr": (0, 1),
            "encoder_lr": (0, 1), "layer_decay": (0.1, 1), "weight_decay": (0, 1), "warmup": (0, 10**8),
            "gradient_norm": (1e-6, 1e6), "ema": (0, 0.99999), "seed": (0, 2**32 - 1), "threads": (0, 1024),
            "workers": (0, 256), "save_every": (1, 10**8), "log_every": (1, 10**8), "val_every": (1, 10**8),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{flag(name)} is {value}; accepted: {low} to {high}")
        choices = {
            "init": ("weights", "random"), "dtype": ("auto", "float32", "bfloat16"), "resume": ("auto", "never"),
            "val_prompt": ("mask", "box", "click"),
        }  # fmt: skip
        for name, accepted in choices.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{flag(name)} is '{getattr(self, name)}'; accepted: {', '.join(accepted)}")
        for part in self.freeze:
            if part not in PARTS:
                raise ValueError(f"--freeze '{part}' is no part of the network; accepted: {', '.join(PARTS)}")
        if set(self.freeze) == set(PARTS):
            raise ValueError("--freeze names every part of the network; leave one to train")
        if not self.data:
            raise ValueError("no data; give at least one --data PATH")
        if self.shares and (len(self.shares) != len(self.data) or min(self.shares) < 0 or sum(self.shares) <= 0):
            raise ValueError(f"--shares {list(self.shares)} does not fit {len(self.data)} data sets; one number each")
        self.recipe()

    def recipe(self) -> PromptRecipe:
        return PromptRecipe(self.prompts, self.prompted_frames, self.corrected_frames, self.clicks)

    def warmup_steps(self) -> int:
        return min(500, self.steps // 20) if self.warmup is None else self.warmup

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as ``train.json`` holds them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def flag(name: str) -> str:
    """The option of the command line."""
    return "--" + name.replace("_", "-")


def options_from(values: Mapping[str, Any]) -> TrainOptions:
    """Options from a configuration file or the command line; paths may be :class:`~pathlib.Path`.

    Raises:
        ValueError: an unknown name, a value of another kind, out of range, or one that is missing.
    """
    known = {entry.name: entry for entry in fields(TrainOptions)}
    checked: dict[str, Any] = {}
    for given, value in values.items():
        name = given.replace("-", "_")
        if name not in known:
            raise ValueError(f"there is no option '{given}'; accepted: {', '.join(known)}")
        checked[name] = _convert(name, str(known[name].type), value)
    for name in ("data", "out"):
        if not checked.get(name):
            raise ValueError(f"{flag(name)} is missing; see sam2_ros train --help")
    return TrainOptions(**checked)


def _convert(name: str, kind: str, value: Any) -> Any:
    """The value in the kind that the option has."""
    if value is None and "None" in kind:
        return None
    try:
        if kind.startswith("Sequence"):
            entries = value if isinstance(value, list | tuple) else [value]
            return tuple(float(e) if "float" in kind else str(e) for e in entries)
        if kind.startswith("Mapping"):
            return parse_shares(value) if isinstance(value, str) else {str(k): float(v) for k, v in value.items()}
        if kind == "bool":
            if not isinstance(value, bool):
                raise ValueError
            return value
        if kind.startswith("int"):
            if isinstance(value, bool) or int(value) != float(value):
                raise ValueError
            return int(value)
        if kind.startswith("float"):
            return float(value)
        return str(value) if isinstance(value, str | Path) else _no_text(value)
    except (ValueError, TypeError, AttributeError) as error:
        wanted = kind.replace("Sequence", "list").replace("Mapping[str, float]", "name=share,…")
        raise ValueError(f"{flag(name)} is {value!r}; accepted: {wanted}") from error


def _no_text(value: Any) -> str:
    raise ValueError(f"{value!r} is no text")


def parse_shares(text: str) -> dict[str, float]:
    """``mask=0.5,box=0.25`` as a mapping.

    Raises:
        ValueError: written otherwise.
    """
    shares = {}
    for entry in text.split(","):
        name, equals, share = entry.partition("=")
        if not equals:
            raise ValueError(f"'{entry}' is no name=share")
        shares[name.strip()] = float(share)
    return shares
