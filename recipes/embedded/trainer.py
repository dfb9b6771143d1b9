"""Trains the embedded model on short clips, with stored features of its frozen encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recipes.embedded.evaluate import project
from recipes.embedded.rollout import roll_out
from recipes.embedded.sampler import BARELY, Batch, Sampler, disturb_masks
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.losses import frame_loss
from sam2_ros.training.optimise import Group, LoopSettings, TrainingLoop


@dataclass(frozen=True)
class Phase:
    """The clips of a step, for the steps before ``until``."""

    until: int
    clips: int
    length: int  # frames per clip
    lead: int = 0  # up to so many frames before them, see :func:`~recipes.embedded.rollout.roll_out`


@dataclass(frozen=True)
class Schedule:
    """Settings of a training; see :class:`~sam2_ros.training.optimise.LoopSettings`."""

    phases: tuple[Phase, ...]  # in order; the last one's end is the training's
    rate: float = 4e-4  # of the memory modules
    decoder_rate: float = 2e-4  # 0: frozen, so that frames without memory look as before
    weight_decay: float = 0.01
    warmup: int = 100
    average: float = 0.995  # decay of the average of the weights
    gradient_norm: float = 1.0
    disturbed: float = 0.3  # share of stored masks that are disturbed, see disturb_masks
    told: float = 0.5  # share of the frames whose stored presence is the truth, not the object score
    certainty: float = 1.0  # factor of the score logits in the loss, where calibration made them smaller
    bfloat16: bool = True
    save_every: int = 100

    @property
    def steps(self) -> int:
        return self.phases[-1].until

    def phase(self, step: int) -> Phase:
        return next(phase for phase in self.phases if step < phase.until)

    def loop(self) -> LoopSettings:
        return LoopSettings(
            self.steps,
            warmup=self.warmup,
            average=self.average,
            gradient_norm=self.gradient_norm,
            betas=(0.9, 0.98),
            bfloat16=self.bfloat16,
            save_every=self.save_every,
        )


def clip_loss(
    model: Sam2Model,
    batch: Batch,
    disturb: Callable[[Tensor], Tensor] | None = None,
    told: Sequence[Tensor] | None = None,
    certainty: float = 1.0,
) -> dict[str, Tensor]:
    """Each loss, averaged over the frames that have it.

    ``disturb`` and ``told`` as in :func:`~.rollout.roll_out`; ``certainty`` as in :class:`Schedule`.
    """
    leading = range(1, batch.lead + 1)
    frames = []
    for t, maps in enumerate(batch.maps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and t not in leading):
            frames.append(project(model, *maps))
    outputs = roll_out(model, frames, batch.prompt, disturb, told, batch.lead)
    sums: dict[str, Tensor] = {}
    counted = 0
    for t, (output, target, seen) in enumerate(zip(outputs, batch.targets, batch.seen, strict=True)):
        if t in leading:
            continue
        if output.decoded is not None:
            score = certainty * output.decoded.object_score
            output = replace(output, decoded=replace(output.decoded, object_score=score))
        losses = frame_loss(output, target, seen)
        counted += bool(losses)
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros(())) + value
    return {name: value / counted for name, value in sums.items()}


def parameter_groups(model: Sam2Model, schedule: Schedule) -> list[Group]:
    """The encoder, the point prompts and recognition are frozen; biases, norms and embeddings do not decay."""
    frozen: tuple[str, ...] = ("image_encoder.", "sam_prompt_encoder.", "no_mem_pos_enc", "appearance.")
    if not schedule.decoder_rate:
        frozen += ("sam_mask_decoder.", "no_mem_embed")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
        if not parameter.requires_grad:
            continue
        rate = schedule.decoder_rate if name.startswith("sam_mask_decoder.") else schedule.rate
        decay = schedule.weight_decay if parameter.ndim > 1 and not name.endswith("_enc") else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "rate": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


class Trainer(TrainingLoop[Batch]):
    """Trains ``model`` on the batches of ``samplers``, which take turns. Their clips may differ in size."""

    def __init__(self, model: Sam2Model, samplers: Sequence[Sampler], schedule: Schedule, folder: Path) -> None:
        self.samplers, self.schedule = samplers, schedule
        self.rng = np.random.default_rng()  # of the step

        super().__init__(model, parameter_groups(model, schedule), schedule.loop(), folder)

    def batches(self, first: int) -> Iterator[Sequence[Batch]]:
        for step in count(first):
            sampler = self.samplers[step % len(self.samplers)]
            sampler.begin(step)
            self.rng = sampler.rng
            phase = self.schedule.phase(min(step, self.schedule.steps - 1))
            yield [sampler.batch(phase.clips, phase.length, phase.lead)]

    def losses(self, part: Batch) -> dict[str, Tensor]:
        # A wrong score stores masks of absent objects. The network must cope with that on the other frames.
        told = [torch.where(self._chance(len(seen)) < self.schedule.told, seen, BARELY) for seen in part.seen]
        return clip_loss(self.model.at(part.targets[0].shape[-1]), part, self._disturb, told, self.schedule.certainty)

    def _chance(self, count: int) -> Tensor:
        return torch.from_numpy(self.rng.random(count))

    def _disturb(self, logits: Tensor) -> Tensor:
        # The generator that drew the batch, so that the disturbance depends only on the step.
        return disturb_masks(logits, self.rng, self.schedule.disturbed)
