"""How far masks computed in bfloat16 drift from those in float32, with and without the rearrangements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam2_ros.bench import weights
from sam2_ros.bench.ablation import VARIANTS
from sam2_ros.bench.scene import MovingScene, moving_scene
from sam2_ros.model import Sam2Model
from sam2_ros.tracking import AddRequest, Prompt, Tracker, TrackerConfig

OBJECTS = 2
Masks = NDArray[np.bool_]


@contextmanager
def plain_formulas(model: Sam2Model) -> Iterator[None]:
    """Every rearrangement of :data:`~sam2_ros.bench.ablation.VARIANTS` left out at once."""
    with ExitStack() as stack:
        for without in VARIANTS.values():
            stack.enter_context(without(model))
        yield


def run(
    model: str, image_size: int, device: str, frames: int = 24, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Follows two objects of the moving scene, each stream feeding on its own masks.

    Returns:
        ``rows``, one for each way to compute, compared with plain formulas in float32: the greatest and the mean
        difference of mask logits (before a frame's masks are scaled to the image) as shares of the reference's greatest
        one, and mean and least IoU of the masks, over objects and tracked frames.
    """
    loaded = weights.find(model, image_size, device)
    scene = moving_scene(OBJECTS)

    def tracked(dtype: str, rearranged: bool) -> Iterator[tuple[torch.Tensor, Masks]]:
        tell(f"{loaded.model.config.name}: {dtype}, {'rearranged' if rearranged else 'plain'}, {frames} frames")
        with ExitStack() as stack:
            if not rearranged:
                stack.enter_context(plain_formulas(loaded.model))
            yield from _stream(loaded.model, scene, dtype, frames)

    reference = list(tracked("float32", False))
    rows = [
        {"dtype": dtype, "rearranged": rearranged, **_difference(list(tracked(dtype, rearranged)), reference)}
        for dtype, rearranged in (("float32", True), ("bfloat16", False), ("bfloat16", True))
    ]
    return {
        "model": loaded.model.config.name,
        "weights": loaded.origin,
        "image_size": loaded.model.config.image_size,
        "objects": OBJECTS,
        "frames": frames,
        "rows": rows,
    }


def _stream(model: Sam2Model, scene: MovingScene, dtype: str, frames: int) -> Iterator[tuple[torch.Tensor, Masks]]:
    """Logits ``[objects, h, w]`` and masks ``[objects, H, W]`` of each tracked frame."""
    tracker = Tracker(model, TrackerConfig(max_objects=OBJECTS, lost_after=1_000_000, history=0), dtype)
    tracker.step(scene.frame(0), 1)
    tracker.add([AddRequest(Prompt(box=box)) for box in scene.boxes])
    for index in range(1, frames + 1):
        result = tracker.step(scene.frame(index), 1 + index)
        logits = [tracker.mask_logits(one.object_id) for one in result.objects]
        yield (
            torch.cat([each.cpu() for each in logits if each is not None]),
            np.stack([one.mask.full() for one in result.objects]),
        )


def _difference(
    found: Sequence[tuple[torch.Tensor, Masks]], reference: Sequence[tuple[torch.Tensor, Masks]]
) -> dict[str, float]:
    scale = max(float(logits.abs().max()) for logits, _ in reference)
    apart = [(a - b).abs() / scale for (a, _), (b, _) in zip(found, reference, strict=True)]
    ious = [
        float((one & other).sum() / max(1, (one | other).sum())) if (one | other).any() else 1.0
        for (_, a), (_, b) in zip(found, reference, strict=True)
        for one, other in zip(a, b, strict=True)
    ]
    return {
        "logit_max": float(f"{max(float(each.max()) for each in apart):.2e}"),
        "logit_mean": float(f"{np.mean([float(each.mean()) for each in apart]):.2e}"),
        "iou_mean": round(float(np.mean(ious)), 4),
        "iou_min": round(min(ious), 4),
    }
