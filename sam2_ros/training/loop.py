"""The training loop: roll-outs of short clips, AdamW, an average of the weights, checkpoints to resume from."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.evaluate import project
from sam2_ros.training.losses import LossWeights, frame_loss
from sam2_ros.training.rollout import roll_out
from sam2_ros.training.sampling import Batch, Sampler, disturb_masks


@dataclass(frozen=True)
class Phase:
    """What a step is made of, up to step ``until``."""

    until: int
    clips: int
    length: int  # frames per clip


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The rate rises for ``warmup`` steps, then falls to a twentieth along half a cosine."""

    phases: tuple[Phase, ...]  # in order; the last one's end is the training's
    rate: float = 4e-4  # of the memory modules
    decoder_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup: int = 100
    average: float = 0.995  # decay of the average of the weights
    gradient_norm: float = 1.0
    disturbed: float = 0.3  # share of remembered masks that are spoilt, see disturb_masks
    bfloat16: bool = True
    save_every: int = 100

    @property
    def steps(self) -> int:
        return self.phases[-1].until

    def phase(self, step: int) -> Phase:
        return next(phase for phase in self.phases if step < phase.until)

    def factor(self, step: int) -> float:
        """Share of the full rate at ``step``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def clip_loss(
    model: Sam2Model, batch: Batch, weights: LossWeights, disturb: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Each loss, averaged over the frames that have it; ``disturb`` as in :func:`~.rollout.track_frame`."""
    frames = [project(model, *maps) for maps in batch.maps]
    outputs = roll_out(model, frames, batch.prompt, disturb)
    sums: dict[str, Tensor] = {}
    counted = 0
    for output, target in zip(outputs, batch.targets, strict=True):
        losses = frame_loss(output, target, weights)
        counted += bool(losses)
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros(())) + value
    return {name: value / counted for name, value in sums.items()}


def parameter_groups(model: Sam2Model, schedule: Schedule) -> list[dict]:
    """The encoder and the point prompts are frozen; biases, norms and embeddings do not decay."""
    frozen = ("image_encoder.", "sam_prompt_encoder.", "no_mem_pos_enc")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
        if not parameter.requires_grad:
            continue
        rate = schedule.decoder_rate if name.startswith("sam_mask_decoder.") else schedule.rate
        decay = schedule.weight_decay if parameter.ndim > 1 and not name.endswith("_enc") else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "rate": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


class Trainer:
    """Trains ``model`` in place and keeps its averaged copy in ``average``; resumes from ``folder`` where it can."""

    def __init__(self, model: Sam2Model, sampler: Sampler, schedule: Schedule, folder: Path) -> None:
        self.model, self.sampler, self.schedule, self.folder = model, sampler, schedule, folder
        self.weights = LossWeights()
        self.optimizer = torch.optim.AdamW(parameter_groups(model, schedule), betas=(0.9, 0.98))
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            state = torch.load(folder / "state.pt", weights_only=True)
            model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def _disturb(self, logits: Tensor) -> Tensor:
        return disturb_masks(logits, self.sampler.rng, self.schedule.disturbed)

    def save(self) -> None:
        """Writes the state to a new file, then renames it, so that an interruption leaves the old one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, self.folder / "state.new")
        (self.folder / "state.new").replace(self.folder / "state.pt")

    def train_step(self) -> dict[str, float]:
        """One update; what was lost."""
        schedule = self.schedule
        phase = schedule.phase(self.step)
        batch = self.sampler.batch(phase.clips, phase.length)
        factor = schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bfloat16):
            losses = clip_loss(self.model, batch, self.weights, self._disturb)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(
            [p for group in self.optimizer.param_groups for p in group["params"]], schedule.gradient_norm
        )
        if torch.isfinite(norm):
            self.optimizer.step()
        decay = min(schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - decay)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()} | {"norm": float(norm)}

    def run(self, log: Path) -> None:
        """Trains to the schedule's last step; one JSON line of means in ``log`` every 20 steps."""
        sums: dict[str, float] = {}
        started, count = time.monotonic(), 0
        while self.step < self.schedule.steps:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            if self.step % 20 == 0:
                means = {name: round(value / count, 4) for name, value in sums.items()}
                seconds = (time.monotonic() - started) / count
                with log.open("a") as file:
                    file.write(json.dumps({"step": self.step, "s_per_step": round(seconds, 3), **means}) + "\n")
                sums, count, started = {}, 0, time.monotonic()
            if self.step % self.schedule.save_every == 0 or self.step == self.schedule.steps:
                self.save()
