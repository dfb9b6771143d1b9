"""Semi-supervised video object segmentation: each object is prompted where it first appears, then tracked to the end.

Frames are read and masks composed as by ``sam2_ros track``, so the measured masks are those that it writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sam2_ros.evaluation.clicks import correction, deepest_point
from sam2_ros.evaluation.mask_metrics import Mask
from sam2_ros.evaluation.results import Row, SequenceResult
from sam2_ros.evaluation.scoring import mark_scored, measure
from sam2_ros.evaluation.sequences import LabelledSequence
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.clip_tracker import ClipTracker
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Rgb
from sam2_ros.media.label_images import compose_labels
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, Prompt

PROMPT_KINDS = ("mask", "box", "click")


@dataclass(frozen=True)
class FrameMasks:
    """What an observer gets of each frame: the measured predictions, and the labels if there are any."""

    index: int
    name: str
    rgb: Rgb
    predicted: dict[int, Mask]
    truth: dict[int, Mask]
    rows: tuple[Row, ...]


Observer = Callable[[FrameMasks], None]


def first_prompt(kind: str, mask: Mask) -> Prompt:
    """The prompt of this kind for a labelled object: its mask, its tight box, or a click on its deepest point."""
    if kind == "mask":
        return Prompt(mask=mask)
    if kind == "box":
        return Prompt(box=np.array(CroppedMask.from_full(mask).box, np.float32))
    if kind == "click":
        return click(deepest_point(mask), 1)
    raise ValueError(f"prompt kind '{kind}'; accepted: {', '.join(PROMPT_KINDS)}")


def first_prompts(sequence: LabelledSequence, kind: str) -> list[FramePrompt]:
    """For every object the prompt on the first frame that shows it."""
    first = sequence.first_frames
    labels = {frame: sequence.truth.masks(frame) for frame in set(first.values())}
    return [
        FramePrompt(frame, object_id, first_prompt(kind, labels[frame][object_id]))
        for object_id, frame in sorted(first.items())
    ]


def click(point: np.ndarray, label: int) -> Prompt:
    """One click as a prompt."""
    return Prompt(points=np.asarray(point, np.float32)[None], labels=np.array([label], np.int32))


def run_sequence(
    sequence: LabelledSequence, backend: Backend, kind: str, clicks: int, rule: str, observer: Observer = lambda _: None
) -> SequenceResult:
    """Tracks every object of ``sequence`` from its first labelled frame on, and measures every labelled frame.

    Args:
        backend: an engine without objects, with room for those of the sequence; it is left without objects.
        kind: "mask", "box" or "click".
        clicks: with "click", on the first frame of an object; each after the first corrects the last mask.
        rule: which frames count, see :mod:`sam2_ros.evaluation.scoring`.
        observer: called with each frame.
    """
    first = sequence.first_frames
    tracker = ClipTracker(backend, first_prompts(sequence, kind))
    rows: list[Row] = []
    seconds: list[float] = []
    size, count = (0, 0), 0
    try:
        for tracked in tracker.run(sequence):
            result, index = tracked.result, tracked.frame.index
            size, count = (result.width, result.height), index + 1
            begun = [object_id for object_id, frame in first.items() if frame == index]
            if begun and kind == "click":
                labels = sequence.truth.masks(index)
                new_labels = {object_id: labels[object_id] for object_id in begun}
                result = _correct(tracker, result, new_labels, index, clicks)
            elif not begun and result.objects:
                seconds.append(tracked.seconds)
            truth = {} if sequence.prompts_only else labels_for(sequence, index, size)
            predicted = predictions(result, tracker, sequence.truth.overlapping)
            name = tracked.frame.name
            new = tuple(
                make_row(tracker.file_id(obj.object_id), index, name, obj, predicted, truth) for obj in result.objects
            )
            rows.extend(new)
            observer(FrameMasks(index, name, tracked.frame.rgb, predicted, truth, new))
    finally:
        backend.reset()
        backend.take_changes()
    scored = mark_scored(rows, sequence.truth, rule)
    return SequenceResult(sequence.name, *size, count, scored, tuple(seconds))


def labels_for(sequence: LabelledSequence, index: int, size: tuple[int, int]) -> dict[int, Mask]:
    """The labels of a frame of ``size`` (width, height); empty if there are none.

    Raises:
        UserError: they have another size.
    """
    truth = sequence.truth.masks(index) if index in sequence.annotated else {}
    for mask in truth.values():
        if mask.shape != (size[1], size[0]):
            raise UserError(
                f"sequence '{sequence.name}', frame {index}: the label has {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"the image {size[0]}x{size[1]}; accepted: labels of the image's size"
            )
    return truth


def _correct(tracker: ClipTracker, result: FrameResult, truth: dict[int, Mask], frame: int, clicks: int) -> FrameResult:
    """Gives further clicks until each object has ``clicks`` of them, or nothing is wrong any more."""
    for _ in range(clicks - 1):
        prompts = []
        for obj in result.objects:
            object_id = tracker.file_id(obj.object_id)
            wrong = correction(obj.mask.full(), truth[object_id]) if object_id in truth else None
            if wrong is not None:
                prompts.append(FramePrompt(frame, object_id, click(*wrong)))
        if not prompts:
            break
        result = tracker.correct(prompts)
    return result


def predictions(result: FrameResult, tracker: ClipTracker, overlapping: bool) -> dict[int, Mask]:
    """Masks by the data set's ids. If labels can't overlap, they are composed as by ``track --masks-out``.

    A label image has one object for each pixel, while SA-V's evaluator takes an image for each object.
    """
    objects = [(tracker.file_id(obj.object_id), obj) for obj in result.objects]
    if overlapping:
        return {object_id: obj.mask.full() for object_id, obj in objects}
    labels = compose_labels(objects, result.height, result.width, wide=True)
    return {object_id: np.asarray(labels == object_id) for object_id, _ in objects}


def make_row(
    object_id: int, index: int, name: str, obj: ObjectResult, predicted: dict[int, Mask], truth: dict[int, Mask]
) -> Row:
    """One object on one frame, compared with its label if there is one."""
    measured = vars(measure(object_id, predicted[object_id], truth)) if object_id in truth else {}
    return Row(
        object=object_id,
        frame=index,
        name=name,
        prompted=obj.prompted,
        state=obj.state.name.lower(),
        object_score=float(obj.object_score),
        predicted_iou=float(obj.predicted_iou),
        visibility=float(obj.visibility),
        area=int(np.count_nonzero(predicted[object_id])),
        **measured,
    )
