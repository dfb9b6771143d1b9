"""A detector's boxes as prompts: which is which object, which is new, and which object needs correcting.

Runs in the inference thread, as commands do. It keeps the boxes of the last frames' objects, since a detector speaks of
an image that is some frames old by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from sam2_ros.inference.backend import Backend
from sam2_ros.tracking.association import Boxes, areas, assign, coverages, ious
from sam2_ros.tracking.stamps import find_frame
from sam2_ros.tracking.types import AddRequest, FrameResult, ObjectResult, Prompt, PromptResult

Box: TypeAlias = tuple[float, float, float, float]
"""Edges x0, y0, x1, y1 in pixels."""

TENTATIVE_MISSES = 2  # messages in a row without it after which a new object that is not one yet is given up
COVERED = 0.7  # share of the smaller box in common from which on two boxes are taken for one object, seen in part


@dataclass(frozen=True)
class Detection:
    """One box of a detector."""

    box: Box
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True)
class DetectionSettings:
    """The parameters ``detections.*``; meanings and ranges stand in ``config/tracker.yaml``."""

    min_score: float = 0.5
    labels: tuple[str, ...] = ()
    match_iou: float = 0.3
    new_after: int = 2
    max_objects: int = 0
    correct_below: float = 0.6
    correct_every: int = 30
    lost_distance: float = 1.5


@dataclass
class Counts:
    """What became of the detections so far."""

    received: int = 0
    ignored: int = 0  # score, label, or no box
    matched: int = 0
    corrected: int = 0
    found_again: int = 0
    added: int = 0
    pending: int = 0  # new, but not seen often enough yet, or no room
    refused: int = 0  # the engine said no: too old a stamp, no room


@dataclass
class _Tentative:
    box: Box
    label: str
    stamp: int
    hits: int = 1
    misses: int = 0


@dataclass
class _Noted:
    """One processed frame: where every object was."""

    stamp: int
    frame: int
    objects: dict[int, ObjectResult]
    boxes: dict[int, Box] = field(default_factory=dict)  # of those that are seen


class DetectionFeeder:
    """Feeds one camera's detections to its backend. Owned by the inference thread.

    Args:
        history, tolerance: frames kept and seconds, as ``tracker.history`` and ``tracker.history_tolerance``.
    """

    def __init__(self, history: int, tolerance: float) -> None:
        self._tolerance = tolerance
        self._frames: deque[_Noted] = deque(maxlen=history + 1)
        self._last_boxes: dict[int, Box] = {}  # where each object was seen last
        self._corrected: dict[int, int] = {}  # frame of each object's last prompt
        self._tentative: list[_Tentative] = []
        self.counts = Counts()

    def note(self, result: FrameResult) -> None:
        """Takes notice of a processed frame."""
        noted = _Noted(result.stamp, result.frame_index, {each.object_id: each for each in result.objects})
        noted.boxes = {each.object_id: _edges(each.mask.box) for each in result.objects if each.mask.crop.size}
        self._frames.append(noted)
        self._last_boxes = {key: box for key, box in self._last_boxes.items() if key in noted.objects} | noted.boxes
        self._corrected = {key: frame for key, frame in self._corrected.items() if key in noted.objects}

    def forget(self) -> None:
        """Time jumped: what was seen before belongs to another run."""
        self._frames.clear()
        self._tentative.clear()

    def apply(
        self, backend: Backend, detections: Sequence[Detection], stamp: int, settings: DetectionSettings
    ) -> list[PromptResult]:
        """Associates the detections of the image stamped ``stamp`` (ns) and prompts where that is called for.

        Raises:
            PromptError: there is no such frame (any more).
        """
        self.counts.received += len(detections)
        try:
            noted = self._frames[find_frame([each.stamp for each in self._frames], stamp, self._tolerance)]
        except ValueError:
            self.counts.refused += len(detections)
            raise
        wanted = [each for each in detections if _is_wanted(each, settings)]
        self.counts.ignored += len(detections) - len(wanted)
        living = {each.object_id: each for each in (backend.objects() or _NOTHING).objects}
        visible = {key: box for key, box in noted.boxes.items() if key in living}
        requests: list[AddRequest] = []
        left = self._match_visible(backend, wanted, visible, living, noted, requests, settings)
        left = self._match_lost(left, visible, living, requests, settings)
        boxes = _array([*visible.values(), *(_edges(request.prompt.box) for request in requests)])
        self._propose_new(_without_doubles(left, boxes), noted.stamp, len(living), requests, settings)
        results = backend.add(requests, noted.stamp) if requests else []
        for request, result in zip(requests, results, strict=True):
            self._count(request, result, noted)
        return results

    def _match_visible(
        self,
        backend: Backend,
        wanted: list[Detection],
        visible: dict[int, Box],
        living: dict[int, ObjectResult],
        noted: _Noted,
        requests: list[AddRequest],
        settings: DetectionSettings,
    ) -> list[Detection]:
        """Matches what is seen; an object of low quality is corrected, and another's label and score are kept
        where they are surer than what is known. Returns the detections that are left."""
        ids = list(visible)
        overlap = ious(_array([each.box for each in wanted]), _array(list(visible.values())))
        pairs = assign(1 - overlap, overlap >= settings.match_iou)
        self.counts.matched += len(pairs)
        for row, column in pairs:
            one, detection = living[ids[column]], wanted[row]
            waited = noted.frame - self._corrected.get(one.object_id, -settings.correct_every)
            bad = noted.objects[one.object_id].predicted_iou if one.object_id in noted.objects else 1.0
            if bad < settings.correct_below and waited >= settings.correct_every:
                requests.append(_request(detection, one.object_id))
            elif detection.label and (not one.label or detection.score > one.label_score):
                backend.rename(one.object_id, one.name, detection.label, detection.score)
        rows = {row for row, _ in pairs}
        return [each for index, each in enumerate(wanted) if index not in rows]

    def _match_lost(
        self,
        left: list[Detection],
        visible: dict[int, Box],
        living: dict[int, ObjectResult],
        requests: list[AddRequest],
        settings: DetectionSettings,
    ) -> list[Detection]:
        """Gives objects that are out of sight back to what is detected near where they were seen last, with a label
        that is not another one and of like size. Returns the detections that are left."""
        hidden = [key for key in living if key not in visible and key in self._last_boxes]
        # What a visible object holds already is no hidden one.
        shown = _array(list(visible.values()))
        free = [each for each in left if not (ious(_array([each.box]), shown) >= settings.match_iou).any()]
        boxes, last = _array([each.box for each in free]), _array([self._last_boxes[key] for key in hidden])
        diagonals = np.maximum(np.hypot(*(last[:, 2:] - last[:, :2]).T), 1.0)
        centres, last_centres = (boxes[:, :2] + boxes[:, 2:]) / 2, (last[:, :2] + last[:, 2:]) / 2
        away = np.hypot(*np.moveaxis(centres[:, None] - last_centres[None], 2, 0)) / diagonals[None]
        ratio = areas(boxes)[:, None] / np.maximum(areas(last)[None], 1.0)
        fits = np.array([[_same_label(each, living[key]) for key in hidden] for each in free], bool).reshape(away.shape)
        pairs = assign(np.minimum(away, 1000), (away <= settings.lost_distance) & (ratio > 0.4) & (ratio < 2.5) & fits)
        taken = [free[row] for row, _ in pairs]
        requests += [_request(free[row], hidden[column]) for row, column in pairs]
        self.counts.found_again += len(pairs)
        return [each for each in left if not any(each is other for other in taken)]

    def _propose_new(
        self, left: list[Detection], stamp: int, count: int, requests: list[AddRequest], settings: DetectionSettings
    ) -> None:
        """Prompts for what was detected ``new_after`` times in different images; the same image counts once."""
        boxes = _array([each.box for each in left])
        overlap = ious(boxes, _array([each.box for each in self._tentative]))
        pairs = dict(assign(1 - overlap, overlap >= settings.match_iou))
        kept: list[_Tentative] = []
        for row, detection in enumerate(left):
            tentative = self._tentative[pairs[row]] if row in pairs else _Tentative(detection.box, "", stamp, hits=0)
            if tentative.stamp != stamp or not tentative.hits:
                tentative.hits += 1
            tentative.box, tentative.stamp, tentative.misses = detection.box, stamp, 0
            room = not settings.max_objects or count < settings.max_objects
            if tentative.hits >= settings.new_after and room:
                requests.append(_request(detection))
                count += 1
            else:
                self.counts.pending += 1
                kept.append(tentative)
        for index, tentative in enumerate(self._tentative):
            if index not in pairs.values():
                tentative.misses += 1
                if tentative.misses < TENTATIVE_MISSES:
                    kept.append(tentative)
        self._tentative = kept

    def _count(self, request: AddRequest, result: PromptResult, noted: _Noted) -> None:
        """Notes where an object is now, so that the same detections once more find it there."""
        if not result.success:
            self.counts.refused += 1
            return
        if request.object_id is None:
            self.counts.added += 1
        else:
            self.counts.corrected += 1
        assert request.prompt.box is not None
        seen = result.result is not None and result.result.mask.crop.size
        box = _edges(result.result.mask.box) if result.result is not None and seen else _edges(request.prompt.box)
        self._corrected[result.object_id] = noted.frame
        self._last_boxes[result.object_id] = box
        for later in self._frames:
            if later.frame >= noted.frame:
                later.boxes[result.object_id] = box
                if result.result is not None:
                    later.objects[result.object_id] = result.result


_NOTHING = FrameResult(-1, 0, 0, 0, ())


def _is_wanted(detection: Detection, settings: DetectionSettings) -> bool:
    x0, y0, x1, y1 = detection.box
    return (
        bool(np.isfinite(detection.box).all()) and x1 > x0 and y1 > y0
        and detection.score >= settings.min_score
        and (not settings.labels or detection.label in settings.labels)
    )  # fmt: skip


def _without_doubles(left: list[Detection], known: Boxes) -> list[Detection]:
    """Leaves out what is an object already, or part of one, or a surer detection's: the surest comes first."""
    kept: list[Detection] = []
    for detection in sorted(left, key=lambda each: -each.score):
        others = np.concatenate([known, _array([each.box for each in kept])])
        if not (coverages(_array([detection.box]), others) >= COVERED).any():
            kept.append(detection)
    return kept


def _same_label(detection: Detection, known: ObjectResult) -> bool:
    return not detection.label or not known.label or detection.label == known.label


def _request(detection: Detection, object_id: int | None = None) -> AddRequest:
    prompt = Prompt(box=np.array(detection.box, np.float32))
    return AddRequest(prompt, object_id, label=detection.label, label_score=detection.score)


def _edges(box: Sequence[float] | np.ndarray | None) -> Box:
    assert box is not None
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return x0, y0, x1, y1


def _array(boxes: Sequence[Box]) -> Boxes:
    return np.array(boxes, np.float64).reshape(-1, 4)
