"""Finds what no track covers and adds it as objects. The search runs in slices, between the frames of the stream.

The masks that were found belong to the frame on which the search began. On the frame that is the newest at its end each
is segmented again. Only what has not moved meanwhile is added; what moves is found by a later search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.commands import advance, image_engine, living
from sam2_ros.inference.frames import Processed
from sam2_ros.tracking.everything_settings import EverythingSettings
from sam2_ros.tracking.segmentation import Slices
from sam2_ros.tracking.settings import check_settings, setting
from sam2_ros.tracking.types import CroppedMask, ObjectResult, Prompt, PromptCode, PromptError, PromptRequest

SHARED = 0.5  # share of the smaller of two masks from which on they show one thing, or a part of it
UNMOVED = 0.7  # IoU of a mask with the one on the newest frame from which on it has not moved
MOST_FOUND = 256  # masks of a search, the largest first
MOST_ASKED = 64  # requests that wait for one search
AT_ONCE = 8  # new objects between two frames; the others wait for the next frame

Queue = Callable[[Callable[[Backend], Any]], "Future[Any]"]


@dataclass(frozen=True)
class DiscoverySettings:
    """Settings of :class:`Discovery`; each is the node's parameter ``discover.*`` of the same name.

    Raises:
        ValueError: a value is outside its range; the message gives the range.
    """

    period: float = setting(5.0, "Seconds from the end of a search to the begin of the next.", 0.1, 86400.0)
    max_objects: int = setting(
        0, "Living objects from which on no more are discovered; 0 = tracker.max_objects alone decides.", 0, 1024
    )
    points: int = setting(16, "Points of the grid along each side of the image that a search clicks.", 2, 64)
    slice: int = setting(16, "Points that are clicked between two frames. Fewer delay tracking less.", 1, 1024)
    min_iou: float = setting(0.7, "Leave out masks with a predicted IoU of this or less.", 0.0, 1.0)
    min_stability: float = setting(0.6, "Leave out masks that are less stable.", 0.0, 1.0)
    min_area: float = setting(0.001, "Leave out masks of a smaller share of the image.", 0.0, 1.0)
    max_area: float = setting(0.3, "Leave out masks of a larger share of the image: background.", 0.0, 1.0)

    def __post_init__(self) -> None:
        check_settings(self)


class Discovery:
    """Searches one camera's frames. Everything but :meth:`ask` runs in the inference thread.

    Args:
        queue: runs a command in that thread between two frames (:meth:`Worker.call`).
        settings: as they are now.
        wanted: whether to search every ``period`` seconds.
        failed: told why a search that nobody asked for has failed.
    """

    def __init__(
        self,
        queue: Queue,
        settings: Callable[[], DiscoverySettings],
        wanted: Callable[[], bool],
        failed: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._wanted = wanted
        self._failed = failed
        self._newest: Processed | None = None
        self._last_masks: dict[int, CroppedMask] = {}  # where each object was seen last
        self._slices: Slices | None = None  # of the search that runs
        self._found: list[CroppedMask] = []  # and is not added yet
        self._added: list[int] = []
        self._asked: list[Future[list[int]]] = []  # by whom
        self._ended = 0  # searches, so that a step of one that has ended is told from the next one's
        self._end = 0.0  # of the last search, steady clock

    def note(self, processed: Processed) -> None:
        """Learns a frame's result; begins a search when it is time."""
        self._newest = processed
        objects = {obj.object_id: obj.mask for obj in processed.result.objects}
        self._last_masks = {key: mask for key, mask in self._last_masks.items() if key in objects}
        self._last_masks |= {key: mask for key, mask in objects.items() if mask.crop.size}
        due = time.monotonic() - self._end >= self._settings().period
        if self._wanted() and due and not self._searching:
            with suppress(PromptError):  # the node may be deactivated just now
                self._queue(self._begin)

    def forget(self) -> None:
        """Ends the search, because the frames that come do not continue those before."""
        self._newest, self._last_masks = None, {}
        if self._searching:
            self._finish(PromptError(PromptCode.NO_FRAME, "the stream was interrupted; search again"))

    def ask(self) -> Future[list[int]]:
        """Searches now, or joins the search that runs; the future gives the ids that were added, or PromptError."""
        asked: Future[list[int]] = Future()

        def join(backend: Backend) -> None:
            if len(self._asked) >= MOST_ASKED:
                raise PromptError(PromptCode.FAILED, f"{MOST_ASKED} requests wait for the search already; wait, too")
            self._asked.append(asked)
            if not self._searching:
                self._begin(backend)

        def refused(done: Future[None]) -> None:
            if (error := done.exception()) and not asked.done():
                asked.set_exception(error)

        self._queue(join).add_done_callback(refused)
        return asked

    @property
    def _searching(self) -> bool:
        return self._slices is not None or bool(self._found)

    def _begin(self, backend: Backend) -> None:
        if self._searching:
            return
        settings = self._settings()
        try:
            if self._newest is None:
                raise PromptError(PromptCode.NO_FRAME, "no frame was processed yet; is the camera running?")
            search = EverythingSettings(settings.points, settings.slice, settings.min_iou, settings.min_stability)
            images = image_engine(backend)
            self._slices, self._added = images.everything_in_slices(self._newest.image, search, MOST_FOUND), []
            self._next(self._search)
        except Exception as error:
            self._finish(error)

    def _next(self, step: Callable[[Backend], None]) -> None:
        """Queues a step behind the frame that waits."""
        ended = self._ended

        def guarded(backend: Backend) -> None:
            try:
                if ended == self._ended:
                    step(backend)
            except Exception as error:
                self._finish(error)

        def refused(done: Future[None]) -> None:
            if (error := done.exception()) and ended == self._ended:
                self._finish(error)

        self._queue(guarded).add_done_callback(refused)

    def _search(self, backend: Backend) -> None:
        assert self._slices is not None
        results = advance(self._slices)
        if results is None:
            self._next(self._search)
            return
        self._slices = None
        masks = [result.result.mask for result in results if result.result is not None]
        self._found = whole_objects(masks, self._settings())
        self._add(backend)

    def _add(self, backend: Backend) -> None:
        """Adds the next of what was found, and ends the search after the last."""
        objects, settings = living(backend), self._settings()
        room = (settings.max_objects or backend.info.max_objects) - len(objects)
        self._found = self._uncovered(self._found, objects) if room > 0 else []
        now, self._found = self._found[: min(AT_ONCE, max(0, room))], self._found[AT_ONCE:]
        answers = image_engine(backend).segment_newest([PromptRequest(_around(mask)) for mask in now]) if now else []
        again = [
            answer.result.mask
            for before, answer in zip(now, answers, strict=True)
            if answer.result is not None and iou(before, answer.result.mask) >= UNMOVED
        ]
        again = self._uncovered(whole_objects(again, settings), objects)
        if again:
            added = backend.add([PromptRequest(Prompt(mask=mask.full())) for mask in again])
            self._added += [result.object_id for result in added if result.success]
        if self._found:
            self._next(self._add)
        else:
            self._finish()

    def _uncovered(self, masks: Sequence[CroppedMask], objects: Iterable[ObjectResult]) -> list[CroppedMask]:
        """Masks apart from those of every object, and from where hidden objects were seen last."""
        known = [obj.mask if obj.mask.crop.size else self._last_masks.get(obj.object_id) for obj in objects]
        return [
            mask for mask in masks if not any(other is not None and share(mask, other) >= SHARED for other in known)
        ]

    def _finish(self, error: BaseException | None = None) -> None:
        asked, self._asked = self._asked, []
        self._slices, self._found, self._end = None, [], time.monotonic()
        self._ended += 1
        for each in asked:
            if not each.set_running_or_notify_cancel():
                continue  # who asked has gone
            if error is None:
                each.set_result(list(self._added))
            else:
                each.set_exception(error)
        if error is not None and not asked and self._wanted():
            self._failed(str(error))


