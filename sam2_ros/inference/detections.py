"""Turns a detector's boxes into prompts: for new objects, for lost ones, and for those that need a correction.

Runs in the inference thread, as commands do. It stores the boxes of the last frames, because detections belong to an
image that is some frames old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.commands import living
from sam2_ros.inference.matching import Box, Detection, Match, Track, area, is_swollen, match, pair_up, without_doubles
from sam2_ros.tracking.frame_lookup import find_frame
from sam2_ros.tracking.prompt_checks import text_problem
from sam2_ros.tracking.settings import check_settings, setting
from sam2_ros.tracking.types import FrameResult, ObjectResult, Prompt, PromptCode, PromptRequest, PromptResult

__all__ = ["MAX_DETECTIONS", "Counts", "Detection", "DetectionFeeder", "DetectionSettings"]

MAX_DETECTIONS = 1024  # in one message
MAX_EDGE = 1e6  # pixels, of a box
TENTATIVE_MISSES = 2  # messages in a row without a tentative object, after which it is forgotten


@dataclass(frozen=True)
class DetectionSettings:
    """Settings of :class:`DetectionFeeder`; each is the node's parameter ``detections.*`` of the same name.

    Raises:
        ValueError: a value is outside its range; the message gives the range.
    """

    min_score: float = setting(0.5, "Ignore detections with a lower score.", 0, 1)
    labels: tuple[str, ...] = setting((), 'Classes to use, as the detector writes them; [""] = all.')
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
    """Detections by what became of them."""

    received: int = 0
    ignored: int = 0  # by score or label
    unusable: int = 0  # box, score or label can't be used
    matched: int = 0
    corrected: int = 0
    found_again: int = 0
    added: int = 0
    pending: int = 0  # new, but not seen often enough, or without room
    refused: int = 0  # with their message, or by the engine: stamp too old, no room


@dataclass
class _Tentative:
    """Something new that may become an object."""

    box: Box
    stamp: int  # ns, of the newest image that shows it
    hits: int = 0  # images in which it was detected
    misses: int = 0  # messages without it since


@dataclass
class _StoredFrame:
    """Where every object was in one processed frame."""

    stamp: int  # ns
    index: int
    objects: dict[int, ObjectResult]
    boxes: dict[int, Box] = field(default_factory=dict)  # of visible objects


class DetectionFeeder:
    """Feeds one camera's detections to its backend. Owned by the inference thread.

    Args:
        history: frames stored beside the newest, as ``tracker.history``.
    """

    def __init__(self, history: int) -> None:
        self._frames: deque[_StoredFrame] = deque(maxlen=history + 1)
        self._last_boxes: dict[int, Box] = {}  # where each object was last seen with a trusted box
        self._usual_areas: dict[int, float] = {}  # of each object's last agreeing detection or prompt
        self._corrected: dict[int, int] = {}  # frame of each object's last prompt
        self._tentative: list[_Tentative] = []
        self.counts = Counts()

    def note(self, result: FrameResult) -> None:
        """Stores where the objects of a processed frame are."""
        objects = {obj.object_id: obj for obj in result.objects}
        boxes = {key: _edges(obj.mask.box) for key, obj in objects.items() if obj.mask.crop.size}
        self._frames.append(_StoredFrame(result.stamp, result.frame_index, objects, boxes))
        trusted = {key: box for key, box in boxes.items() if not is_swollen(box, self._usual_areas.get(key, 0.0))}
        values: dict[int, Any]
        for values in (self._last_boxes, self._corrected, self._usual_areas):
            for key in values.keys() - objects.keys():
                del values[key]
        self._last_boxes |= trusted

    def forget(self) -> None:
        """Forgets frames and tentative objects after a jump in time."""
        self._frames.clear()
        self._tentative.clear()

    def refuse(self, count: int) -> None:
        """Counts the detections of a message that is refused as a whole."""
        self.counts.received += count
        self.counts.refused += count

    def apply(
        self,
        backend: Backend,
        detections: Sequence[Detection],
        stamp: int,
        settings: DetectionSettings,
        tolerance: float = 0.1,
    ) -> list[PromptResult]:
        """Matches the detections of an image with the objects, and prompts where an object is new or needs it. Returns
        refusals of what can't be used, then the results of the prompts.

        Args:
            stamp: of the image, ns; the nearest stored frame is used, at most ``tolerance`` seconds away.

        Raises:
            PromptError: there is no such frame.
        """
        try:
            frame = self._frames[find_frame([stored.stamp for stored in self._frames], stamp, tolerance)]
        except ValueError:
            self.refuse(len(detections))
            raise
        self.counts.received += len(detections)
        problems = [problem_of(detection) for detection in detections]
        usable = [detection for detection, problem in zip(detections, problems, strict=True) if not problem]
        unusable = [PromptResult(PromptCode.INVALID_PROMPT, problem) for problem in problems if problem]
        self.counts.unusable += len(unusable)
        wanted = [detection for detection in usable if _is_wanted(detection, settings)]
        self.counts.ignored += len(usable) - len(wanted)
        objects = {obj.object_id: obj for obj in living(backend)}
        tracks = [self._track(obj, frame) for obj in objects.values()]
        found = match(wanted, tracks, settings.match_iou, settings.lost_distance)
        self.counts.matched += len(found.visible)
        self.counts.found_again += len(found.hidden)
        corrections = []
        for pair in found.visible:
            if self._is_due(pair, frame.index, settings):
                corrections.append(pair)
            else:
                self._take_label(backend, pair, objects[pair.track.object_id])
        requests = [_request(pair.detection, pair.track.object_id) for pair in (*corrections, *found.hidden)]
        boxes = [track.box for track in tracks if track.box is not None and not track.swollen]
        boxes += [pair.detection.box for pair in (*found.visible, *found.hidden)]
        new = without_doubles(found.left, boxes)
        self._propose_new(new, frame.stamp, len(objects), requests, settings)
        results = backend.add(requests, frame.stamp) if requests else []
        for request, result in zip(requests, results, strict=True):
            self._count(request, result, frame)
        return unusable + results

    def _track(self, obj: ObjectResult, frame: _StoredFrame) -> Track:
        key, then = obj.object_id, frame.objects.get(obj.object_id)
        return Track(
            key, obj.label, frame.boxes.get(key), self._last_boxes.get(key), self._usual_areas.get(key, 0.0),
            then.predicted_iou if then is not None else 1.0,
        )  # fmt: skip

    def _is_due(self, pair: Match, frame: int, settings: DetectionSettings) -> bool:
        """Whether to correct the object: its mask is uncertain or away from the detection, and the last correction is
        long enough ago."""
        waited = frame - self._corrected.get(pair.track.object_id, -settings.correct_every)
        quality = min(pair.track.quality, pair.agreement)
        return quality < settings.correct_below and waited >= settings.correct_every

    def _take_label(self, backend: Backend, pair: Match, obj: ObjectResult) -> None:
        """Gives the object the detection's label where its score is higher."""
        detection = pair.detection
        if not pair.track.swollen:
            self._usual_areas[obj.object_id] = area(detection.box)
        if detection.label and (not obj.label or detection.score > obj.label_score):
            backend.rename(obj.object_id, obj.name, detection.label, detection.score)

    def _propose_new(
        self, left: list[Detection], stamp: int, count: int, requests: list[PromptRequest], settings: DetectionSettings
    ) -> None:
        """Adds a request for what was detected in ``new_after`` different images."""
        earlier, remaining = self._tentative, []
        pairs = pair_up([detection.box for detection in left], [new.box for new in earlier])
        for row, detection in enumerate(left):
            new = earlier[pairs[row]] if row in pairs else _Tentative(detection.box, stamp)
            if new.stamp != stamp or not new.hits:
                new.hits += 1
            new.box, new.stamp, new.misses = detection.box, stamp, 0
            room = not settings.max_objects or count < settings.max_objects
            if new.hits >= settings.new_after and room:
                requests.append(_request(detection))
                count += 1
            else:
                self.counts.pending += 1
                remaining.append(new)
        for index, new in enumerate(earlier):
            if index not in pairs.values():
                new.misses += 1
                if new.misses < TENTATIVE_MISSES:
                    remaining.append(new)
        self._tentative = remaining

    def _count(self, request: PromptRequest, result: PromptResult, frame: _StoredFrame) -> None:
        """Counts a result, and stores where its object is, so that the same detections find it there."""
        if not result.success:
            self.counts.refused += 1
            return
        self.counts.added += request.object_id is None
        self.counts.corrected += request.object_id is not None
        asked, obj = _edges(request.prompt.box), result.result
        box = _edges(obj.mask.box) if obj is not None and obj.mask.crop.size else asked
        self._corrected[result.object_id] = frame.index
        self._last_boxes[result.object_id] = box
        self._usual_areas[result.object_id] = area(asked)
        for later in self._frames:
            if later.index >= frame.index:
                later.boxes[result.object_id] = box
                if obj is not None:
                    later.objects[result.object_id] = obj


