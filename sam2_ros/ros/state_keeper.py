"""Keeps one camera's objects in its state file, from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from std_msgs.msg import Header

from sam2_ros.inference.frames import Counters, Frame, Processed
from sam2_ros.inference.recovery import Recovery, SavedObjects
from sam2_ros.ros.messages import to_time
from sam2_ros.ros.state_file import State, StateError, StateWriter, read_state

_PERIOD = 1.0  # s between two writes, unless a command changed the objects
_SHORTEST = 0.05  # s, also then
_SHARE = 10  # a write that took long is followed by a pause so many times as long
_GRACE = 5.0  # s for the last write


def state_path(text: str, camera: str) -> Path | None:
    """The file of one camera for the parameter ``state_file``; None where it is empty.

    Raises:
        ValueError: it names a folder.
    """
    if not text:
        return None
    if not camera:
        path = Path(text)
    else:
        path = Path(text.replace("{camera}", camera) if "{camera}" in text else f"{text}.{camera}")
    if path.is_dir():
        raise ValueError(f"state_file {path} is a folder; accepted: the path of a file, which may not exist yet")
    return path.absolute()


def newest_of(state: State) -> Processed:
    """The newest frame of an earlier process. Its pixels are gone: they are black, and it was received at time 0."""
    newest = state.saved.newest
    header = Header(stamp=to_time(newest.stamp), frame_id=state.frame_id)
    pixels = np.broadcast_to(np.uint8(0), (newest.height, newest.width, 3))
    return Processed(Frame(newest.stamp, lambda: pixels, 0, header), pixels, newest, 0, 0, Counters())


class StateKeeper:
    """Reads the file once, then writes what :meth:`note` was given last.

    Args:
        on_failure: called, in the keeper's thread, with why the file can't be written.
    """

    def __init__(self, path: Path, on_failure: Callable[[Exception], None]) -> None:
        self.path = path
        self._on_failure = on_failure
        self._recovery = Recovery()
        self._condition = threading.Condition()  # guards everything below
        self._state: State | None = None  # to be written
        self._written: State | None = None
        self._known: object = None  # who the objects are, as of the newest state
        self._urgent = self._closing = False
        self._thread: threading.Thread | None = None

    def load(self, warn: Callable[[str], None]) -> State | None:
        """What an earlier process left. A file that can't be used is set aside, with a warning."""
        try:
            state = read_state(self.path)
        except (StateError, OSError) as error:
            aside = self.path.with_name(f"{self.path.name}.refused")
            try:
                self.path.replace(aside)
                done = f"it is {aside} now"
            except OSError as fault:
                done = f"it could not be renamed: {fault}"
            warn(f"state_file {self.path} can't be used: {error}; {done}. Tracking starts without objects.")
            return None
        if state is not None:
            self._recovery.recall(state.saved.sightings)
        self._state = state
        return state

    def start(self) -> None:
        self._written, self._writer = self._state, StateWriter(self.path)
        self._thread = threading.Thread(target=self._run, name="state file", daemon=True)
        self._thread.start()

    def note(self, processed: Processed, next_id: int) -> None:
        """Takes the objects as they are now; takes some microseconds. The frame must not change afterwards."""
        result = replace(processed.result, changes=(), timings_ms={}, load_shedding=())
        self._recovery.note(result.objects, processed.image, result.stamp)
        saved = SavedObjects(result, self._recovery.sightings, next_id)
        known = (next_id, [(obj.object_id, obj.name, obj.label, obj.label_score) for obj in result.objects])
        with self._condition:
            self._state = State(saved, processed.frame.source.frame_id)
            self._urgent |= known != self._known
            self._known = known
            self._condition.notify_all()

    def close(self, forget: bool, next_id: int) -> None:
        """Writes a last time, without objects if they are forgotten."""
        with self._condition:
            if forget and self._state is not None:
                newest = replace(self._state.saved.newest, objects=())
                self._state = replace(self._state, saved=SavedObjects(newest, {}, next_id))
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(_GRACE)

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closing or self._urgent, pause)
                self._condition.wait_for(lambda: self._closing or self._state is not self._written)
                state, closing, self._urgent = self._state, self._closing, False
            start = time.monotonic()
            if state is not None and state is not self._written:
                try:
                    self._writer.write(state)
                except Exception as error:  # a full disk must not end the thread
                    self._on_failure(error)
                self._written = state
            if closing:
                return
            time.sleep(_SHORTEST)
            pause = max(_PERIOD, _SHARE * (time.monotonic() - start)) - _SHORTEST
