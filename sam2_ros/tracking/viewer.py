"""Encodes frames for one tracker: whole, or through the windows that its objects need (:mod:`.windows`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import module_of
from sam2_ros.model.network import Array, ImageFeatures, Network
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.deadline import Workload
from sam2_ros.tracking.edges import Edges
from sam2_ros.tracking.history import StoredFrame, View
from sam2_ros.tracking.masks import without
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import BoolMask, CroppedMask, ObjectState
from sam2_ros.tracking.windows import MAX_PIXELS, Frame, Group, Target, Window, plan, serving, window_of

WHOLE_EVERY = 2  # times ``search_every``: it costs two windows, and what is found elsewhere is often wrong

Image = NDArray[np.uint8]
Lap = Callable[[str], None]


class Encoder(Protocol):
    """What a viewer needs of :class:`~sam2_ros.tracking.shared_model.SharedModel`."""

    model: Network
    window_side: int
    ahead: bool

    def prepared(self, image: Image, scale: float) -> Any: ...

    def encode(self, frame: Any) -> ImageFeatures: ...

    def encode_several(self, pixels: Array, model: Network) -> list[ImageFeatures]: ...


class Viewer:
    """Gives objects the views through which they are tracked. Without windows that is always the whole frame."""

    def __init__(self, shared: Encoder, config: TrackerConfig) -> None:
        self.shared = shared
        self.model: Network = shared.model
        self.config = config
        self._latest: View | None = None  # encoded for a prompt; the next one is often for the same window

    @property
    def uses_windows(self) -> bool:
        """Not if frames are encoded ahead: windows follow from the result of the frame before."""
        return self.config.uses_windows(self.model.config.windows) and not self.shared.ahead

    @property
    def follows_edges(self) -> bool:
        """Whether :meth:`draw` does something."""
        return self.config.follows_edges(self.model.config.windows)

    def groups(
        self, objects: Sequence[LiveObject], width: int, height: int, index: int, workload: Workload
    ) -> list[Group]:
        """How ``objects`` are to be seen in the frame number ``index``."""
        if not self.uses_windows:
            side, keys = self.model.config.image_size, tuple(obj.object_id for obj in objects)
            return [Group(Window.whole(width, height), side, keys)]
        frame = self._frame(width, height, workload)
        return self._sized(plan([target_of(obj, frame, index) for obj in objects], frame), frame)

    def next_window(self, obj: LiveObject, width: int, height: int, index: int, workload: Workload) -> Window:
        """The window that an object has on the frame number ``index``, whether the network looks at it or not."""
        frame = self._frame(width, height, workload)
        return window_of(target_of(obj, frame, index), frame)

    def encode(self, image: Image, groups: Sequence[Group], workload: Workload, lap: Lap) -> list[ImageFeatures]:
        """The features of ``image`` for each of ``groups``, which are of one side."""
        windows = [group.window for group in groups]
        return self._encode_windows(image, windows, groups[0].side, workload, lap)

    def kept_image(self, image: Image) -> Image | None:
        """The image as it is to be stored: a copy, since its owner may use its memory again."""
        if not (self.uses_windows or self.follows_edges):
            return None
        return bounded(image)

    def look(
        self, objects: list[LiveObject], stored: StoredFrame, workload: Workload
    ) -> list[tuple[View, list[LiveObject]]]:
        """Divides ``objects`` by the window through which each is seen on ``stored``."""
        if not objects:
            return []
        groups = self.groups(objects, stored.width, stored.height, stored.frame, workload)
        if any((group.window, group.side) not in stored.features for group in groups):
            groups = self._groups_again(objects, stored, workload)
        known = {obj.object_id: obj for obj in objects}
        return [(self.view(stored, group.window, group.side), [known[key] for key in group.keys]) for group in groups]

    def view(self, stored: StoredFrame, window: Window, side: int) -> View:
        """``stored`` through ``window``; encodes it if need be, and if the image is not stored takes another window."""
        features = stored.features.get((window, side))
        if features is None and stored.image is not None:
            latest = self._latest
            if latest is None or (latest.frame, latest.window, latest.model) != (
                stored.frame, window, self.model.at(side),
            ):  # fmt: skip
                rows, columns = stored.image.shape[:2]
                place = window.scaled(stored.width, stored.height, columns, rows)
                (features,) = self._encode_windows(stored.image, [place], side, Workload())
                latest = self._latest = _view(stored, window, self.model.at(side), features)
            return latest
        if features is None:
            (window, side), features = next(iter(stored.features.items()))
        return _view(stored, window, self.model.at(side), features)

    def edges_of(self, stored: StoredFrame) -> Edges | None:
        """The edges of a frame; None if masks are to stay as the network draws them, or its image is not stored."""
        if not self.follows_edges or stored.image is None:
            return None
        return Edges(stored.image, stored.width, stored.height)

    def draw(
        self, objects: Collection[LiveObject], stored: StoredFrame, given: Mapping[int, BoolMask] | None = None
    ) -> None:
        """Gives the masks of ``objects`` on ``stored`` its edges, if that is set, for results: tracking takes the masks
        as they are. By id, ``given`` are the masks of prompts, which are shown as they were given."""
        edges = self.edges_of(stored)
        if edges is None:
            return
        for obj in objects:
            mask, logits = obj.mask, obj.logits
            if obj.newest_frame != stored.frame or mask is None or not mask.crop.size or logits is None:
                continue
            if obj.drawn is not None and obj.drawn[0] is mask:
                continue
            window = obj.window or Window.whole(stored.width, stored.height)
            if given and obj.object_id in given:
                drawn = CroppedMask.from_full(given[obj.object_id])
            elif obj.prompt_frame == stored.frame and not len(obj.points):
                continue  # a mask was given, and is known only as the network has it
            elif obj.looked_frame == stored.frame:
                drawn = edges.draw(logits, window)
            else:
                drawn = edges.redraw(mask, window, int(logits.shape[-1]))  # its logits are those of a carried mask
            if self.config.non_overlap:
                others = [other.shown for other in objects if other is not obj and other.newest_frame == stored.frame]
                drawn = without(drawn, [other for other in others if other is not None])
            obj.drawn = mask, drawn if drawn.crop.size else mask

    def looks_at_all(self, stored: StoredFrame) -> bool:
        """Whether ``stored`` is searched for things that may be anywhere: with windows, where it is encoded as a whole
        or its turn has come."""
        whole = Window.whole(stored.width, stored.height), self.model.config.image_size
        return whole in stored.features or self.turn_of_all(stored.frame) is not None

    def turn_of_all(self, frame: int) -> int | None:
        """The number of the turn if ``frame`` is seen as a whole, beside its windows, while something is missing."""
        turn, rest = divmod(frame, WHOLE_EVERY * self.config.search_every)
        return turn if self.uses_windows and not rest else None

    def whole_view(self, stored: StoredFrame) -> View:
        return self.view(stored, Window.whole(stored.width, stored.height), self.model.config.image_size)

    def views_for_boxes(self, boxes: Sequence[Sequence[float]], stored: StoredFrame) -> list[View]:
        """The views for new objects in ``boxes`` (edges in pixels): those in which the next frame will show them beside
        the objects that there are, so that their first memory has the scale of later frames."""
        if not self.uses_windows:
            return [self.whole_view(stored)] * len(boxes)
        if self.config.window_budget:  # there the objects take turns, so that each always has a window of its own
            return [self.view_around(box, stored) for box in boxes]
        objects = [obj for obj in stored.objects.values() if obj.awaited is None]
        frame = self._frame(stored.width, stored.height, Workload())
        targets = [target_of(obj, frame, stored.frame) for obj in objects]
        targets += [Target(-1 - key, (x0, y0, x1, y1)) for key, (x0, y0, x1, y1) in enumerate(boxes)]
        views: dict[int, View] = {}
        for group in self._sized(plan(targets, frame), frame):
            new = [-1 - key for key in group.keys if key < 0]
            views.update(dict.fromkeys(new, self.view(stored, group.window, group.side)) if new else {})
        return [views[index] for index in range(len(boxes))]

    def view_around(self, box: Sequence[float], stored: StoredFrame) -> View:
        """The view of a window for what is in ``box`` (edges in pixels) alone."""
        frame = self._frame(stored.width, stored.height, Workload())
        window, whole = frame.window((box[0], box[1], box[2], box[3])), (frame.whole, self.model.config.image_size)
        # As the next frame will show it: beside windows the whole frame has their side.
        alone = window == frame.whole and whole in stored.features
        return self.view(stored, window, whole[1] if alone else frame.side)

    def view_of(self, obj: LiveObject, stored: StoredFrame) -> View:
        """The view through which ``obj`` was seen on ``stored``."""
        if obj.window is None or not self.uses_windows:
            return self.whole_view(stored)
        return self.view(stored, *self._key_of(stored, obj.window))

    def _frame(self, width: int, height: int, workload: Workload) -> Frame:
        side = self.shared.window_side
        if workload.input_scale < 1 and self.model.shrinks:
            side = min(side, self.model.config.scaled_size(workload.input_scale))
        return Frame(width, height, side)

    def _groups_again(self, objects: list[LiveObject], stored: StoredFrame, workload: Workload) -> list[Group]:
        """Windows for an older frame: those that were encoded then, where they serve."""
        frame = self._frame(stored.width, stored.height, workload)
        members: dict[tuple[Window, int], list[int]] = {}
        rest = []
        for obj in objects:
            target = target_of(obj, frame, stored.frame)
            window = serving(target, (window for window, _ in stored.features), frame)
            if window is None:
                rest.append(target)
            else:
                members.setdefault(self._key_of(stored, window), []).append(obj.object_id)
        found = [Group(window, side, tuple(keys)) for (window, side), keys in members.items()]
        return found + (plan(rest, frame) if rest else [])

    def _key_of(self, stored: StoredFrame, window: Window) -> tuple[Window, int]:
        """The stored features of ``window``; if there are none, those that it has in the size of the others, or of
        windows if that is smaller."""
        side = min(next(iter(stored.features))[1], self.shared.window_side)
        return next((key for key in stored.features if key[0] == window), (window, side))

    def _sized(self, groups: list[Group], frame: Frame) -> list[Group]:
        """``groups``, with the input of whole frames if there is no window among them: such a frame takes as long as
        without windows, and shows as much."""
        side = self.model.config.image_size
        if frame.side != self.shared.window_side or any(group.window != frame.whole for group in groups):
            return groups
        return [replace(group, side=side) for group in groups]

    def _encode_windows(
        self, image: Image, windows: Sequence[Window], side: int, workload: Workload, lap: Lap = lambda _: None
    ) -> list[ImageFeatures]:
        height, width = image.shape[:2]
        if not self.uses_windows or (side == self.model.config.image_size and windows == [Window.whole(width, height)]):
            prepared = self.shared.prepared(image, 1.0 if self.uses_windows else workload.input_scale)
            lap("resize")
            return [self.shared.encode(prepared)]
        model = self.model.at(side)
        crops = [image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] for x0, y0, x1, y1 in windows]
        inputs = [model.preprocess(upload(crop, model.device)) for crop in crops]
        lap("resize")
        return self.shared.encode_several(module_of(inputs[0]).concatenate(inputs), model)


def _view(stored: StoredFrame, window: Window, model: Network, features: ImageFeatures) -> View:
    return View(stored.frame, stored.stamp, stored.width, stored.height, window, model, features)


def target_of(obj: LiveObject, frame: Frame, index: int) -> Target:
    """What the frame number ``index`` needs to know of an object: where it is expected, as large as it usually is. A
    mask of a part of it must not shrink its window."""
    size, trail = np.array([frame.width, frame.height]), obj.trail
    box = np.array(frame.whole if obj.box is None else obj.box, np.float64)
    if trail.frames and trail.frames[-1] == obj.box_frame:
        box = np.array(trail.boxes[-1]) * np.tile(size, 2)
    seen = (box[0], box[1], box[2], box[3]) if obj.state is ObjectState.VISIBLE else None
    half = np.maximum(box[2:] - box[:2], trail.usual_size * size) / 2
    middle = (box[:2] + box[2:]) / 2
    if trail.frames and trail.frames[-1] == index - 1:
        middle += trail.step * size
    x0, y0, x1, y1 = np.concatenate((middle - half, middle + half)).tolist()
    return Target(obj.object_id, (x0, y0, x1, y1), obj.window, seen)


def bounded(image: Image) -> Image:
    """A copy of the image, made smaller to :data:`MAX_PIXELS` if it has more."""
    if image.shape[0] * image.shape[1] <= MAX_PIXELS:
        return image.copy()
    factor = (MAX_PIXELS / (image.shape[0] * image.shape[1])) ** 0.5
    size = max(1, int(image.shape[1] * factor)), max(1, int(image.shape[0] * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