def whole_objects(masks: Sequence[CroppedMask], settings: DiscoverySettings) -> list[CroppedMask]:
    """Masks of the sizes that objects have, the largest first. Of a whole and its part, or of two masks of one thing,
    the larger stays: half of the smaller lies in it."""
    kept: list[CroppedMask] = []
    for mask in sorted(masks, key=lambda each: -each.area):
        size = mask.area / (mask.width * mask.height)
        if settings.min_area <= size <= settings.max_area and all(share(mask, other) < SHARED for other in kept):
            kept.append(mask)
    return kept


def share(one: CroppedMask, other: CroppedMask) -> float:
    """Common pixels as a share of the smaller mask; 0 for an empty one, or images of different sizes."""
    smaller = min(one.area, other.area)
    return _common(one, other) / smaller if smaller else 0.0


def iou(one: CroppedMask, other: CroppedMask) -> float:
    common = _common(one, other)
    return common / (one.area + other.area - common) if common else 0.0


def _common(one: CroppedMask, other: CroppedMask) -> int:
    if (one.width, one.height) != (other.width, other.height):
        return 0
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = one.box, other.box
    x0, y0, x1, y1 = max(ax0, bx0), max(ay0, by0), min(ax1, bx1), min(ay1, by1)
    if x0 >= x1 or y0 >= y1:
        return 0
    first = one.crop[y0 - one.y : y1 - one.y, x0 - one.x : x1 - one.x]
    return int(np.count_nonzero(first & other.crop[y0 - other.y : y1 - other.y, x0 - other.x : x1 - other.x]))


def _around(mask: CroppedMask) -> Prompt:
    """A box, corrected by the mask that was found."""
    return Prompt(box=np.array(mask.box, np.float32), mask=mask.full())