def problem_of(detection: Detection) -> str:
    """Why a detection can't be used, whatever the settings; empty where it can."""
    x0, y0, x1, y1 = detection.box
    if not all(abs(edge) <= MAX_EDGE for edge in detection.box):  # NaN neither
        return f"a detection has the box {_shown(detection.box)}; accepted: finite edges in pixels"
    if x1 <= x0 or y1 <= y0:
        return f"a detection has the box {_shown(detection.box)}; accepted: a width and a height above 0"
    if not 0 <= detection.score <= 1:
        return f"a detection has the score {detection.score:g}; accepted: 0 to 1"
    problem = text_problem(detection.label)
    return f"a detection's label {problem}" if problem else ""


def _is_wanted(detection: Detection, settings: DetectionSettings) -> bool:
    return detection.score >= settings.min_score and (not settings.labels or detection.label in settings.labels)


def _shown(box: Box) -> str:
    return f"({', '.join(f'{edge:g}' for edge in box)})"


def _request(detection: Detection, object_id: int | None = None) -> PromptRequest:
    prompt = Prompt(box=np.array(detection.box, np.float32))
    return PromptRequest(prompt, object_id, label=detection.label, label_score=detection.score)


def _edges(box: Sequence[float] | np.ndarray | None) -> Box:
    assert box is not None
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return x0, y0, x1, y1
