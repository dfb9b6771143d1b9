"""An engine behind a ZeroMQ socket (``sam2_ros serve``), with the interface of one in this process. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.backend import BackendInfo, FrameDropped
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.remote.connection import ClientKeys, LinkDown, NoAnswer, ServerRefusal
from sam2_ros.remote.link import Link
from sam2_ros.remote.pixels import MODES, PixelWriter, choose_writer
from sam2_ros.remote.protocol import Header, ProtocolError
from sam2_ros.remote.recovery import Recovery
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import AddRequest, FrameResult, ObjectChange, PromptCode, PromptError, PromptResult

__all__ = ["ClientKeys", "RemoteBackend"]

_LOST = (LinkDown, NoAnswer)
_FAILED = (*_LOST, ServerRefusal, ProtocolError)


class RemoteBackend:
    """A :class:`~sam2_ros.inference.backend.Backend` whose tracker runs in an inference server.

    It connects when it is first used, and again with back-off whenever it must. Another server, or the same one started
    anew, is given the objects with their last good frames and masks: they keep their ids, and are OCCLUDED until they
    are seen. Without a server, a frame raises :class:`FrameDropped` and a command is refused.

    A server before the present one in the list gets the stream back once it is there again, between two frames and
    while no object is hidden: those in sight stay so, since it takes them over from the newest frame.

    Args:
        endpoints: servers in the order of preference; the first that answers serves.
        config: settings of the tracker.
        timeout: seconds that an answer may take, and that a frame or a command waits for a connection.
        pixels: "raw"; "jpeg" (smaller, not exact); "shm" (shared memory, for a server on this machine); "auto" takes
            shared memory where endpoint and server allow it, else raw. Frames must not be changed afterwards: those
            with the objects' last sightings are kept.
        quality: of JPEG, 1 to 100.
        client_keys: for a server that asks for keys.
        return_after: seconds for which a preferred server must have answered before the stream goes back to it; 0 = it
            stays where it is until that server is lost.

    Raises:
        ValueError: an argument can't be used, with what is accepted.
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
        self._frames = 0  # processed
        self._changes: list[ObjectChange] = []
        self._info = BackendInfo("unknown", "not connected", "unknown", 0, 0, self._config.max_objects)

    # ---- Backend ----

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def next_id(self) -> int:
        return self._next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self._next_id = value
        if self._link.up:
            try:
                self._ask("next_id", {"next_id": value})
            except (*_LOST, ServerRefusal):
                self._link.drop("the next id could not be set")  # the next hello says it

    def connect(self, wait: float = 0.0) -> None:
        """Connects now: tries the list once, or for ``wait`` seconds, and no longer than the time limit of an answer.

        Raises:
            LinkDown: no server answered, with the reasons.
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
        if self._link.up:
            try:
                self._ask("configure", self._hello())
            except (*_LOST, ServerRefusal):
                self._link.drop("the settings could not be changed")  # the next hello says them

    def step(self, frame: NDArray[np.uint8], stamp: int) -> FrameResult:
        """
        Raises:
            FrameDropped: no server, or no answer in time.
            ValueError: the engine does not accept the frame.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame is uint8 of shape [H, W, 3]; got {frame.dtype} of shape {list(frame.shape)}")
        earlier = len(self._changes)
        try:
            self._ensure_connected()
            self._go_back()
            answer = self._send_frame(frame, stamp)
        except _LOST as error:
            if not self._link.up:
                self._note_loss()
            raise FrameDropped(str(error)) from error
        except ServerRefusal as error:
            if error.code in (protocol.DROPPED, protocol.BUSY):
                raise FrameDropped(str(error)) from error
            raise _as_exception(error) from error
        result = self._recovery.go_on(from_wire(FrameResult, answer["result"]))
        moved = self._changes[earlier:]  # from one server to another, just before this frame
        del self._changes[earlier:]
        result = replace(result, frame_index=self._frames, changes=(*moved, *result.changes))
        self._frames += 1
        self._take(replace(result, changes=(), timings_ms={}, economies=()), frame)
        return result

    def add(self, requests: Sequence[AddRequest], stamp: int = 0) -> list[PromptResult]:
        try:
            result = self._command("add", {"requests": to_wire(list(requests)), "stamp": stamp})
        except _FAILED as error:
            return [_as_result(error, request) for request in requests]
        return [self._continued(each) for each in from_wire(list[PromptResult], result)]

    def refine(self, request: AddRequest, stamp: int = 0) -> PromptResult:
        try:
            result = self._command("refine", {"request": to_wire(request), "stamp": stamp})
        except _FAILED as error:
            return _as_result(error, request)
        return self._continued(from_wire(PromptResult, result))

    def remove(self, object_id: int) -> bool:
        return bool(self._told("remove", {"object_id": object_id}))

    def rename(self, object_id: int, name: str, label: str, label_score: float | None = None) -> None:
        told = {"object_id": object_id, "name": name, "label": label}
        self._told("rename", told if label_score is None else {**told, "label_score": label_score})

    def reset(self) -> int:
        return int(self._told("reset", {}))

    def objects(self) -> FrameResult | None:
        return self._newest

    def take_changes(self) -> list[ObjectChange]:
        changes, self._changes = self._changes, []
        return changes

    def link_values(self) -> Mapping[str, object]:
        return {
            **self._link.status(),
            "model": self._info.model,
            "device": self._info.device,
            "dtype": self._info.dtype,
            "image size [px]": self._info.image_size,
            "bank [bytes]": self._info.bank_bytes,
            "history at most [bytes]": self._info.history_bytes,
            "caches of weights [bytes]": self._info.cache_bytes,
        }

    def close(self) -> None:
        self._link.close()
        self._writer.close()
        self._recovery.clear()
        self._newest = self._newest_frame = None

    # ---- connection ----

    def _hello(self) -> Header:
        return {"tracker": to_wire(self._config)}

    def _ensure_connected(self) -> None:
        """Connects, and gives a new server what the one before knew."""
        if self._link.up:
            return
        self._link.connect(self._timeout)
        self._note_loss()
        try:
            self._hand_over()
        except _FAILED as error:
            self._link.drop(str(error))
            raise LinkDown(f"the server could not take over: {error}") from error

    def _go_back(self) -> None:
        """Changes over to a preferred server where there is one and the moment is good; else nothing happens."""
        if not self._link.offered or (self._newest and not self._recovery.may_move(self._newest.objects)):
            return
        before = self._link.switch()
        if before is None:
            return
        try:
            self._hand_over()
        except _FAILED:
            return self._link.undo(before)
        self._link.settle(before)
        self._note_loss(unseen_only=True)

    def _hand_over(self) -> None:
        """Gives the server of the link what the one before it knew; where that fails, all is here as it was."""
        info = from_wire(BackendInfo, self._link.greeting["info"])
        before, self._writer = self._writer, self._new_writer()
        try:
            done = self._restore()
            self._ask("next_id", {"next_id": self._next_id})
        except BaseException:
            self._writer.close()
            self._writer = before
            raise
        before.close()
        self._info = info
        if self._newest is None:
            return
        kept = [known for known in self._newest.objects if known.object_id in done and done[known.object_id].success]
        for known in self._newest.objects:
            if known not in kept:
                why = done[known.object_id].message if known.object_id in done else "it was never seen"
                self._changes.append(self._recovery.forget(known, why))
        self._newest = replace(self._newest, objects=tuple(kept))
        self._recovery.restored(kept)

    def _restore(self) -> dict[int, PromptResult]:
        """Shows the server every object's last good frame and mask; its answers by object id."""
        done: dict[int, PromptResult] = {}
        for sighting, requests in self._recovery.plan(self._newest.objects if self._newest else ()):
            self._send_frame(sighting.frame, sighting.stamp)
            results = from_wire(list[PromptResult], self._ask("restore", {"requests": to_wire(requests)})["result"])
            done |= {request.object_id or 0: each for request, each in zip(requests, results, strict=True)}
        return done

    def _new_writer(self) -> PixelWriter:
        return choose_writer(self._mode, self._quality, self._link.endpoint, lambda about: self._ask("pixels", about))

    def _note_loss(self, unseen_only: bool = False) -> None:
        """What was in sight of a server is not seen any more; ``unseen_only``: but what another took over in sight."""
        if self._newest is not None:
            self._newest, changes = self._recovery.lose(self._newest, unseen_only)
            self._changes += changes

    # ---- requests ----

    def _send_frame(self, frame: NDArray[np.uint8], stamp: int) -> Header:
        about, part = self._writer.write(frame)
        return self._ask("step", {"stamp": stamp, "frame": about}, part)

    def _ask(self, op: str, fields: Mapping[str, Any], pixels: Any = None) -> Header:
        return self._link.request(op, self._timeout, fields, pixels)

    def _command(self, op: str, fields: Mapping[str, Any]) -> Any:
        self._ensure_connected()
        answer = self._ask(op, fields)
        self._absorb(answer)
        return answer["result"]

    def _told(self, op: str, fields: Mapping[str, Any]) -> Any:
        try:
            return self._command(op, fields)
        except ServerRefusal as error:
            raise _as_exception(error) from error
        except (*_LOST, ProtocolError) as error:
            raise PromptError(PromptCode.FAILED, str(error)) from error

    def _absorb(self, answer: Header) -> None:
        """Takes over what a command's answer says of all objects."""
        self._next_id = int(answer["next_id"])
        self._changes += from_wire(list[ObjectChange], answer["changes"])
        objects = from_wire(FrameResult | None, answer["objects"])  # type: ignore[arg-type]
        if objects is not None:
            known = tuple(sorted(map(self._recovery.continued, objects.objects), key=lambda one: one.object_id))
            self._take(replace(objects, objects=known, frame_index=max(0, self._frames - 1)), self._newest_frame)

    def _take(self, result: FrameResult, frame: NDArray[np.uint8] | None) -> None:
        self._newest, self._newest_frame = result, frame
        self._recovery.note(result.objects, frame, result.stamp)

    def _on_late(self, answer: Header) -> None:
        """An answer that came too late still says what changed."""
        if not answer.get("ok"):
            return
        if "changes" in answer:
            self._absorb(answer)
        elif "result" in answer:
            self._changes += from_wire(FrameResult, answer["result"]).changes

    def _continued(self, result: PromptResult) -> PromptResult:
        known = result.result
        return result if known is None else replace(result, result=self._recovery.continued(known))


def _as_result(error: Exception, request: AddRequest) -> PromptResult:
    """The answer to a prompt that was not applied, or not for certain.

    Raises:
        RuntimeError: a fault in the engine, which is raised as it is in this process.
    """
    if isinstance(error, ServerRefusal) and error.code == protocol.FAILED:
        raise _as_exception(error) from error
    code, message = PromptCode.FAILED, str(error)
    if isinstance(error, ServerRefusal) and error.code in (protocol.MALFORMED, protocol.TOO_LARGE):
        code = PromptCode.INVALID_PROMPT
    if isinstance(error, NoAnswer):
        message += "; whether it was applied will show"
    return PromptResult(code, message, request.object_id or 0, request.name)


def _as_exception(error: ServerRefusal) -> Exception:
    """What the engine raised in the server, as it raises it in this process."""
    if error.code == protocol.PROMPT:
        return PromptError(PromptCode(int(error.header.get("prompt_code", PromptCode.FAILED))), str(error))
    if error.code in (protocol.INVALID, protocol.MALFORMED, protocol.TOO_LARGE):
        return ValueError(str(error))
    return RuntimeError(str(error))
