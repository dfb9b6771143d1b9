"""One annotated recording on the page: the image that is shown, with its objects, and an overview of all images."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from sam2_ros.annotation.corrections import Corrections, Version
from sam2_ros.annotation.doubts import doubtful_frames
from sam2_ros.annotation.masks import Mask, decode
from sam2_ros.annotation.recordings import Images
from sam2_ros.media.label_images import contours
from sam2_ros.viewer.packets import css_color, finite, jpeg, pack

_MOST_DOUBTS = 1000  # images in the list of the page
_numbers = itertools.count(1)


class StillShot:
    """An image of the recording with its objects; see :class:`~sam2_ros.viewer.session.Shot`."""

    def __init__(self, images: Images, version: Version, frame: int, max_side: int) -> None:
        self.number = next(_numbers)
        self.stamp = frame  # names the image in prompts
        self.arrived = time.monotonic_ns()
        self._images, self._version, self._max_side = images, version, max_side
        self._lock = threading.Lock()
        self._bytes: bytes | None = None

    def packet(self, camera: str) -> bytes:
        """
        Raises:
            UserError: the image can't be read.
        """
        with self._lock:
            if self._bytes is None:
                self._bytes = self._packed(camera)
            return self._bytes

    def _packed(self, camera: str) -> bytes:
        file = self._images.files[self.stamp]
        if max(file.width, file.height) <= self._max_side:
            picture = self._images.jpeg(self.stamp)
        else:
            picture = jpeg(self._images.read(self.stamp), self._max_side)
        points: list[NDArray[np.int16]] = []
        version = self._version
        here = {key: version.masks.get((self.stamp, key)) for key in version.labels}
        order = sorted(here, key=lambda key: (here[key] is None, key))  # those that are seen first
        objects = [_described(version, self.stamp, key, here[key], points) for key in order]
        header = {
            "stamp": str(self.stamp), "width": file.width, "height": file.height, "number": self.number,
            "camera": camera, "tracks": {"objects": objects},
        }  # fmt: skip
        return pack(header, points, picture)


def _described(
    version: Version, frame: int, key: int, mask: Mask | None, points: list[NDArray[np.int16]]
) -> dict[str, object]:
    """An object for the page, as those of a live picture."""
    label = version.labels[key]
    described: dict[str, object] = {
        "id": key, "name": label, "label": label, "state": "absent", "visibility": 0.0, "predicted_iou": 0.0,
        "prompted": (frame, key) in version.corrected, "area": 0, "box": [0, 0, 0, 0], "color": css_color(key),
        "contours": [],
    }  # fmt: skip
    if mask is not None:
        cropped = decode(mask.mask)
        found = [contour for contour, _ in contours(cropped.crop, cropped.x, cropped.y)]
        points.extend(found)
        described |= {
            "state": "visible", "visibility": finite(mask.score, 4), "predicted_iou": finite(mask.predicted_iou, 4),
            "area": cropped.area, "box": list(cropped.box), "contours": [len(contour) for contour in found],
        }  # fmt: skip
    return described


class Reviewed:
    """A recording under review; see :class:`~sam2_ros.viewer.session.Camera`.

    Args:
        on_shot: called when another picture is to be shown; from any thread.
    """

    def __init__(self, corrections: Corrections, images: Images, max_side: int, on_shot: Callable[[], None]) -> None:
        self.name = corrections.recording.name
        self.corrections = corrections
        self.images = images
        self.work = ""  # what goes on, for the page
        doubtful = doubtful_frames(corrections.now.reasons)
        self._frame = doubtful[0][0] if doubtful else 0
        self._max_side, self._on_shot = max_side, on_shot
        self._shot: StillShot | None = None
        self._lock = threading.Lock()  # guards both: the page moves on while the worker corrects

    def shot(self, live: bool) -> StillShot | None:
        """None until somebody has watched: of many recordings, no images are read for their tabs."""
        return self._shot

    def show(self, frame: int | None = None) -> int:
        """Shows an image to all browsers; None: the same one again. Returns the picture's number."""
        with self._lock:
            if frame is not None:
                self._frame = frame
            shot = self._shot = StillShot(self.images, self.corrections.now, self._frame, self._max_side)
        self._on_shot()
        return shot.number

    def history_message(self) -> str:
        if self._shot is None:
            self.show()
        return json.dumps(self.overview())

    def overview(self) -> dict[str, object]:
        """All images at once: doubts, the most doubtful first, and where each object is."""
        now = self.corrections.now
        seen, corrected = _by_object(now.masks), _by_object(now.corrected)
        objects = [
            {"id": key, "name": label, "color": css_color(key), "runs": _runs(seen[key]), "corrected": corrected[key]}
            for key, label in now.labels.items()
        ]
        doubts = [
            [frame, round(doubt, 3), sorted({(each.kind, each.object_id) for each in reasons})]
            for frame, doubt, reasons in doubtful_frames(now.reasons)
        ]
        return {
            "type": "overview", "camera": self.name, "images": len(self.images), "objects": objects,
            "doubts": doubts[:_MOST_DOUBTS], "doubtful": len(doubts), "changed": self.corrections.changed,
            "undo": self.corrections.can_undo, "work": self.work,
        }  # fmt: skip


def _by_object(places: Iterable[tuple[int, int]]) -> Mapping[int, list[int]]:
    """The images of each object, in order."""
    found: dict[int, list[int]] = defaultdict(list)
    for frame, key in sorted(places):
        found[key].append(frame)
    return found


def _runs(frames: list[int]) -> list[list[int]]:
    """First and last of each run of numbers without a gap."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and runs[-1][1] == frame - 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return runs
