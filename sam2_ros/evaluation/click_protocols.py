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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import dropwhile, islice

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

    def worst(self) -> int | None:
        """The frame of least J without clicks; None if nothing is wrong on those."""
        left = [(row.j, row.frame) for row in self.rows if row.frame not in self.clicks and row.j is not None]
        j, frame = min(left, default=(1.0, 0))
        return frame if j < 1 else None


def run_interactive(
    sequence: LabelledSequence,
    backend: Backend,
    online: bool,
    interactions: int,
    clicks: int,
    tick: Callable[[], object] = lambda: None,
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
    worst = worst or WorstFrames(0)
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
            pass_worst = worst.empty()
            done = _stream(sequence, backend, object_id, first, earlier, new, limit, clicks, tick, pass_worst)
            order += sorted(done.clicks.keys() - set(order))
            j.append(mean(row.j for row in done.rows))
            f.append(mean(row.f for row in done.rows))
            new = first if online else done.worst()
            if new is None or (online and len(done.clicks) < budget):
                break  # more would change nothing
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
    tick: Callable[[], object],
    worst: WorstFrames,
) -> _Pass:
    """Tracks object ``object_id`` from its ``first`` frame on.

    On the frames of ``earlier`` it repeats the clicks of earlier passes. It makes new clicks on frame ``new`` and on
    each frame below the threshold, while fewer than ``limit`` frames have clicks.
    """
    done = _Pass()
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
                made = list(islice(_correct(tracker, object_id, index, obj, truth[object_id]), clicks))
                done.clicks[index] = [given for given, _ in made]
                obj = made[-1][1] if made else obj
            else:
                done.seconds.append(tracked.seconds)
            assert obj is not None, "the first frame has clicks"
            own = {object_id: obj.mask.full()}
            done.rows.append(make_row(object_id, index, tracked.frame.name, obj, own, truth))
            worst(FrameMasks(index, tracked.frame.name, tracked.frame.rgb, own, truth, (done.rows[-1],)))
            tick()
    finally:
        backend.reset()
        backend.take_changes()
    return done


def _correct(
    tracker: ClipTracker, object_id: int, frame: int, obj: ObjectResult | None, truth: Mask
) -> Iterator[tuple[Click, ObjectResult]]:
    """Clicks on the newest frame where the mask is most wrong, until nothing is; yields click and corrected object."""
    while (wrong := correction(_mask(obj, truth), truth)) is not None:
        obj = tracker.correct([FramePrompt(frame, object_id, click(*wrong))]).objects[0]
        yield wrong, obj


def _mask(obj: ObjectResult | None, like: Mask) -> Mask:
    return np.zeros_like(like) if obj is None else obj.mask.full()


def run_noc(
    sequence: LabelledSequence,
    backend: Backend,
    target: float,
    most: int,
    tick: Callable[[], object] = lambda: None,
    worst: WorstFrames | None = None,
) -> SequenceResult:
    """Clicks on each object's first labelled frame until its intersection over union reaches ``target``.

    This is NoC@85 and NoC@90 of interactive image segmentation. ``extra["noc"]`` holds for each object the intersection
    over union after each of at most ``most`` clicks. ``worst`` keeps objects that are bad after the last click.
    """
    worst = worst or WorstFrames(0)
    first = sequence.first_frames
    curves: dict[str, list[float]] = {}
    size = (0, 0)
    last = max(first.values(), default=-1)
    for frame in sequence:
        for object_id in sorted(object_id for object_id, index in first.items() if index == frame.index):
            tracker = ClipTracker(backend, [])
            try:
                result = next(iter(tracker.run([frame]))).result
                size = (result.width, result.height)
                truth = labels_for(sequence, frame.index, size)[object_id]
                reached = curves[str(object_id)] = []
                for _, obj in islice(_correct(tracker, object_id, frame.index, None, truth), most):
                    reached.append(jaccard(obj.mask.full(), truth))
                    if reached[-1] >= target:
                        break
                picture = draw_failure(frame.rgb, obj.mask.full(), truth, object_id)
                worst.take(BadFrame(reached[-1], frame.index, object_id, picture))
            finally:
                backend.reset()
                backend.take_changes()
        tick()
        if frame.index == last:
            break
    return SequenceResult(sequence.name, *size, len(sequence), (), (), {"noc": curves})


def clicks_needed(reached: list[float], target: float, most: int) -> int:
    """The number of clicks until ``target`` was reached; ``most`` if it never was."""
    return next((count for count, value in enumerate(reached, start=1) if value >= target), most)
