"""Input sizes: what each costs, and how far the masks of one agree with those of another and with the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from sam2_ros.bench import weights
from sam2_ros.media.rendered_scene import bounding_box, render
from sam2_ros.tracking import AddRequest, Prompt, Tracker, TrackerConfig
from sam2_ros.tracking.types import BoolMask


def run(
    model: str,
    sizes: Sequence[int],
    device: str,
    dtype: str,
    frames: int = 48,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Tracks the two objects of the rendered scene at every size.

    Returns:
        For each size the median ms a frame and the mean J (intersection over union) with the truth over the frames on
        which an object is in sight; for each pair of sizes the mean J of their masks. None where the weights are drawn,
        since their masks mean nothing.
    """
    scene = list(render(frames))
    masks: dict[int, list[dict[int, BoolMask]]] = {}
    rows: list[dict[str, Any]] = []
    origin = ""
    for size in sizes:
        tell(f"{model} at {size}: masks of {frames} frames")
        loaded = weights.find(model, size, device)
        origin = loaded.origin
        tracker = Tracker(loaded.model, TrackerConfig(max_objects=2, history=0), dtype)
        taken, tracked = [], []
        for index, frame in enumerate(scene):
            start = time.perf_counter()
            result = tracker.step(frame.rgb, index)
            taken.append(1e3 * (time.perf_counter() - start))
            if index == 0:
                boxes = [np.array(bounding_box(frame.masks[number]), np.float32) for number in (1, 2)]
                tracker.add([AddRequest(Prompt(box=box)) for box in boxes])
                result = tracker.objects() or result
            tracked.append({one.object_id: one.mask.full() for one in result.objects})
        masks[size] = tracked
        rows.append({"image_size": size, "ms": round(float(np.median(taken[frames // 2 :])), 1)})
    told = origin == weights.CHECKPOINT
    for row in rows:
        row["j_with_truth"] = _agreement([frame.masks for frame in scene], masks[row["image_size"]]) if told else None
    pairs = [
        {"sizes": [a, b], "j": _agreement(masks[a], masks[b]) if told else None} for a, b in combinations(sizes, 2)
    ]
    return {"model": model, "weights": origin, "dtype": dtype, "frames": frames, "sizes": rows, "agreement": pairs}


def _agreement(first: Sequence[dict[int, BoolMask]], second: Sequence[dict[int, BoolMask]]) -> float:
    """Mean J over objects and frames but the prompted one; where ``first`` has no pixel, the frame does not count."""
    values = []
    for a, b in zip(first[1:], second[1:], strict=True):
        for number in a:
            if a[number].any():
                union = (a[number] | b[number]).sum()
                values.append(float((a[number] & b[number]).sum() / union))
    return round(float(np.mean(values)), 4)
