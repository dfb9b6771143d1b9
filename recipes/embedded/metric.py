"""Trains the metric by which objects are recognised (:class:`~sam2_ros.model.appearance.Appearance`).

One frame shows an object. For every cell of other frames of the clip, the metric learns whether it shows the object.
The features are those of a frozen encoder (:class:`~recipes.embedded.features.FeatureStore`), so a step takes less than
a second on a CPU. :mod:`recipes.embedded.judge` fits the judgement of masks afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.embedded.features import CHANNELS, FeatureStore
from sam2_ros.model.appearance import Appearance
from sam2_ros.model.network import BINS, EVIDENCE, Reference
from sam2_ros.model.sam2 import Sam2Model

SHOWN = 0.5  # a cell shows the object from this coverage on
HIDDEN = 0.05  # and does not up to this one; cells between do not count
GOOD = 0.6  # a reference frame needs a cell of at least this coverage
FRAMES = 3  # searched in a step, for each object
OBJECTS = 6  # in a step
HARDEST = 0.03  # share of the cells whose wrong matches count a second time
HARDEST_WEIGHT = 0.25


@dataclass(frozen=True)
class Question:
    """One object of a clip: a reference frame and frames to search. Maps at stride 8 and 16."""

    stride_8: Tensor  # [1 + FRAMES, C, 2h, 2w]; the reference frame first
    stride_16: Tensor  # [1 + FRAMES, C, h, w]
    coverage: Tensor  # [1 + FRAMES, hw]


@lru_cache(maxsize=4096)
def coverages(store: FeatureStore, number: int) -> list[NDArray[np.float32]]:
    """For each object of a clip, the covered share of each cell of stride 16, ``[T, hw]``."""
    clip, side = store.clips[number], store.size // 16
    found: dict[int, NDArray[np.float32]] = {}
    # Frame by frame: whole clips of masks between small arrays that stay allocated would fragment the heap.
    for t in range(clip.length):
        labels = torch.from_numpy(store.label(clip.start + t))
        for value in labels.unique().tolist():
            if value:
                cells = F.adaptive_avg_pool2d((labels == value).float()[None], side).flatten()
                found.setdefault(value, np.zeros((clip.length, side**2), np.float32))[t] = cells.numpy()
    return [found[value] for value in sorted(found)]


def draw(store: FeatureStore, rng: np.random.Generator) -> Question | None:
    """An object of a random clip; None if the clip shows none well enough."""
    number = int(rng.integers(len(store.clips)))
    clip, objects = store.clips[number], coverages(store, number)
    if not objects:
        return None
    coverage = objects[int(rng.integers(len(objects)))]
    areas = coverage.sum(axis=1)
    enough = areas >= 0.5 * float(np.median(areas[areas > 0], axis=0)) if areas.any() else areas > 0
    good = np.flatnonzero(enough & (coverage.max(axis=1) > GOOD))
    if not len(good):
        return None
    # The tracker gets the first good frame; other frames give the metric more variety.
    reference = int(good[0]) if rng.random() < 0.5 else int(rng.choice(good))
    asked = rng.choice(clip.length, size=min(FRAMES, clip.length), replace=False)
    frames = [reference, *asked.tolist()]
    maps = [store.coarse(clip.start + t) for t in frames]
    stride_8, stride_16 = (torch.cat(level) for level in zip(*maps, strict=True))
    return Question(stride_8, stride_16, torch.from_numpy(coverage[frames]))


def loss_of(appearance: Appearance, question: Question) -> Tensor:
    """Mean cross-entropy of the object's cells, of the others, and once more of the hardest others."""
    tokens = appearance.embed(question.stride_8, question.stride_16)
    reference = Reference(tokens[:1], question.coverage[:1], torch.zeros(1, 1, BINS**2 + BINS))
    logits = appearance.match(tokens[1:], reference).logits.flatten()
    coverage = question.coverage[1:].flatten()
    shown, hidden = (coverage > SHOWN).float(), (coverage < HIDDEN).float()
    each = F.binary_cross_entropy_with_logits(logits, shown, reduction="none")
    wrong = (each * hidden).topk(max(1, int(HARDEST * len(each)))).values.mean()
    own = (each * shown).sum() / shown.sum().clamp(min=8)
    others = (each * hidden).sum() / hidden.sum().clamp(min=1)
    return 0.5 * own + others + HARDEST_WEIGHT * wrong


@torch.no_grad()
def standardise(appearance: Appearance, samples: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Sets the metric's normalisation to the channels' mean and deviation in ``samples`` (maps of both strides)."""
    cells = torch.cat(
        [torch.cat((s16, F.avg_pool2d(s8, 2)), dim=1).flatten(2).transpose(1, 2).flatten(0, 1) for s8, s16 in samples]
    )
    appearance.mean.copy_(cells.mean(dim=0))
    appearance.spread.copy_(cells.std(dim=0) + 1e-4)


def train(
    stores: Mapping[str, FeatureStore],
    shares: Mapping[str, float],
    steps: int,
    seed: int,
    hidden: int,
    dim: int,
    save: Path | None = None,
    rate: float = 1e-3,
) -> Appearance:
    """Trains a metric.

    Args:
        stores: clips by name; objects are drawn from them in the proportion of ``shares``.
        steps: of ``OBJECTS`` objects each.
        seed: of all random numbers.
        hidden, dim: its sizes.
        save: file for its weights, written every 200 steps.
        rate: the learning rate.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names = list(shares)
    weights = np.array([shares[name] for name in names]) / sum(shares.values())
    appearance = Appearance(CHANNELS[1], CHANNELS[2], hidden, dim)
    samples = [store.coarse(int(i)) for store in stores.values() for i in rng.integers(store.count, size=24)]
    standardise(appearance, samples)
    metric = [*appearance.layers.parameters(), appearance.sharpness, appearance.gain, appearance.offset]
    optimizer = torch.optim.AdamW(metric, lr=rate, weight_decay=0.05)
    losses: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (0.52 + 0.5 * float(np.cos(np.pi * step / steps)))
        optimizer.zero_grad()
        for _ in range(OBJECTS):
            question = draw(stores[names[int(rng.choice(len(names), p=weights))]], rng)
            if question is not None:
                loss = loss_of(appearance, question) / OBJECTS
                loss.backward()
                losses.append(float(loss.detach()) * OBJECTS)
        nn.utils.clip_grad_norm_(metric, 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: loss {np.mean(losses[-50 * OBJECTS :]):.4f}", flush=True)
        if save is not None and step % 200 == 199:
            torch.save(appearance.state_dict(), save)
    return appearance


@torch.no_grad()
def begin(appearance: Appearance) -> None:
    """Sets a first judgement: a mask is right if its cells match."""
    for layer, offset in ((appearance.tracked, 0.0), (appearance.found, -2.0)):
        layer.weight.zero_()
        layer.weight[0, EVIDENCE.index("match within")] = 1.0
        layer.bias.fill_(offset)


def with_appearance(model: Sam2Model, appearance: Appearance) -> Sam2Model:
    """A copy of ``model`` with this metric."""
    first, last = appearance.layers[0], appearance.layers[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    config = replace(model.config, appearance_hidden=first.out_features, appearance_dim=last.out_features)
    able = Sam2Model(config)
    added = {f"appearance.{name}": value for name, value in appearance.state_dict().items()}
    able.load_state_dict({**{k: v for k, v in model.state_dict().items() if not k.startswith("appearance.")}, **added})
    return able.eval().requires_grad_(False)
