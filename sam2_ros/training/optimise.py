"""The training loop: AdamW, warm-up and cosine, an average of the weights, a state to resume from.

A subclass defines the data of a step (``batches``) and its losses (``losses``). All random numbers must follow from
seed and step. Then a resumed run ends with the same weights, bit for bit, as one that was not interrupted, on the same
machine, device and number of threads.
"""

from __future__ import annotations

import copy
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sam2_ros.media.whole_files import whole_file, write_whole
from sam2_ros.model.checkpoint import check_foreign
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.distributed import SINGLE, World

Part = TypeVar("Part")
Group = dict[str, Any]
Report = Callable[[dict[str, float]], None]


def _ignore(*_: Any) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class LoopSettings:
    """The rate rises for ``warmup`` steps, then falls to a twentieth along half a cosine."""

    steps: int
    warmup: int
    average: float  # decay of the average of the weights; 0 = none
    gradient_norm: float
    betas: tuple[float, float]
    bfloat16: bool  # autocast; the weights stay float32
    save_every: int
    log_every: int = 20

    def factor(self, step: int) -> float:
        """Share of the full rate at ``step``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


class TrainingLoop(ABC, Generic[Part]):
    """Trains ``model`` in place; ``average`` is its averaged copy.

    Args:
        model: its trainable parameters require gradients and are in ``groups``.
        groups: as for the optimizer, each with its full learning rate as ``rate``.
        settings: of the loop.
        folder: of ``state.pt``.
        world: the processes that train together.
        resume: whether to resume from a state in ``folder``.
    """

    def __init__(
        self,
        model: Sam2Model,
        groups: list[Group],
        settings: LoopSettings,
        folder: Path,
        world: World = SINGLE,
        resume: bool = True,
    ) -> None:
        self.model, self.settings, self.world = model, settings, world
        self.state_path = folder / "state.pt"
        self.optimizer = torch.optim.AdamW(groups, betas=settings.betas)
        self.trained: list[nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self._parts: dict[str, Any] = {"model": model, "average": self.average, "optimizer": self.optimizer}
        self.step = 0
        self._batches: Iterator[Sequence[Part]] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if resume and self.state_path.exists():
            check_foreign(self.state_path)
            state = torch.load(self.state_path, weights_only=True, map_location=model.device)
            self.check_state(state)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.step = state["step"]

    @abstractmethod
    def batches(self, first: int) -> Iterator[Sequence[Part]]:
        """The data of the steps ``first``, ``first + 1``, …; the losses of a step's parts are averaged."""

    @abstractmethod
    def losses(self, part: Part) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is minimised."""

    def extra_state(self) -> dict[str, Any]:
        """Further content of the state; plain containers."""
        return {}

    def check_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError if ``state`` belongs to another training."""

    def save(self) -> None:
        """Writes the state to a new file, then renames it, so that an interruption leaves the old one."""
        if not self.world.first:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        save_whole({**state, "step": self.step, **self.extra_state()}, self.state_path)

    def train_step(self) -> dict[str, float]:
        """One update; returns the losses and the gradient's norm."""
        if self._batches is None:
            self._batches = self.batches(self.step)
        parts = next(self._batches)
        factor = self.settings.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        for parameter in self.trained:
            # Zeros, not None: otherwise an unused parameter would be skipped in one process, but not in several.
            parameter.grad = torch.zeros_like(parameter)
        totals: dict[str, float] = {}
        for part in parts:
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
                losses = self.losses(part)
            (torch.stack(list(losses.values())).sum() / len(parts)).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) / len(parts)
        self.world.average([p.grad for p in self.trained if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(self.trained, self.settings.gradient_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self._follow()
        self.step += 1
        return totals | {"norm": float(norm)}

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the average towards the weights, faster in the first steps, to forget the initial weights."""
        decay = min(self.settings.average, (self.step + 1) / (self.step + 10))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            if value.requires_grad:
                mean.lerp_(value, 1 - decay)

    def run(
        self, log: Path, on_step: Report = _ignore, on_log: Report = _ignore, on_save: Callable[[], None] = _ignore
    ) -> None:
        """Trains to the last step; appends a JSON line of means to ``log`` every ``log_every`` steps.

        Calls ``on_step`` after every step, ``on_log`` with the logged means, ``on_save`` before it writes the state.
        """
        if self.world.first:
            forget_lines(log, self.step)
        settings, started = self.settings, time.monotonic()
        window: list[dict[str, float]] = []  # losses of the steps since the last line
        while self.step < settings.steps:
            window.append(self.train_step())
            on_step(window[-1])
            if self.step % settings.log_every == 0 or self.step == settings.steps:
                means = {name: sum(losses[name] for losses in window) / len(window) for name in window[0]}
                means = self.world.mean(means)
                seconds = (time.monotonic() - started) / len(window)
                line = {"step": self.step, "s_per_step": round(seconds, 3)}
                line |= {name: round(value, 5) for name, value in means.items()}
                if self.world.first:
                    append_line(log, line)
                on_log(means)
                window, started = [], time.monotonic()
            if self.step % settings.save_every == 0 or self.step == settings.steps:
                on_save()
                self.save()


def save_whole(content: Any, path: Path) -> None:
    """``torch.save``, so that ``path`` is always complete; raises WriteError."""
    with whole_file(path) as new, new.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # raised while torch completes a file that it could not write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def append_line(log: Path, values: dict[str, Any]) -> None:
    """Adds one JSON line."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def forget_lines(log: Path, step: int) -> None:
    """Drops the lines of steps after ``step``, which will be repeated, and an incomplete line."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    write_whole(log, "".join(kept))
