"""Streaming accuracy: for every camera image, the masks that a planner holds at its deadline.

After Li, Wang and Ramanan, "Towards Streaming Perception", ECCV 2020. Images that the engine never saw count like all
others; images before the first answer have empty masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sam2_ros.evaluation.mask_metrics import Mask
from sam2_ros.evaluation.results import Row, SequenceResult, mean
from sam2_ros.evaluation.scoring import mark_scored, measure
from sam2_ros.evaluation.semi_supervised import (
    FrameMasks,
    Observer,
    first_prompts,
    labels_for,
    make_row,
    predictions,
)
from sam2_ros.evaluation.sequences import LabelledSequence
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.clip_tracker import ClipTracker
from sam2_ros.inference.live_clip import LiveClip
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState

KINDS = ("no_latency", "network", "carried")


@dataclass(frozen=True)
class LiveRow:
    """One object on one camera image that counts."""

    object: int
    frame: int
    age: int | None  # images since the one that the network processed; None: no answer was out
    network_j: float
    network_f: float
    carried_j: float
    carried_f: float
    confidence: float


def run_live(
    sequence: LabelledSequence,
    backend: Backend,
    kind: str,
    rule: str,
    rate: float,
    latency: float | None,
    deadline: float | None,
    observer: Observer = lambda _: None,
) -> SequenceResult:
    """As :func:`~sam2_ros.evaluation.semi_supervised.run_sequence`, with images that come at ``rate`` a second.

    ``latency`` and ``deadline`` are those of :class:`~sam2_ros.inference.live_clip.LiveClip`. The result's rows hold
    the carried masks; ``extra["live"]`` compares them with the network's masks as they came.
    """
    tracker = ClipTracker(backend, first_prompts(sequence, kind))
    clip = LiveClip(tracker, rate, latency, deadline)
    overlapping = sequence.truth.overlapping
    rows: list[Row] = []
    lines: list[LiveRow] = []
    size, count = (0, 0), 0
    try:
        for live in clip.run(sequence):
            index, rgb = live.frame.index, live.frame.rgb
            size, count = (rgb.shape[1], rgb.shape[0]), index + 1
            truth = {} if sequence.prompts_only else labels_for(sequence, index, size)
            network = live.network.result if live.network else None
            age = index - live.network.frame.index if live.network else None
            carried = live.carried.result if live.carried else None
            prompted = [one for one, first in sequence.first_frames.items() if first <= index]
            as_it_came = _masks(network, tracker, overlapping, prompted, size)
            predicted = _masks(carried, tracker, overlapping, prompted, size)
            told = {tracker.file_id(obj.object_id): obj for obj in carried.objects} if carried else {}
            confidence = {tracker.file_id(one): c for one, c in live.carried.confidence.items()} if live.carried else {}
            new = tuple(
                make_row(one, index, live.frame.name, told.get(one, _unknown(size)), predicted, truth)
                for one in prompted
            )
            rows.extend(new)
            for row in new:
                if row.j is not None and row.f is not None:
                    stale = measure(row.object, as_it_came[row.object], truth)
                    trust = confidence.get(row.object, 0.0)
                    lines.append(LiveRow(row.object, index, age, stale.j, stale.f, row.j, row.f, trust))
            observer(FrameMasks(index, live.frame.name, rgb, predicted, truth, new))
        answered = _answered(sequence, clip, tracker, overlapping)
    finally:
        backend.reset()
        backend.take_changes()
    scored = mark_scored(rows, sequence.truth, rule)
    counted = {(row.object, row.frame) for row in scored if row.scored}
    extra = {
        "rows": [asdict(line) for line in lines if (line.object, line.frame) in counted],
        "answered": [list(line) for line in answered if line[:2] in counted],
        "latency": mean(answer.ended - answer.begun for answer in clip.answers) if clip.answers else None,
    }
    seconds = tuple(answer.ended - answer.begun for answer in clip.answers) if latency is None else ()
    return SequenceResult(sequence.name, *size, count, scored, seconds, {"live": extra})


def _masks(
    result: FrameResult | None, tracker: ClipTracker, overlapping: bool, objects: Sequence[int], size: tuple[int, int]
) -> dict[int, Mask]:
    """The masks of ``objects``; empty ones where there is no result."""
    empty = CroppedMask.empty(*size).full()
    found = predictions(result, tracker, overlapping) if result else {}
    return {one: found.get(one, empty) for one in objects}


def _unknown(size: tuple[int, int]) -> ObjectResult:
    """An object of which nothing was published yet."""
    return ObjectResult(0, CroppedMask.empty(*size), ObjectState.LOST, 0.0, 0.0, 0.0, False)


def _answered(
    sequence: LabelledSequence, clip: LiveClip, tracker: ClipTracker, overlapping: bool
) -> list[tuple[int, int, float, float]]:
    """Object, frame, J and F of the network's masks on the images that it worked on: what no latency would give."""
    lines = []
    for answer in clip.answers:
        result = answer.result
        truth = {} if sequence.prompts_only else labels_for(sequence, answer.frame.index, (result.width, result.height))
        for one, mask in predictions(result, tracker, overlapping).items():
            if one in truth:
                found = measure(one, mask, truth)
                lines.append((one, answer.frame.index, found.j, found.f))
    return lines


def live_summary(results: Sequence[SequenceResult]) -> dict[str, Any]:
    """Means over objects of J and F: without latency, of the network's newest mask, and of the carried one."""
    by_object: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    lines = [row for result in results for row in result.extra["live"]["rows"]]
    for result in results:
        live = result.extra["live"]
        for one in sorted({row["object"] for row in live["rows"]}):
            own = [row for row in live["rows"] if row["object"] == one]
            for kind in KINDS[1:]:
                by_object[kind].append((mean(row[f"{kind}_j"] for row in own), mean(row[f"{kind}_f"] for row in own)))
            answered = [line for line in live["answered"] if line[0] == one]
            if answered:
                by_object["no_latency"].append((mean(line[2] for line in answered), mean(line[3] for line in answered)))
    latencies = [result.extra["live"]["latency"] for result in results if result.extra["live"]["latency"] is not None]
    summary: dict[str, Any] = {
        "latency": mean(latencies) if latencies else None,
        "images": len(lines),
        "without_mask": mean(row["age"] is None for row in lines) if lines else None,
        "by_age": by_age(lines),
    }
    for kind, pairs in by_object.items():
        j, f = (mean(pair[n] for pair in pairs) if pairs else None for n in (0, 1))
        summary[kind] = {"j": j, "f": f, "jf": None if j is None or f is None else (j + f) / 2}
    return summary


def by_age(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """For each age of the network's newest mask, in images: how often, and mean J as it came and carried."""
    table = []
    for age in sorted({row["age"] for row in lines if row["age"] is not None}):
        own = [row for row in lines if row["age"] == age]
        table.append(
            {
                "age": age,
                "images": len(own),
                "network_j": mean(row["network_j"] for row in own),
                "carried_j": mean(row["carried_j"] for row in own),
            }
        )
    return table
