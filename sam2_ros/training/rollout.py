"""The memory of a clip that runs through the network as in the streaming engine, with gradients.

``B`` is the number of objects: one of each of ``B`` clips, or ``B`` of one clip, which then share its features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.network import MASK_BIAS, MASK_SCALE, DecodedMasks, ImageFeatures
from sam2_ros.model.sam2 import Sam2Model

RECENT = 6  # frames


@dataclass(frozen=True)
class FramePrompt:
    """The prompt of a frame: a mask, or points (box corners are points of label 2 and 3)."""

    mask: Tensor | None = None  # [B, 1, S, S] binary
    points: Tensor | None = None  # [B, N, 2]
    labels: Tensor | None = None  # [B, N]

    @property
    def ambiguous(self) -> bool:
        """A single click, which may mean any of the candidates."""
        return self.labels is not None and self.labels.shape[1] == 1


@dataclass(frozen=True)
class FrameOutput:
    """The network's answer on one frame."""

    decoded: DecodedMasks | None  # None for a mask prompt
    logits: Tensor  # [B, 1, 4h, 4w] of the chosen mask, with the no-object switch applied
    multimask: bool


class Recall(NamedTuple):
    """The memory for the next frame: arguments of :meth:`Sam2Model.with_memory`."""

    tokens: Tensor  # [B, K, memory_dim]
    codes: Tensor  # [B, K, memory_dim]
    num_pointers: int  # tokens at the end
    mask: Tensor | None  # [B, K] bool, False for missing tokens; None: all are present


class Memory:
    """Stores the memory of every frame, and selects the part for the next frame as the tracker's bank does.

    Every prompted frame is selected at any age, with the temporal code of prompted frames. Of the others, the last
    six frames are selected (SAM 2 paper, section 4). With :attr:`ModelConfig.memory_waits`, a frame without the object
    does not count for it: it is not selected, and the ages of the others do not rise.
    """

    def __init__(self, model: Sam2Model) -> None:
        self.model = model
        self.maps: list[Tensor] = []  # [B, n, memory_dim] by frame
        self.pointers: list[Tensor] = []  # [B, C] by frame
        self.prompted: list[bool] = []  # by frame; the first is
        self.stored: list[Tensor] = []  # [B] bool by frame: whether it counts for the object

    def add(self, memory: Tensor, pointer: Tensor, prompted: bool, present: Tensor) -> None:
        """Stores the next frame; ``present`` ``[B]`` says whether it shows the object."""
        self.maps.append(memory)
        self.pointers.append(pointer)
        self.prompted.append(prompted)
        always = prompted or not self.model.config.memory_waits
        self.stored.append(torch.ones_like(present) if always else present)

    def recall(self) -> Recall:
        """The memory of prompted frames, of recent frames from the oldest on, and the pointers of both."""
        model, count = self.model, len(self.maps)
        device = self.pointers[0].device
        stored = torch.stack(self.stored, dim=1)  # [B, T]
        batch = torch.arange(len(stored), device=device)
        ages = stored.sum(dim=1, keepdim=True) - stored.cumsum(dim=1) + 1  # [B, T] of stored frames; the newest has 1
        numbers = torch.where(stored, torch.arange(count, device=device), -1)
        by_age = numbers.argsort(dim=1, descending=True, stable=True)
        prompted = torch.tensor(self.prompted, device=device)
        first = [t for t in range(count) if self.prompted[t]]
        limit = model.config.max_pointers - 1
        recent: dict[int, tuple[Tensor, Tensor]] = {}  # by age: frame [B], and whether it counts [B]
        for age in range(1, min(count, limit) + 1):
            frame = by_age[:, age - 1]
            counts = stored[batch, frame] & ~prompted[frame]
            if bool(counts.any()):
                recent[age] = (frame, counts)
        near = [age for age in sorted(recent, reverse=True) if age <= RECENT]

        code, rows = model.memory_code, model.maskmem_tpos_enc[:, 0, 0]
        everywhere = torch.ones(len(stored), dtype=torch.bool, device=device)
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

        mask = torch.stack(counted, dim=1).repeat_interleave(len(code), dim=1)
        mask = torch.cat((mask, torch.stack(pointer_counted, dim=1).repeat_interleave(parts, dim=1)), dim=1)
        positions = torch.cat(codes)[None].expand(len(stored), -1, -1)
        return Recall(
            torch.cat((*tokens, pointer_tokens), dim=1),
            torch.cat((positions, pointer_codes.repeat_interleave(parts, dim=1)), dim=1),
            pointer_tokens.shape[1],
            None if bool(mask.all()) else mask,
        )


def prompt_with_mask(model: Sam2Model, memory: Memory, features: ImageFeatures, mask: Tensor) -> FrameOutput:
    """Stores the memory of a frame that is prompted by binary masks ``[B, 1, S, S]``."""
    size = model.config.image_size
    present = mask.flatten(1).any(dim=1)
    low = F.interpolate(mask * MASK_SCALE + MASK_BIAS, scale_factor=0.25, mode="bilinear", antialias=True)
    # The tracker stores the mask in the decoder's resolution, too.
    full = F.interpolate(low, (size, size), mode="bilinear", align_corners=False)
    encoded = model.encode_memory(features, full, present, torch.ones_like(present))
    memory.add(encoded, model.mask_pointer(features, mask), True, present)
    return FrameOutput(None, low, False)
