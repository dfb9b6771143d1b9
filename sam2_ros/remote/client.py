"""The client of an inference server (``sam2_ros serve``), with the interface of an engine here. Needs no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import BackendInfo, FrameDropped, FrameRefused
from sam2_ros.inference.recovery import LOST, RESTARTED, UNANSWERED, Recovery, SavedObjects
from sam2_ros.remote import answers, protocol
from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.remote.connection import FAILED, ClientKeys, LinkDown, NoAnswer, ServerRefusal
from sam2_ros.remote.link import Link
from sam2_ros.remote.pixels import MODES, PROOF_BYTES, PixelWriter, choose_writer
from sam2_ros.remote.protocol import Header
from sam2_ros.remote.refusals import as_exception, as_result
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.prompt_checks import check_requests
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectChange, PromptRequest, PromptResult

__all__ = ["ClientKeys", "RemoteBackend"]

T = TypeVar("T")

NOT_CONNECTED = "not connected"  # in place of a device
_LOST = (LinkDown, NoAnswer)
_RESTORED_AT_ONCE = 8  # objects, whose masks must fit into a header


class RemoteBackend:
    """A :class:`~sam2_ros.inference.backend.Backend` whose tracker runs in an inference server.

    It connects when it is first used, and reconnects with backoff. Failover: another server, or the same one after a
    restart, gets the objects with their last good frames and masks. They keep their ids, and are OCCLUDED until they
    are seen. Without a server, a frame raises :class:`FrameDropped` and a command is refused.

    Failback: when a preferred server is healthy again, the stream returns to it between two frames, while no object is
    hidden. Visible objects stay visible, because the server takes them over from the newest frame.

    Args:
        endpoints: servers in the order of preference; the first that answers serves.
        config: settings of the tracker.
        timeout: seconds that an answer may take, and that a frame or a command waits for a connection.
        pixels: "raw"; "jpeg" (smaller, not exact); "shm" (shared memory, for a server on this machine); "auto" takes
            shared memory where endpoint and server allow it, else raw. Frames must not change after :meth:`step`: the
            client keeps the last good frame of each object.
        quality: of JPEG, 1 to 100.
        client_keys: for a server that asks for keys.
        return_after: seconds for which a preferred server must be healthy before failback; 0 = no failback.

    Raises:
        ValueError: an argument can't be used.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        config: TrackerConfig | None = None,
        timeout: float = 5.0,
        pixels: str = "auto",
        quality: int = 90,
        client_keys: ClientKeys | None = None,
        return_after: float = 0.0,
    ) -> None:
        if pixels not in MODES:
            raise ValueError(f"pixels is {pixels!r}; accepted: {', '.join(MODES)}")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality is {quality}; accepted: 1 to 100")
        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout is {timeout}; accepted: more than 0, up to 3600 seconds")
        if not 0 <= return_after <= 86400:
            raise ValueError(f"return_after is {return_after}; accepted: 0 to 86400 seconds")
        self._config = config or TrackerConfig()
        self._timeout = timeout
        self._mode = pixels
        self._quality = quality
        self._writer = PixelWriter("raw", quality)
        self._next_id = 1
        self._link = Link(endpoints, self._hello, self._on_late, client_keys, return_after)
        self._recovery = Recovery()
        self._newest: FrameResult | None = None  # every living object, without changes
        self._newest_frame: NDArray[np.uint8] | None = None
        self._frames = 0  # processed so far
        self._most_pixels = 1  # of a frame that was sent
        self._changes: list[ObjectChange] = []
        self.info = BackendInfo("unknown", NOT_CONNECTED, "unknown", 0, 0, self._config.max_objects)

    @property
    def next_id(self) -> int:
        return self._next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self._next_id = value
        self._tell("next_id", {"next_id": value})

    def restore(self, saved: SavedObjects) -> None:
        """Continues the objects of an earlier process. The first server that answers gets them; until then, and until
        they are seen, they are OCCLUDED. To be called before :meth:`connect`."""
        self._recovery.recall(saved.sightings)
        self._newest, changes = self._recovery.lose(saved.newest, reason=RESTARTED)
        self._changes += changes
        self._next_id = saved.next_id

    def connect(self, wait: float = 0.0) -> None:
        """Connects now: tries every server once, or for ``wait`` seconds.

        Raises:
            LinkDown: no server answered.
        """
        deadline = time.monotonic() + wait
        while True:
            try:
                return self._ensure_connected()
            except LinkDown:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)

    def configure(self, config: TrackerConfig) -> None:
        self._config.check_change(config)
        self._config = config
        self._tell("configure", self._hello())

    def step(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        """
        Raises:
            FrameDropped: no server, or no answer in time.
            FrameRefused: it is larger than the server takes.
            ValueError: not such a frame.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame is uint8 of shape [H, W, 3]; got {frame.dtype} of shape {list(frame.shape)}")
        earlier = len(self._changes)
        try:
            self._ensure_connected()
            self._fail_back()
            answer = self._track(frame, stamp)
        except _LOST as error:
            self._note_loss(reason=UNANSWERED if self._link.up else LOST)
            raise FrameDropped(str(error), self._hidden(frame, stamp)) from error
        except ServerRefusal as error:
            if error.code in (protocol.DROPPED, protocol.BUSY):
                raise FrameDropped(str(error)) from error
            if error.code == protocol.TOO_LARGE:
                cure = "start it with a larger --max-bytes, or send smaller images"
                raise FrameRefused(f"{error}; the server takes no larger images: {cure}") from error
            raise as_exception(error) from error
        result = self._recovery.go_on(answer)
        moved = self._changes[earlier:]  # by a failover or failback just before this frame
        del self._changes[earlier:]
        result = replace(result, frame_index=self._frames, changes=(*moved, *result.changes))
        self._frames += 1
        self._take(replace(result, changes=(), timings_ms={}, load_shedding=()), frame)
        return result

    def add(self, requests: Sequence[PromptRequest], stamp: int = 0) -> list[PromptResult]:
        check_requests(requests)
        try:
            fields = {"requests": to_wire(list(requests)), "stamp": stamp}
            results = self._command("add", fields, lambda told: self._prompt_results(told, len(requests)))
        except FAILED as error:
            return [as_result(error, request) for request in requests]
        return [self._continued(result) for result in results]

    def refine(self, request: PromptRequest, stamp: int = 0) -> PromptResult:
        try:
            fields = {"request": to_wire(request), "stamp": stamp}
            (result,) = self._command("refine", fields, lambda told: self._prompt_results([told], 1))
        except FAILED as error:
            return as_result(error, request)
        return self._continued(result)

    def remove(self, object_id: int) -> bool:
        return self._checked_command("remove", {"object_id": object_id}, partial(from_wire, bool))

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        score = {} if label_score is None else {"label_score": label_score}
        fields = {"object_id": object_id, "name": name, "label": label, **score}
        self._checked_command("rename", fields, lambda told: None)

    def reset(self) -> int:
        return self._checked_command("reset", {}, partial(from_wire, int))

    def objects(self) -> FrameResult | None:
        return self._newest

    def take_changes(self) -> list[ObjectChange]:
        changes, self._changes = self._changes, []
        return changes

    def link_values(self) -> Mapping[str, object]:
        return {
            **self._link.status(),
            "model": self.info.model,
            "device": self.info.device,
            "dtype": self.info.dtype,
            "image size [px]": self.info.image_size,
            "bank [bytes]": self.info.bank_bytes,
            "history at most [bytes]": self.info.history_bytes,
            "caches of weights [bytes]": self.info.cache_bytes,
        }

    def close(self) -> None:
        self._link.close()
        self._writer.close()
        self._recovery = Recovery()
        self._newest = self._newest_frame = None

    def _hello(self) -> Header:
        return {"tracker": to_wire(self._config)}

    def _ensure_connected(self) -> None:
        """Connects, and hands the objects to a new server."""
        if self._link.up:
            return
        self._link.connect(self._timeout)
        self._note_loss()
        try:
            self._hand_over()
        except FAILED as error:
            self._link.drop(str(error))
            if isinstance(error, ServerRefusal) and error.code == protocol.TOO_LARGE:
                raise
            raise LinkDown(f"the server could not take over: {error}") from error

    def _fail_back(self) -> None:
        """Returns to a preferred server if one is ready and no object is hidden."""
        if not self._link.offered or (self._newest and not self._recovery.may_move(self._newest.objects)):
            return
        if self._link.fail_back(self._hand_over):
            self._note_loss(unseen_only=True)

    def _hand_over(self) -> None:
        """Hands the objects to the connected server; where that fails, nothing changes here."""
        greeting, before = self._link.connection.greeting, self._writer
        with self._believing():
            info = answers.backend_info(greeting)
        proof = greeting.get("shm")
        proof = proof if isinstance(proof, bytes) and len(proof) == PROOF_BYTES else b""
        self._writer = choose_writer(self._mode, self._quality, proof, lambda about: self._ask("pixels", about))
        try:
            done = self._restore()
            self._ask("next_id", {"next_id": self._next_id})
        except BaseException:
            self._writer.close()
            self._writer = before
            raise
        before.close()
        self.info = info
        if self._newest is None:
            return
        taken, changes = self._recovery.restored(self._newest.objects, done)
        self._newest = replace(self._newest, objects=taken)
        self._changes += changes

    def _restore(self) -> dict[int, PromptResult]:
        """Sends every object's last good frame and mask; returns the answers by object id."""
        done: dict[int, PromptResult] = {}
        for sighting, requests in self._recovery.plan(self._newest.objects if self._newest else ()):
            self._track(sighting.frame, sighting.stamp)
            for first in range(0, len(requests), _RESTORED_AT_ONCE):
                some = requests[first : first + _RESTORED_AT_ONCE]
                answer = self._ask("restore", {"requests": to_wire(some)})
                with self._believing():
                    results = self._prompt_results(answer.get("result"), len(some))
                done |= {request.object_id or 0: result for request, result in zip(some, results, strict=True)}
        return done

    def _hidden(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult | None:
        """The objects on a frame that no server has answered."""
        if self._newest is None:
            return None
        height, width = frame.shape[:2]
        nothing = CroppedMask.empty(width, height)
        objects = tuple(replace(obj, mask=nothing) for obj in self._newest.objects)
        return FrameResult(self._frames, stamp, width, height, objects)

    def _note_loss(self, unseen_only: bool = False, reason: str = LOST) -> None:
        """Hides the objects, because no server sees them; with ``unseen_only`` not those that are visible."""
        if self._newest is not None:
            self._newest, changes = self._recovery.lose(self._newest, unseen_only, reason)
            self._changes += changes

    def _track(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        most = self._link.connection.greeting.get("max_bytes", math.inf)
        if frame.nbytes > most:
            size = f"an image of {frame.shape[1]} x {frame.shape[0]} pixels has {frame.nbytes} bytes"
            raise ServerRefusal({"code": protocol.TOO_LARGE, "message": f"{size}; accepted: up to {most}"})
        about, part = self._writer.write(frame)
        height, width = frame.shape[:2]
        self._most_pixels = max(self._most_pixels, height * width)
        answer = self._ask("step", {"stamp": stamp, "frame": about}, part)
        with self._believing():
            return answers.step_result(answer.get("result"), self._config.max_objects, width, height, stamp)

    @contextmanager
    def _believing(self) -> Iterator[None]:
        """Turns a wrong answer into the loss of its server: raises WrongAnswer."""
        try:
            yield
        except protocol.ProtocolError as error:
            raise self._link.distrust(error) from error

    def _prompt_results(self, value: Any, count: int) -> list[PromptResult]:
        return answers.prompt_results(value, count, self._most_pixels)

    def _ask(self, op: str, fields: Mapping[str, Any], pixels: Any = None) -> Header:
        return self._link.request(op, self._timeout, fields, pixels)

    def _tell(self, op: str, fields: Mapping[str, Any]) -> None:
        """Sends what the next hello sends again, if this fails."""
        if self._link.up:
            try:
                self._ask(op, fields)
            except (*_LOST, ServerRefusal) as error:
                self._link.drop(f"'{op}' failed: {error}")

    def _command(self, op: str, fields: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """``read`` decodes the result."""
        self._ensure_connected()
        answer = self._ask(op, fields)
        with self._believing():
            result = read(answer.get("result"))
            self._absorb(answer, self._next_id)
        return result

    def _checked_command(self, op: str, fields: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Raises what the engine would raise in this process."""
        try:
            return self._command(op, fields, read)
        except FAILED as error:
            raise as_exception(error) from error

    def _absorb(self, answer: Header, least_id: int) -> None:
        """Takes over ids, changes and objects from the answer to a command; nothing of a wrong one."""
        next_id = answers.next_id(answer, least_id)
        changes = answers.changes(answer.get("changes"), self._config.max_objects)
        told = answer.get("objects")
        objects = None if told is None else answers.frame_result(told, self._config.max_objects, self._most_pixels)
        self._next_id = max(self._next_id, next_id)
        self._changes += changes
        if objects is not None:
            living = tuple(sorted(map(self._recovery.continued, objects.objects), key=lambda obj: obj.object_id))
            frame = self._newest_frame
            if frame is not None and frame.shape[:2] != (objects.height, objects.width):
                frame = None  # of a newer image, whose own answer did not come
            self._take(replace(objects, objects=living, frame_index=max(0, self._frames - 1)), frame)

    def _take(self, result: FrameResult, frame: NDArray[np.uint8] | None) -> None:
        self._newest, self._newest_frame = result, frame
        self._recovery.note(result.objects, frame, result.stamp)

    def _on_late(self, answer: Header) -> None:
        """Takes the changes out of an answer that came too late; raises ProtocolError for a wrong one."""
        if not answer.get("ok"):
            return
        if "changes" in answer:
            self._absorb(answer, 1)
        elif isinstance(answer.get("result"), dict):  # of a frame
            late = answers.frame_result(answer["result"], self._config.max_objects, self._most_pixels)
            self._changes += late.changes

    def _continued(self, result: PromptResult) -> PromptResult:
        obj = result.result
        return result if obj is None else replace(result, result=self._recovery.continued(obj))
