"""A clip run through the network as the streaming engine runs it, with gradients.

One object of each of ``B`` clips at once, or ``B`` objects of one clip, which then share its features. Frame 0 is
prompted; each later frame sees the memories of the prompted frames, those of up to six frames before it, and the
pointers. :mod:`sam2_ros.training.interactive` adds later prompts and corrections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.mask_decoder import DecodedMasks, choose
from sam2_ros.model.sam2 import ABSENT_LOGIT, MASK_BIAS, MASK_SCALE, ImageFeatures, Sam2Model


@dataclass(frozen=True)
class FramePrompt:
    """The prompt of a frame: a mask, or points (box corners are points of label 2 and 3)."""

    mask: Tensor | None = None  # [B, 1, S, S] binary
    points: Tensor | None = None  # [B, N, 2]
    labels: Tensor | None = None  # [B, N]

    @property
    def ambiguous(self) -> bool:
        """A single click: the candidates are meant."""
        return self.labels is not None and self.labels.shape[1] == 1


@dataclass(frozen=True)
class FrameOutput:
    """What the network said of one frame."""

    decoded: DecodedMasks | None  # None where a mask was given
    logits: Tensor  # [B, 1, 4h, 4w] of the chosen mask, with the no-object switch applied
    multimask: bool


class Memory:
    """What a roll-out remembers, frame by frame; which of it a frame looks at is as in the tracker's bank.

    Every prompted frame counts, whatever its age, with the temporal code of prompted frames; besides them those of the
    ``recent`` frames before now that were not prompted (SAM 2 paper, section 4).
    """

    def __init__(self, model: Sam2Model, recent: int = 6) -> None:
        self.model = model
        self.recent = recent
        self.maps: list[Tensor] = []  # [B, n, memory_dim] by frame
        self.pointers: list[Tensor] = []  # [B, C] by frame
        self.prompted: list[bool] = []  # by frame; the first is

    def add(self, memory: Tensor, pointer: Tensor, prompted: bool) -> None:
        """Remembers the next frame."""
        self.maps.append(memory)
        self.pointers.append(pointer)
        self.prompted.append(prompted)

    def tokens(self) -> tuple[Tensor, Tensor, int]:
        """Memory ``[B, K, memory_dim]`` and code ``[1, K, memory_dim]`` for the next frame, and the number of pointer
        tokens at their end."""
        model, now = self.model, len(self.maps)
        code = model.memory_code
        rows = model.maskmem_tpos_enc[:, 0, 0]
        kept = [t for t in range(now) if self.prompted[t]]
        maps, codes = [self.maps[t] for t in kept], [code + rows[-1]] * len(kept)
        for age in range(min(self.recent, now), 0, -1):
            if not self.prompted[now - age]:
                maps.append(self.maps[now - age])
                codes.append(code + rows[age - 1])
        limit = model.config.max_pointers - 1
        ages = [now - t for t in kept]
        ages += [age for age in range(1, min(now, limit) + 1) if not self.prompted[now - age]]
        pointers = torch.stack([self.pointers[now - age] for age in ages], dim=1)
        parts = model.config.hidden_dim // model.config.memory_dim
        pointer_tokens = pointers.unflatten(2, (parts, -1)).flatten(1, 2)
        age_code = model.pointer_code(torch.tensor([min(age, limit) for age in ages], device=code.device))
        pointer_codes = age_code.repeat_interleave(parts, dim=0)
        memory = torch.cat((*maps, pointer_tokens), dim=1)
        positions = torch.cat((*codes, pointer_codes))[None]
        return memory, positions, pointer_tokens.shape[1]


def prompt_frame(
    model: Sam2Model, memory: Memory, features: ImageFeatures, prompt: FramePrompt, fallback: bool = False
) -> FrameOutput:
    """Runs the prompted frame and remembers it."""
    size = model.config.image_size
    if prompt.mask is not None:
        logits = prompt.mask * MASK_SCALE + MASK_BIAS
        present = prompt.mask.flatten(1).any(dim=1)
        low = F.interpolate(logits, scale_factor=0.25, mode="bilinear", antialias=True)
        # Remembered in the decoder's resolution, as the tracker does.
        full = F.interpolate(low, (size, size), mode="bilinear", align_corners=False)
        pointer = model.mask_pointer(features, prompt.mask)
        memory.add(model.encode_memory(features, full, present, torch.ones_like(present)), pointer, prompted=True)
        return FrameOutput(None, low, False)
    assert prompt.points is not None and prompt.labels is not None
    batch = len(prompt.points)
    image = model.without_memory(features).expand(batch, -1, -1, -1)
    decoded = model.decode(image, features, prompt.points, prompt.labels)
    chosen = choose(decoded, prompt.ambiguous, fallback)
    present = decoded.object_score[:, 0] > 0
    logits = torch.where(present[:, None, None, None], chosen.logits, ABSENT_LOGIT)
    full = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
    encoded = model.encode_memory(features, full, present, torch.ones_like(present))
    memory.add(encoded, model.pointer(chosen.token, present), prompted=True)
    return FrameOutput(decoded, logits, prompt.ambiguous)


def track_frame(
    model: Sam2Model,
    memory: Memory,
    features: ImageFeatures,
    remember: bool = True,
    disturb: Callable[[Tensor], Tensor] | None = None,
    told: Tensor | None = None,
) -> FrameOutput:
    """Runs one frame without a prompt.

    ``remember`` False saves the memory encoder on the last frame; ``disturb`` changes the mask logits
    ``[B, 1, S, S]`` that are remembered. ``told`` ``[B]`` says what is remembered of the object's presence: 1 seen, 0
    absent, negative what the object score says.
    """
    size = model.config.image_size
    tokens, positions, num_pointers = memory.tokens()
    conditioned = model.with_memory(features, tokens, positions, num_pointers, None)
    decoded = model.decode(conditioned, features, *model.no_prompt(len(tokens)))
    chosen = choose(decoded, True, False)
    present = decoded.object_score[:, 0] > 0
    if told is not None:
        present = torch.where(told < 0, present, told > 0)
    logits = torch.where(present[:, None, None, None], chosen.logits, ABSENT_LOGIT)
    if remember:
        full = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
        if disturb is not None:
            full = disturb(full)
        memory.add(model.encode_memory(features, full, present), model.pointer(chosen.token, present), prompted=False)
    return FrameOutput(decoded, logits, True)


def roll_out(
    model: Sam2Model,
    frames: Sequence[ImageFeatures],
    prompt: FramePrompt,
    disturb: Callable[[Tensor], Tensor] | None = None,
    told: Sequence[Tensor] | None = None,
) -> list[FrameOutput]:
    """All frames of ``B`` clips; ``disturb`` and, by frame, ``told`` as in :func:`track_frame`."""
    memory = Memory(model)
    outputs = [prompt_frame(model, memory, frames[0], prompt)]
    for t in range(1, len(frames)):
        known = None if told is None else told[t]
        outputs.append(track_frame(model, memory, frames[t], t + 1 < len(frames), disturb, known))
    return outputs
