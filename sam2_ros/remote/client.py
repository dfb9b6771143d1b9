"""The client of an inference server (``sam2_ros serve``), with the interface of an engine here. Needs no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import BackendInfo, FrameDropped, FrameRefused
from sam2_ros.inference.recovery import LOST, RESTARTED, UNANSWERED, Recovery, SavedObjects
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.remote.connection import FAILED, ClientKeys, LinkDown, NoAnswer, ServerRefusal
from sam2_ros.remote.link import Link
from sam2_ros.remote.pixels import MODES, PROOF_BYTES, PixelWriter, choose_writer
from sam2_ros.remote.protocol import Header
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.prompt_checks import check_requests
from sam2_ros.tracking.types import (
    CroppedMask,
    FrameResult,
    ObjectChange,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)

__all__ = ["ClientKeys", "RemoteBackend"]

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
        self._changes: list[ObjectChange] = []
        self.info = BackendInfo("unknown", "not connected", "unknown", 0, 0, self._config.max_objects)

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
            answer = self._send_frame(frame, stamp)
        except _LOST as error:
            self._note_loss(reason=UNANSWERED if self._link.up else LOST)
            raise FrameDropped(str(error), self._hidden(frame, stamp)) from error
        except ServerRefusal as error:
            if error.code in (protocol.DROPPED, protocol.BUSY):
                raise FrameDropped(str(error)) from error
            if error.code == protocol.TOO_LARGE:
                cure = "start it with a larger --max-bytes, or send smaller images"
                raise FrameRefused(f"{error}; the server takes no larger images: {cure}") from error
            raise _as_exception(error) from error
        result = self._recovery.go_on(from_wire(FrameResult, answer["result"]))
        moved = self._changes[earlier:]  # by a failover or failback just before this frame
        del self._changes[earlier:]
        result = replace(result, frame_index=self._frames, changes=(*moved, *result.changes))
        self._frames += 1
        self._take(replace(result, changes=(), timings_ms={}, load_shedding=()), frame)
        return result

    def add(self, requests: Sequence[PromptRequest], stamp: int = 0) -> list[PromptResult]:
        check_requests(requests)
        try:
            answers = self._command("add", {"requests": to_wire(list(requests)), "stamp": stamp})
        except FAILED as error:
            return [_as_result(error, request) for request in requests]
        return [self._continued(result) for result in from_wire(list[PromptResult], answers)]

    def refine(self, request: PromptRequest, stamp: int = 0) -> PromptResult:
        try:
            result = self._command("refine", {"request": to_wire(request), "stamp": stamp})
        except FAILED as error:
            return _as_result(error, request)
        return self._continued(from_wire(PromptResult, result))

    def remove(self, object_id: int) -> bool:
        return bool(self._checked_command("remove", {"object_id": object_id}))

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        score = {} if label_score is None else {"label_score": label_score}
        self._checked_command("rename", {"object_id": object_id, "name": name, "label": label, **score})

    def reset(self) -> int:
        return int(self._checked_command("reset", {}))

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
        info = from_wire(BackendInfo, greeting["info"])
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
            self._send_frame(sighting.frame, sighting.stamp)
            for first in range(0, len(requests), _RESTORED_AT_ONCE):
                some = requests[first : first + _RESTORED_AT_ONCE]
                results = from_wire(list[PromptResult], self._ask("restore", {"requests": to_wire(some)})["result"])
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

    def _send_frame(self, frame: NDArray[np.uint8], stamp: int) -> Header:
        most = self._link.connection.greeting.get("max_bytes", math.inf)
        if frame.nbytes > most:
            size = f"an image of {frame.shape[1]} x {frame.shape[0]} pixels has {frame.nbytes} bytes"
            raise ServerRefusal({"code": protocol.TOO_LARGE, "message": f"{size}; accepted: up to {most}"})
        about, part = self._writer.write(frame)
        return self._ask("step", {"stamp": stamp, "frame": about}, part)

    def _ask(self, op: str, fields: Mapping[str, Any], pixels: Any = None) -> Header:
        return self._link.request(op, self._timeout, fields, pixels)

    def _tell(self, op: str, fields: Mapping[str, Any]) -> None:
        """Sends what the next hello sends again, if this fails."""
        if self._link.up:
            try:
                self._ask(op, fields)
            except (*_LOST, ServerRefusal) as error:
                self._link.drop(f"'{op}' failed: {error}")

    def _command(self, op: str, fields: Mapping[str, Any]) -> Any:
        self._ensure_connected()
        answer = self._ask(op, fields)
        self._absorb(answer)
        return answer["result"]

    def _checked_command(self, op: str, fields: Mapping[str, Any]) -> Any:
        """Raises what the engine would raise in this process."""
        try:
            return self._command(op, fields)
        except FAILED as error:
            raise _as_exception(error) from error

    def _absorb(self, answer: Header) -> None:
        """Takes over ids, changes and objects from the answer to a command."""
        self._next_id = int(answer["next_id"])
        self._changes += from_wire(list[ObjectChange], answer["changes"])
        objects = from_wire(FrameResult | None, answer["objects"])  # type: ignore[arg-type]
        if objects is not None:
            living = tuple(sorted(map(self._recovery.continued, objects.objects), key=lambda obj: obj.object_id))
            self._take(replace(objects, objects=living, frame_index=max(0, self._frames - 1)), self._newest_frame)

    def _take(self, result: FrameResult, frame: NDArray[np.uint8] | None) -> None:
        self._newest, self._newest_frame = result, frame
        self._recovery.note(result.objects, frame, result.stamp)

    def _on_late(self, answer: Header) -> None:
        """Takes the changes out of an answer that came too late."""
        if not answer.get("ok"):
            return
        if "changes" in answer:
            self._absorb(answer)
        elif "result" in answer:
            self._changes += from_wire(FrameResult, answer["result"]).changes

    def _continued(self, result: PromptResult) -> PromptResult:
        obj = result.result
        return result if obj is None else replace(result, result=self._recovery.continued(obj))


def _as_result(error: Exception, request: PromptRequest) -> PromptResult:
    """The result of a prompt that was not applied, or may not have been.

    Raises:
        RuntimeError: a fault in the engine, as in this process.
    """
    cause, message = _as_exception(error), str(error)
    code = cause.code if isinstance(cause, PromptError) else PromptCode.FAILED
    if isinstance(error, ServerRefusal):
        if error.code == protocol.FAILED:
            raise cause from error
        if error.code in (protocol.MALFORMED, protocol.TOO_LARGE):
            code = PromptCode.INVALID_PROMPT
    if isinstance(error, NoAnswer):
        message += "; the next frames show whether it was applied"
    return PromptResult(code, message, request.object_id or 0, request.name)


def _as_exception(error: Exception) -> Exception:
    """What an engine in this process would raise."""
    if not isinstance(error, ServerRefusal):
        return PromptError(PromptCode.FAILED, str(error))
    if error.code == protocol.PROMPT:
        return PromptError(PromptCode(int(error.header.get("prompt_code", PromptCode.FAILED))), str(error))
    if error.code in (protocol.INVALID, protocol.MALFORMED, protocol.TOO_LARGE):
        return ValueError(str(error))
    return RuntimeError(str(error))
