"""Draws training batches from feature stores: a stretch of a clip, one object in it, and a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.embedded.features import FeatureStore
from sam2_ros.training.options import PROMPT_KINDS
from sam2_ros.training.rollout import FramePrompt
from sam2_ros.training.simulated_user import make_prompt

SEEN, ABSENT, BARELY = 1.0, 0.0, -1.0
SEEN_FROM = 0.05  # an object counts as seen from this share of its first area on; below, any answer is right
TRIES = 20  # to draw a clip in which the object is hidden
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """``T`` frames of ``B`` clips."""

    maps: list[tuple[Tensor, Tensor, Tensor]]  # per frame: strides 4, 8, 16, [B, C, H, W]
    targets: list[Tensor]  # per frame [B, 1, S, S] binary
    prompt: FramePrompt
    seen: list[Tensor]  # per frame [B]: SEEN, ABSENT or BARELY
    lead: int = 0  # number of frames after the first that only fill the memory


@dataclass(frozen=True)
class Source:
    """A store and how clips are drawn from it."""

    store: FeatureStore
    share: float  # of the clips of a batch
    max_stride: int  # frames between two neighbours of the drawn clip
    hiding: float = 0.0  # least share of its clips in which the object is hidden for a while, where such are found


def sighting(share: Tensor) -> Tensor:
    """``[B]`` SEEN, ABSENT or BARELY from the share of its first area that an object shows."""
    return torch.where(share == 0, ABSENT, torch.where(share < SEEN_FROM, BARELY, SEEN))


def disturb_masks(logits: Tensor, rng: np.random.Generator, share: float) -> Tensor:
    """Disturbs this share of the masks ``[B, 1, S, S]`` as tracking errors would.

    It cuts off a side, adds an ellipse, shrinks or grows the mask, or deletes it. So the network learns to recover from
    errors, without the cost of clips that are long enough for real ones.
    """
    disturbed = []
    size = logits.shape[-1]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for mask in logits:
        inside = torch.nonzero(mask[0] > 0)
        if rng.random() >= share or not len(inside):
            disturbed.append(mask)
            continue
        row, column = inside[int(rng.integers(len(inside)))].tolist()
        error = rng.choice(4, p=(0.35, 0.35, 0.2, 0.1))
        if error == 0:
            angle = rng.uniform(0, 2 * np.pi)
            beyond = (x - column) * np.cos(angle) + (y - row) * np.sin(angle) > 0
            disturbed.append(torch.where(beyond, mask.clamp(max=-8.0), mask))
        elif error == 1:
            cx, cy = rng.uniform(0, size, 2)
            rx, ry = rng.uniform(0.05, 0.25, 2) * size
            ellipse = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
            disturbed.append(torch.where(ellipse, mask.clamp(min=8.0), mask))
        elif error == 2:
            disturbed.append(mask + float(rng.uniform(-6, 6)))
        else:
            disturbed.append(torch.full_like(mask, -10.0))
    return torch.stack(disturbed)


class Sampler:
    """Endless random batches; those of a step depend only on the seed and the step (:meth:`begin`)."""

    def __init__(self, sources: Sequence[Source], seed: int, smallest: float = 0.002, largest: float = 0.6) -> None:
        self.sources = sources
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.smallest, self.largest = smallest, largest

    def begin(self, step: int) -> None:
        """Seeds the generator for ``step``, so that a resumed training sees the same batches."""
        self.rng = np.random.default_rng((self.seed, step))

    def _draw(self, length: int) -> tuple[FeatureStore, list[int], int]:
        """A store, frame indices in it, and an object that is visible in the first of them."""
        long = [[entry for entry in source.store.clips if entry.length >= length] for source in self.sources]
        shares = np.array([source.share * bool(entries) for source, entries in zip(self.sources, long, strict=True)])
        number = self.rng.choice(len(shares), p=shares / shares.sum())
        source, entries = self.sources[number], long[number]
        tries = TRIES if source.hiding and self.rng.random() < source.hiding else 0
        while True:
            tries -= 1
            entry = entries[self.rng.integers(len(entries))]
            stride = int(self.rng.integers(1, min(source.max_stride, (entry.length - 1) // (length - 1)) + 1))
            start = entry.start + int(self.rng.integers(entry.length - stride * (length - 1)))
            indices = [start + stride * t for t in range(length)]
            if self.rng.random() < 0.5:
                indices.reverse()
            first = source.store.label(indices[0])
            counts = np.bincount(first.ravel(), minlength=2)[1:] / first.size
            fitting = np.flatnonzero((counts >= self.smallest) & (counts <= self.largest)) + 1
            if not len(fitting):
                continue
            value = int(self.rng.choice(fitting))
            if tries < 0 or any(not (source.store.label(index) == value).any() for index in indices[1:]):
                return source.store, indices, value

    def batch(self, size: int, length: int, lead: int = 0) -> Batch:
        """``size`` clips of ``length`` frames, with up to ``lead`` more frames after the first one."""
        lead = int(self.rng.integers(lead + 1)) if lead else 0
        length += lead
        draws = [self._draw(length) for _ in range(size)]
        maps, targets = [], []
        first: list[Mask] = []
        for t in range(length):
            frames = [store[indices[t]] for store, indices, _ in draws]
            masks = [frame.labels == value for frame, (_, _, value) in zip(frames, draws, strict=True)]
            if t == 0:
                first = masks
            maps.append(
                (
                    torch.cat([frame.stride_4 for frame in frames]),
                    torch.cat([frame.stride_8 for frame in frames]),
                    torch.cat([frame.stride_16 for frame in frames]),
                )
            )
            targets.append(torch.from_numpy(np.stack(masks)[:, None]).float())
        kind = str(self.rng.choice(PROMPT_KINDS, p=(0.4, 0.35, 0.25)))
        area = targets[0].flatten(1).sum(dim=1)
        seen = [sighting(target.flatten(1).sum(dim=1) / area) for target in targets]
        return Batch(maps, targets, make_prompt(kind, first, self.rng), seen, lead)
