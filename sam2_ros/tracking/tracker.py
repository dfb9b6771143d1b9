"""The streaming tracker: encodes each image once, tracks all objects as one batch, and never grows.

A prompt applies to the frame of its stamp while that is stored; without a stamp, to the frame of the last
:meth:`Tracker.step`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import inference
from sam2_ros.model.config import DTYPES
from sam2_ros.model.network import HOST, ImageFeatures, Network
from sam2_ros.text import counted
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.camera_motion import STANDING, CameraMotion, Motion
from sam2_ros.tracking.clock import Clock, clock_of
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.deadline import SHEDDING_STEPS, LoadShedder, Workload
from sam2_ros.tracking.edges import Edges
from sam2_ros.tracking.history import FrameHistory, StoredFrame, View, most_bytes
from sam2_ros.tracking.look_scheduler import LookScheduler, encode_work, larger_work
from sam2_ros.tracking.mask_follower import FollowedMask
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.prompt_checks import check_names, check_requests
from sam2_ros.tracking.prompt_decoder import PromptDecoder
from sam2_ros.tracking.prompt_transaction import PromptTransaction
from sam2_ros.tracking.propagation import Propagation
from sam2_ros.tracking.registry import Registry
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import (
    EventCode,
    FrameResult,
    ObjectChange,
    ObjectState,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)
from sam2_ros.tracking.viewer import Viewer
from sam2_ros.tracking.windows import Window

MAX_CHANGES = 1000  # not taken yet; beyond it the oldest is dropped, so that the process does not grow


@dataclass(frozen=True)
class EncodedFrame:
    """The result of :meth:`Tracker.encode`."""

    width: int  # pixels
    height: int
    features: dict[tuple[Window, int], ImageFeatures]  # by window and side of the network's input
    image: NDArray[np.uint8] | None  # as it is to be stored
    waiting: dict[int, FollowedMask]  # see StoredFrame
    motion: Motion  # of the picture, from the frame before
    level: int  # of load shedding (:class:`~sam2_ros.tracking.deadline.LoadShedder`)
    laps: dict[str, float]  # ms by stage; empty within step


class Tracker:
    """Tracks prompted objects through a stream of frames. Not thread-safe.

    Args:
        model: network with loaded weights, on its device; several trackers may share one.
        config: settings; :meth:`configure` changes them.
        dtype: "float32", or "bfloat16" for autocast with float32 weights, as the official models are run. Of a network
            of graphs: what they compute in, also "int8".
        shared: ``model`` as shared with trackers in other threads.
    """

    def __init__(
        self,
        model: Network,
        config: TrackerConfig | None = None,
        dtype: str = "float32",
        shared: SharedModel | None = None,
    ) -> None:
        accepted = ("float32", "bfloat16") if model.graphs is None else DTYPES[1:]
        if dtype not in accepted:
            raise ValueError(f"dtype is {dtype!r}; accepted: {', '.join(map(repr, accepted))}")
        self.model = model
        self.config = config or TrackerConfig()
        self.dtype = dtype
        self._shared = shared or SharedModel(model, dtype)
        self.bank = MemoryBank(model, self.config)
        self.history = FrameHistory(self.config)
        self._registry = Registry(self.config.max_objects)
        self._objects = self._registry.objects
        self._viewer = Viewer(self._shared, self.config)
        self._prompts = PromptDecoder(self._viewer, self.bank, self.config)
        self._propagation = self._make_propagation()
        self._scheduler = LookScheduler(encode_work(model.config), larger_work(model.config, self._shared.window_side))
        self._camera = CameraMotion()
        self._load_shedder = LoadShedder(self.config.deadline, len(SHEDDING_STEPS) - (not model.shrinks))
        self._frame = -1  # index of the newest frame
        self._changes: deque[ObjectChange] = deque(maxlen=MAX_CHANGES)

    def _make_propagation(self) -> Propagation:
        if not self._shared.use_graphs:
            return Propagation(self._viewer, self.bank, self.config, self._shared.dtype)
        from sam2_ros.tracking.cuda_propagation import CudaPropagation

        return CudaPropagation(self._shared, self._viewer, self.bank, self.config)

    @property
    def next_id(self) -> int:
        """Id of the next new object; may be set before the first one, to continue those of an earlier tracker."""
        return self._registry.next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self._registry.next_id = value

    @property
    def history_bytes(self) -> int:
        """The most bytes of the stored frames (beside ``bank.nbytes``)."""
        dtype = "float32" if self.model.device == HOST else self.dtype
        return most_bytes(self.model.config, self.config, dtype, self._shared.window_side)

    def configure(self, config: TrackerConfig) -> None:
        """Applies other settings from the next frame or prompt on.

        Raises:
            ValueError: a setting differs that can't change while the tracker lives; nothing has changed then.
        """
        self.config.check_change(config)
        self.config = config
        for part in (self.bank, self.history, self._prompts, self._viewer):
            part.config = config
        self._propagation.configure(config)
        self._load_shedder.deadline = config.deadline

    # -- frames ------------------------------------------------------------------------------------------------

    def encode(self, frame: NDArray[np.uint8]) -> EncodedFrame:
        """The part of :meth:`step` that depends on no other frame, so that another thread may do it while the frame
        before is tracked. With windows it follows from that frame, and is done once for each.

        Args:
            frame: RGB ``uint8 [H, W, 3]``.

        Raises:
            ValueError: another dtype or shape.
        """
        clock = clock_of(self.model.device)
        with inference(self.model.device):
            return replace(self._encode(frame, clock), laps=clock.finish())

    def _encode(self, frame: NDArray[np.uint8], clock: Clock) -> EncodedFrame:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame is uint8 of shape [H, W, 3]; got {frame.dtype} of shape {list(frame.shape)}")
        level = self._load_shedder.level
        workload = Workload.at(level)
        height, width = frame.shape[:2]
        image = self._viewer.kept_image(frame)
        due: list[LiveObject] = []
        waiting: dict[int, FollowedMask] = {}
        motion = STANDING
        if self._viewer.uses_windows:  # else another thread may be tracking the objects
            motion = self._camera_motion(frame)
            # Copies, since a prompt may still change the objects on the frame before.
            objects = [obj.snapshot() for obj in self._objects.values()]
            for obj in objects:
                obj.follow_camera(motion, width, height)
            due = self._propagation.due(objects, self._frame + 1, workload)
            waiting = self._waiting(due, image, width, height, workload, motion)
            due = [obj for obj in due if obj.object_id not in waiting]
        groups = self._viewer.groups(due, width, height, self._frame + 1, workload)
        maps = self._viewer.encode(frame, groups, workload, clock.lap)
        clock.lap("encode")
        features = {(group.window, group.side): each for group, each in zip(groups, maps, strict=True)}
        return EncodedFrame(width, height, features, image, waiting, motion, level, {})

    def _camera_motion(self, image: NDArray[np.uint8]) -> Motion:
        """How the camera moves the picture from the newest frame to the next one, which is ``image``."""
        height, width = image.shape[:2]
        seen = [obj.box for obj in self._objects.values() if obj.state is ObjectState.VISIBLE and obj.box is not None]
        things = [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in seen]
        return self._camera.follow(image, self._frame + 1, things if self._objects else None)

    def _waiting(
        self,
        due: list[LiveObject],
        image: NDArray[np.uint8] | None,
        width: int,
        height: int,
        workload: Workload,
        motion: Motion,
    ) -> dict[int, FollowedMask]:
        """Those of the objects that are ``due`` on the next frame at which the network will not look."""
        frame = self._frame + 1
        windows = [(obj, self._viewer.next_window(obj, width, height, frame, workload)) for obj in due]
        searches = self._propagation.searches(list(self._objects.values()), frame)
        return self._scheduler.waiting(
            windows, image, frame, (width, height), self.config.window_budget, searches, motion
        )

    def step(self, frame: NDArray[np.uint8] | EncodedFrame, stamp: int = 0) -> FrameResult:
        """Tracks every object in ``frame``.

        Args:
            frame: RGB ``uint8 [H, W, 3]`` of any size, or the result of :meth:`encode`.
            stamp: of the frame, nanoseconds.

        Raises:
            ValueError: another dtype or shape; nothing has changed then.
        """
        with inference(self.model.device):
            return self._step(frame, stamp)

    def _step(self, frame: NDArray[np.uint8] | EncodedFrame, stamp: int) -> FrameResult:
        clock = clock_of(self.model.device)
        encoded = frame if isinstance(frame, EncodedFrame) else self._encode(frame, clock)
        level = encoded.level
        self._propagation.workload = Workload.at(level)
        features = dict(zip(encoded.features, self.history.place(list(encoded.features.values())), strict=True))
        clock.lap("encode")
        self._frame += 1
        stored = StoredFrame(
            self._frame, stamp, encoded.width, encoded.height, features, encoded.image, encoded.waiting, encoded.motion
        )
        self.history.append(stored)
        objects = list(self._objects.values())
        changes: list[ObjectChange] = []
        try:
            if objects:
                with self._shared.turn():
                    changes = self._propagation.track(objects, stored, clock.lap)
        finally:
            stored.store(objects)
        changes += self._drop_lost(objects)
        self._viewer.draw(objects, stored)
        clock.lap("masks")
        laps = clock.finish()
        for name, taken in encoded.laps.items():
            laps[name] = taken + laps.get(name, 0.0)
        self._load_shedder.took(sum(laps.values()), level)
        return replace(
            self._result(stored), changes=tuple(changes), timings_ms=laps, load_shedding=SHEDDING_STEPS[:level]
        )

    # -- commands ----------------------------------------------------------------------------------------------

    def add(self, requests: Sequence[PromptRequest], stamp: int = 0) -> list[PromptResult]:
        """Applies prompts to the frame stamped ``stamp`` (nanoseconds; 0 = the newest); one result each, refusals
        included.

        A request without ``object_id`` adds a new object; with the id of a living one it corrects that object. A late
        prompt, on a stored frame that is not the newest, also tracks its object from there to now. Other objects are
        not affected.

        Raises:
            PromptError: there are too many requests or points; nothing has changed then.
        """
        check_requests(requests)
        try:
            stored = self.history.find(stamp)
        except PromptError as error:
            return [_refusal(error, request) for request in requests]
        transaction = PromptTransaction(self._registry, self.history, self._prompts, self._propagation, stored, stamp)
        results: dict[int, PromptResult] = {}
        waiting: list[int] = []

        def apply() -> None:
            applied, changes = transaction.apply()
            results.update(zip(waiting, applied, strict=True))
            self._changes.extend(changes)
            waiting.clear()

        with self._shared.turn():
            for index, request in enumerate(requests):
                if transaction.holds(request.object_id) or (waiting and request.prompt.like is not None):
                    # A second prompt for the same object builds on the answer to the first. If a picture can't be
                    # encoded, nothing is half done.
                    apply()
                try:
                    if request.prompt.like is not None:
                        results[index], added = transaction.add_awaited(request)
                        self._changes.append(added)
                        continue
                    transaction.admit(request)
                    waiting.append(index)
                except PromptError as error:
                    results[index] = _refusal(error, request)
            if waiting:
                apply()
        return [results[index] for index in range(len(requests))]

    def refine(self, request: PromptRequest, stamp: int = 0) -> PromptResult:
        """Corrects a living object (``request.object_id``) on the frame stamped ``stamp``, as :meth:`add` does."""
        if request.object_id is None:
            return PromptResult(PromptCode.UNKNOWN_OBJECT, "a correction needs the id of a living object")
        return self.add([request], stamp)[0]

    def remove(self, object_id: int) -> bool:
        """Forgets an object; its id is never used again. False when there is none of this id."""
        obj = self._objects.get(object_id)
        if obj is None:
            return False
        self._forget(obj)
        self._changes.append(obj.change(EventCode.REMOVED, obj.state, "removed by request", gone=True))
        return True

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        """Changes name and label, and the label's score unless ``label_score`` is None.

        Raises:
            PromptError: no such object, the name is another one's, or can't be used.
        """
        check_names(name, label, label_score)
        obj = self._registry.living(object_id)
        self._registry.check_name(name, object_id)
        obj.name, obj.label = name, label
        if label_score is not None:
            obj.label_score = label_score

    def reset(self) -> int:
        """Forgets every object; returns how many there were. Ids go on from where they were."""
        return sum(self.remove(object_id) for object_id in list(self._objects))

    def objects(self) -> FrameResult | None:
        """Every living object as of the newest frame; None before the first."""
        newest = self.history.newest
        return None if newest is None else self._result(newest)

    def newest_view(self) -> View | None:
        """The whole newest frame as the network sees it; None before the first."""
        newest = self.history.newest
        if newest is None:
            return None
        with inference(self.model.device), self._shared.turn():
            return self._viewer.whole_view(newest)

    def newest_edges(self) -> Edges | None:
        """Those of the newest frame; None before the first, or if masks are shown as the network draws them."""
        newest = self.history.newest
        return None if newest is None else self._viewer.edges_of(newest)

    def take_changes(self) -> list[ObjectChange]:
        """Changes since the last call that no :class:`FrameResult` carried; at most the newest :data:`MAX_CHANGES`."""
        changes = list(self._changes)
        self._changes.clear()
        return changes

    def close(self) -> None:
        """Forgets all objects and frames."""
        self.reset()
        self.history.clear()

    def _drop_lost(self, objects: list[LiveObject]) -> list[ObjectChange]:
        longest = self.config.drop_after
        changes = []
        for obj in objects:
            if longest and obj.state is ObjectState.LOST and obj.presence.absent_for > longest:
                self._forget(obj)
                reason = f"not seen for {counted(obj.presence.absent_for, 'frame')} (tracker.drop_after)"
                changes.append(obj.change(EventCode.DROPPED, obj.state, reason, gone=True))
        return changes

    def _forget(self, obj: LiveObject) -> None:
        del self._objects[obj.object_id]
        self.bank.clear(obj.row)
        self.history.forget(obj.object_id)

    def _result(self, stored: StoredFrame) -> FrameResult:
        results = tuple(obj.result(stored.width, stored.height) for obj in self._objects.values())
        return FrameResult(stored.frame, stored.stamp, stored.width, stored.height, results)


def _refusal(error: PromptError, request: PromptRequest) -> PromptResult:
    return PromptResult(error.code, str(error), object_id=request.object_id or 0, name=request.name)
