"""A detector's boxes as prompts: which is which object, which is new, and which object needs correcting.

Runs in the inference thread, as commands do. It keeps the boxes of the last frames' objects, since a detector speaks of
an image that is some frames old by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.matching import (
    Box,
    Detection,
    Match,
    Track,
    areas,
    as_array,
    is_swollen,
    match,
    pair_up,
    without_doubles,
)
from sam2_ros.tracking.frame_lookup import find_frame
from sam2_ros.tracking.settings import check_settings, setting
from sam2_ros.tracking.types import AddRequest, FrameResult, ObjectResult, Prompt, PromptResult

__all__ = ["Counts", "Detection", "DetectionFeeder", "DetectionSettings"]

TENTATIVE_MISSES = 2  # messages in a row without it after which a new object that is not one yet is given up


@dataclass(frozen=True)
class DetectionSettings:
    """Settings of :class:`DetectionFeeder`; each is the node's parameter ``detections.*`` of the same name.

    Raises:
        ValueError: a value is outside its range; the message gives the range.
    """

    min_score: float = setting(0.5, "Ignore detections with a lower score.", 0, 1)
    labels: tuple[str, ...] = setting((), 'Class ids that are not ignored; [""] = all.')
    match_iou: float = setting(
        0.3, "IoU of a detection's box with an object's from which on the detection may be that object.", 0.01, 1
    )
    new_after: int = setting(2, "Images in which something new must be detected until it becomes an object.", 1, 1000)
    max_objects: int = setting(
        0, "Living objects from which on detections add no new ones; 0 = tracker.max_objects alone decides.", 0, 1024
    )
    correct_below: float = setting(
        0.6,
        "Quality below which a matching detection corrects an object: the smaller of its predicted IoU and its box's "
        "IoU with the detection; 0 = never.",
        0,
        1,
    )
    correct_every: int = setting(5, "Frames between two such corrections of an object, at least.", 1, 1_000_000)
    lost_distance: float = setting(
        1.5,
        "How far a detection may be from where an object was seen last to be it again, in diagonals of its box; "
        "0 = never.",
        0,
        100,
    )

    def __post_init__(self) -> None:
        check_settings(self)


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
        history: frames kept beside the newest, as ``tracker.history``.
    """

    def __init__(self, history: int) -> None:
        self._frames: deque[_Noted] = deque(maxlen=history + 1)
        self._known: dict[int, Box] = {}  # where each object was seen last, and not swollen
        self._usual_areas: dict[int, float] = {}  # of the last detection that each object agreed with, or its prompt
        self._corrected: dict[int, int] = {}  # frame of each object's last prompt
        self._tentative: list[_Tentative] = []
        self.counts = Counts()

    def note(self, result: FrameResult) -> None:
        """Takes notice of a processed frame."""
        noted = _Noted(result.stamp, result.frame_index, {each.object_id: each for each in result.objects})
        noted.boxes = {each.object_id: _edges(each.mask.box) for each in result.objects if each.mask.crop.size}
        self._frames.append(noted)
        sound = {key: box for key, box in noted.boxes.items() if not is_swollen(box, self._usual_areas.get(key, 0.0))}
        self._known = {key: box for key, box in self._known.items() if key in noted.objects} | sound
        self._corrected = {key: frame for key, frame in self._corrected.items() if key in noted.objects}
        self._usual_areas = {key: area for key, area in self._usual_areas.items() if key in noted.objects}

    def forget(self) -> None:
        """Time jumped: what was seen before belongs to another run."""
        self._frames.clear()
        self._tentative.clear()

    def apply(
        self,
        backend: Backend,
        detections: Sequence[Detection],
        stamp: int,
        settings: DetectionSettings,
        tolerance: float = 0.1,
    ) -> list[PromptResult]:
        """Associates the detections of the image stamped ``stamp`` (ns; the nearest stored frame, ``tolerance`` seconds
        away at most) and prompts where that is called for.

        Raises:
            PromptError: there is no such frame (any more).
        """
        self.counts.received += len(detections)
        try:
            noted = self._frames[find_frame([each.stamp for each in self._frames], stamp, tolerance)]
        except ValueError:
            self.counts.refused += len(detections)
            raise
        wanted = [each for each in detections if _is_wanted(each, settings)]
        self.counts.ignored += len(detections) - len(wanted)
        living = {each.object_id: each for each in (backend.objects() or _NOTHING).objects}
        tracks = [self._track(each, noted) for each in living.values()]
        found = match(wanted, tracks, settings.match_iou, settings.lost_distance)
        self.counts.matched += len(found.known)
        self.counts.found_again += len(found.again)
        corrections = [each for each in found.known if self._is_due(each, noted.frame, settings)]
        for each in found.known:
            if each not in corrections:
                self._keep(backend, each, living[each.track.object_id])
        requests = [_request(each.detection, each.track.object_id) for each in (*corrections, *found.again)]
        boxes = [*(each.box for each in tracks if each.box is not None and not each.swollen)]
        boxes += [each.detection.box for each in (*found.known, *found.again)]
        new = without_doubles(found.left, as_array(boxes))
        self._propose_new(new, noted.stamp, len(living), requests, settings)
        results = backend.add(requests, noted.stamp) if requests else []
        for request, result in zip(requests, results, strict=True):
            self._count(request, result, noted)
        return results

    def _track(self, living: ObjectResult, noted: _Noted) -> Track:
        key, then = living.object_id, noted.objects.get(living.object_id)
        return Track(
            key, living.label, noted.boxes.get(key), self._known.get(key), self._usual_areas.get(key, 0.0),
            then.predicted_iou if then is not None else 1.0,
        )  # fmt: skip

    def _is_due(self, match: Match, frame: int, settings: DetectionSettings) -> bool:
        """Whether a detection corrects its object: where the network is not sure of the mask, or the mask is not where
        the detector sees the object; not too often."""
        waited = frame - self._corrected.get(match.track.object_id, -settings.correct_every)
        quality = min(match.track.quality, match.agreement)
        return quality < settings.correct_below and waited >= settings.correct_every

    def _keep(self, backend: Backend, match: Match, one: ObjectResult) -> None:
        """Takes a label over where it is surer than what is known."""
        detection = match.detection
        if not match.track.swollen:
            self._usual_areas[one.object_id] = _area(detection.box)
        if detection.label and (not one.label or detection.score > one.label_score):
            backend.rename(one.object_id, one.name, detection.label, detection.score)

    def _propose_new(
        self, left: list[Detection], stamp: int, count: int, requests: list[AddRequest], settings: DetectionSettings
    ) -> None:
        """Prompts for what was detected ``new_after`` times in different images; the same image counts once."""
        pairs = pair_up(as_array(each.box for each in left), as_array(each.box for each in self._tentative))
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
        self._known[result.object_id] = box
        self._usual_areas[result.object_id] = _area(_edges(request.prompt.box))
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


def _request(detection: Detection, object_id: int | None = None) -> AddRequest:
    prompt = Prompt(box=np.array(detection.box, np.float32))
    return AddRequest(prompt, object_id, label=detection.label, label_score=detection.score)


def _edges(box: Sequence[float] | np.ndarray | None) -> Box:
    assert box is not None
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return x0, y0, x1, y1


def _area(box: Box) -> float:
    return float(areas(as_array([box]))[0])
