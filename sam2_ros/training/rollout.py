"""A clip run through the network as the streaming engine runs it, with gradients.

One object of each of ``B`` clips at once, or ``B`` objects of one clip, which then share its features. Frame 0 is
prompted; each later frame sees the memories of the prompted frames, those of up to six frames before it, and the
pointers. :mod:`sam2_ros.training.interactive` adds later prompts and corrections.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Recall:
    """What the next frame may look at, as :meth:`Sam2Model.with_memory` takes it."""

    tokens: Tensor  # [B, K, memory_dim]
    codes: Tensor  # [B, K, memory_dim]
    num_pointers: int  # tokens at the end
    mask: Tensor | None  # [B, K] bool, False where there is nothing; None: everywhere is something


class Memory:
    """What a roll-out remembers, frame by frame; which of it a frame looks at is as in the tracker's bank.

    Every prompted frame counts, whatever its age, with the temporal code of prompted frames; besides them those of the
    ``recent`` frames before now that were not prompted (SAM 2 paper, section 4). With a model whose memory waits
    (:attr:`ModelConfig.memory_waits`), a frame on which an object is not seen does not count for it, nor does its age
    rise meanwhile.
    """

    def __init__(self, model: Sam2Model, recent: int = 6) -> None:
        self.model = model
        self.recent = recent
        self.maps: list[Tensor] = []  # [B, n, memory_dim] by frame
        self.pointers: list[Tensor] = []  # [B, C] by frame
        self.prompted: list[bool] = []  # by frame; the first is
        self.kept: list[Tensor] = []  # [B] bool by frame

    def add(self, memory: Tensor, pointer: Tensor, prompted: bool, present: Tensor) -> None:
        """Remembers the next frame; ``present`` ``[B]`` is where the object was seen on it."""
        self.maps.append(memory)
        self.pointers.append(pointer)
        self.prompted.append(prompted)
        all_kept = prompted or not self.model.config.memory_waits
        self.kept.append(torch.ones_like(present) if all_kept else present)

    def recall(self) -> Recall:
        """Prompted frames first, then recent ones from the oldest on, then the pointers of both."""
        model, count = self.model, len(self.maps)
        device = self.pointers[0].device
        kept = torch.stack(self.kept, dim=1)  # [B, T]
        batch = torch.arange(len(kept), device=device)
        ages = kept.sum(dim=1, keepdim=True) - kept.cumsum(dim=1) + 1  # [B, T] of kept frames; the newest has 1
        by_age = torch.where(kept, torch.arange(count, device=device), -1).argsort(dim=1, descending=True, stable=True)
        prompted = torch.tensor(self.prompted, device=device)
        first = [t for t in range(count) if self.prompted[t]]
        limit = model.config.max_pointers - 1
        recent: dict[int, tuple[Tensor, Tensor]] = {}  # by age: frame [B], and whether it counts [B]
        for age in range(1, min(count, limit) + 1):
            frame = by_age[:, age - 1]
            counts = kept[batch, frame] & ~prompted[frame]
            if bool(counts.any()):
                recent[age] = (frame, counts)
        near = [age for age in sorted(recent, reverse=True) if age <= self.recent]

        code, rows = model.memory_code, model.maskmem_tpos_enc[:, 0, 0]
        everywhere = torch.ones(len(kept), dtype=torch.bool, device=device)
        maps, pointers = torch.stack(self.maps, dim=1), torch.stack(self.pointers, dim=1)
        tokens = [maps[:, t] for t in first] + [maps[batch, recent[age][0]] for age in near]
        codes = [code + rows[-1]] * len(first) + [code + rows[age - 1] for age in near]
        counted = [everywhere] * len(first) + [recent[age][1] for age in near]

        parts = model.config.hidden_dim // model.config.memory_dim
        chosen = [pointers[:, t] for t in first] + [pointers[batch, recent[age][0]] for age in recent]
        pointer_tokens = torch.stack(chosen, dim=1).unflatten(2, (parts, -1)).flatten(1, 2)
        pointer_ages = [ages[:, t] for t in first] + [torch.full_like(ages[:, 0], age) for age in recent]
        pointer_codes = model.pointer_code(torch.stack(pointer_ages, dim=1).clamp(max=limit))
        pointer_counted = [everywhere] * len(first) + [recent[age][1] for age in recent]

        area = len(code)
        mask = torch.stack(counted, dim=1).repeat_interleave(area, dim=1)
        mask = torch.cat((mask, torch.stack(pointer_counted, dim=1).repeat_interleave(parts, dim=1)), dim=1)
        positions = torch.cat(codes)[None].expand(len(kept), -1, -1)
        return Recall(
            torch.cat((*tokens, pointer_tokens), dim=1),
            torch.cat((positions, pointer_codes.repeat_interleave(parts, dim=1)), dim=1),
            pointer_tokens.shape[1],
            None if bool(mask.all()) else mask,
        )


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
        memory.add(model.encode_memory(features, full, present, torch.ones_like(present)), pointer, True, present)
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
    memory.add(encoded, model.pointer(chosen.token, present), True, present)
    return FrameOutput(decoded, logits, prompt.ambiguous)
