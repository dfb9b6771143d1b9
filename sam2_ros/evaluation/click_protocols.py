"""A simulated user who clicks: on several frames of a video (offline, online), or on one frame until it is good (NoC).

Source: SAM 2 (Ravi et al., 2024), promptable video segmentation. The user clicks on up to 8 frames, the first frame of
the object among them, three times on each. Each click is where the mask is most wrong.

- *offline*: each pass tracks the whole video with all clicks so far. Then the user clicks on the frame of least
  intersection over union.
- *online*: there is one pass. The user clicks on each frame whose intersection over union is below 0.75.

J and F are reported for every number of clicked frames, over all labelled frames from the object's first on. Each
object is tracked alone. In our stream a click acts on its frame and those after it, never on those before. So offline
numbers differ from those of an engine that also propagates backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import dropwhile

import numpy as np

from sam2_ros.evaluation.clicks import correction
from sam2_ros.evaluation.mask_metrics import Mask, jaccard
from sam2_ros.evaluation.results import Row, SequenceResult, mean
from sam2_ros.evaluation.semi_supervised import FrameMasks, click, labels_for, make_row
from sam2_ros.evaluation.sequences import LabelledSequence
from sam2_ros.evaluation.worst import BadFrame, WorstFrames, draw_failure
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.clip_tracker import ClipTracker
from sam2_ros.media.errors import UserError
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking.types import ObjectResult

ONLINE_THRESHOLD = 0.75  # intersection over union
Click = tuple[np.ndarray, int]


@dataclass
class _Pass:
    """One pass over the video for one object."""

    rows: list[Row] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    clicks: dict[int, list[Click]] = field(default_factory=dict)  # by frame

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.j is not None]

    def scores(self) -> tuple[float, float]:
        return mean(row.j for row in self.measured), mean(row.f for row in self.measured)

    def worst(self) -> int | None:
        """The frame of least J without clicks; None if nothing is wrong on those."""
        left = [row for row in self.measured if row.frame not in self.clicks and row.j is not None and row.j < 1]
        return min(left, key=lambda row: (row.j or 0.0, row.frame)).frame if left else None


def run_interactive(
    sequence: LabelledSequence,
    backend: Backend,
    online: bool,
    interactions: int,
    clicks: int,
    tick: Callable[[], object] | None = None,
    worst: WorstFrames | None = None,
) -> SequenceResult:
    """Runs the protocol for every object of ``sequence``; the rows are those of each object's last pass.

    ``extra["interactive"]`` holds for each object J and F by the number of clicked frames, these frames in the order in
    which they were chosen, and the clicks ``[x, y, label]`` on each.

    Args:
        backend: an engine without objects, with as many prompted slots as ``interactions``.
        interactions: frames with clicks at most, the first one included.
        clicks: on each of these frames at most; fewer if nothing is wrong any more.
        tick: called for each frame.
        worst: keeps the worst frames of each object's last pass.
    """
    if sequence.prompts_only:
        raise UserError(
            f"sequence '{sequence.name}': labels on first frames alone; accepted: labels on later frames too"
        )
    rows: list[Row] = []
    seconds: list[float] = []
    size = (0, 0)
    curves = {}
    for object_id, first in sorted(sequence.first_frames.items()):
        j, f = [], []
        done = _Pass()
        order: list[int] = []  # of the clicked frames
        new: int | None = first
        for budget in range(1, interactions + 1):
            earlier = {} if online else done.clicks
            limit = budget if online else 0
            pass_worst = None if worst is None else worst.empty()
            done = _stream(sequence, backend, object_id, first, earlier, new, limit, clicks, tick, pass_worst)
            order += sorted(done.clicks.keys() - set(order))
            scores = done.scores()
            j.append(scores[0])
            f.append(scores[1])
            new = first if online else done.worst()
            if new is None or (online and len(done.clicks) < budget):
                break  # more would change nothing
        if worst is not None and pass_worst is not None:
            worst.take(*pass_worst.frames)
        rows += [replace(row, scored=row.j is not None) for row in done.rows]
        seconds += done.seconds
        size = done.size
        rest = interactions - len(j)
        made = {frame: [[*map(float, point), label] for point, label in done.clicks[frame]] for frame in order}
        curves[str(object_id)] = {"j": j + j[-1:] * rest, "f": f + f[-1:] * rest, "frames": list(made), "clicks": made}
    rows.sort(key=lambda row: (row.frame, row.object))
    extra = {"interactive": curves}
    return SequenceResult(sequence.name, *size, len(sequence), tuple(rows), tuple(seconds), extra)


def _stream(
    sequence: LabelledSequence,
    backend: Backend,
    object_id: int,
    first: int,
    earlier: dict[int, list[Click]],
    new: int | None,
    limit: int,
    clicks: int,
    tick: Callable[[], object] | None,
    worst: WorstFrames | None,
) -> _Pass:
    """Tracks object ``object_id`` from its ``first`` frame on.

    On the frames of ``earlier`` it repeats the clicks of earlier passes. It makes new clicks on frame ``new`` and on
    each frame below the threshold, while fewer than ``limit`` frames have clicks.
    """
    done = _Pass(clicks={})
    tracker = ClipTracker(backend, [])
    try:
        for tracked in tracker.run(dropwhile(lambda frame: frame.index < first, sequence)):
            index, result = tracked.frame.index, tracked.result
            done.size = (result.width, result.height)
            truth = labels_for(sequence, index, done.size)
            obj = result.objects[0] if result.objects else None
            low = object_id in truth and jaccard(_mask(obj, truth[object_id]), truth[object_id]) < ONLINE_THRESHOLD
            if index in earlier:
                for position, label in earlier[index]:
                    obj = tracker.correct([FramePrompt(index, object_id, click(position, label))]).objects[0]
                done.clicks[index] = earlier[index]
            elif index == new or (low and len(done.clicks) < limit):
                obj, done.clicks[index] = _interact(tracker, object_id, index, obj, truth[object_id], clicks)
            else:
                done.seconds.append(tracked.seconds)
            assert obj is not None, "the first frame has clicks"
            own = {object_id: obj.mask.full()}
            done.rows.append(make_row(object_id, index, tracked.frame.name, obj, own, truth))
            if worst:
                worst(FrameMasks(index, tracked.frame.name, tracked.frame.rgb, own, truth, (done.rows[-1],)))
            if tick:
                tick()
    finally:
        backend.reset()
        backend.take_changes()
    return done


def _interact(
    tracker: ClipTracker, object_id: int, frame: int, obj: ObjectResult | None, truth: Mask, count: int
) -> tuple[ObjectResult | None, list[Click]]:
    """Up to ``count`` clicks on the newest frame, each where the mask is most wrong."""
    given: list[Click] = []
    while len(given) < count and (wrong := correction(_mask(obj, truth), truth)) is not None:
        obj = tracker.correct([FramePrompt(frame, object_id, click(*wrong))]).objects[0]
        given.append(wrong)
    return obj, given


def _mask(obj: ObjectResult | None, like: Mask) -> Mask:
    return np.zeros_like(like) if obj is None else obj.mask.full()


def run_noc(
    sequence: LabelledSequence,
    backend: Backend,
    target: float,
    most: int,
    tick: Callable[[], object] | None = None,
    worst: WorstFrames | None = None,
) -> SequenceResult:
    """Clicks on each object's first labelled frame until its intersection over union reaches ``target``.

    This is NoC@85 and NoC@90 of interactive image segmentation. ``extra["noc"]`` holds for each object the intersection
    over union after each of at most ``most`` clicks. ``worst`` keeps objects that are bad after the last click.
    """
    first = sequence.first_frames
    curves: dict[str, list[float]] = {}
    size = (0, 0)
    last = max(first.values(), default=-1)
    for frame in sequence:
        begun = sorted(object_id for object_id, index in first.items() if index == frame.index)
        for object_id in begun:
            tracker = ClipTracker(backend, [])
            try:
                result = next(iter(tracker.run([frame]))).result
                size = (result.width, result.height)
                truth = labels_for(sequence, frame.index, size)[object_id]
                mask, curves[str(object_id)] = _click_until(tracker, object_id, frame.index, truth, target, most)
                if worst and curves[str(object_id)]:
                    picture = draw_failure(frame.rgb, mask, truth, object_id)
                    worst.take(BadFrame(curves[str(object_id)][-1], frame.index, object_id, picture))
            finally:
                backend.reset()
                backend.take_changes()
        if tick:
            tick()
        if frame.index == last:
            break
    return SequenceResult(sequence.name, *size, len(sequence), (), (), {"noc": curves})


def _click_until(
    tracker: ClipTracker, object_id: int, frame: int, truth: Mask, target: float, most: int
) -> tuple[Mask, list[float]]:
    """The last mask, and the intersection over union after each click."""
    mask = np.zeros_like(truth)
    reached: list[float] = []
    while len(reached) < most and (wrong := correction(mask, truth)) is not None:
        mask = tracker.correct([FramePrompt(frame, object_id, click(*wrong))]).objects[0].mask.full()
        reached.append(jaccard(mask, truth))
        if reached[-1] >= target:
            break
    return mask, reached


def clicks_needed(reached: list[float], target: float, most: int) -> int:
    """The number of clicks until ``target`` was reached; ``most`` if it never was."""
    return next((count for count, value in enumerate(reached, start=1) if value >= target), most)
