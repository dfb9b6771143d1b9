"""Plays a clip as a camera would: images come at a rate, the engine takes its time and works on the newest one.

The clock is simulated, so that a run with a given latency gives the same masks on every machine. As in the node, one
image waits for the engine and a newer one replaces it; an image with a prompt waits until the engine takes it. An image
that comes in the moment when the engine becomes free is taken, and one that is nearly due is waited for
(:mod:`~sam2_ros.inference.pacing`). A prompt's mask is carried from its own image on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sam2_ros.inference.clip_tracker import ClipTracker
from sam2_ros.inference.pacing import seconds_to_wait
from sam2_ros.media.frame_sources import Frame
from sam2_ros.tracking.carrier import Carried, MaskCarrier
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState

_TIE = 1e-9  # seconds that count as the same moment


@dataclass(frozen=True)
class Answer:
    """What the engine made of one image."""

    frame: Frame
    result: FrameResult
    begun: float  # seconds on the simulated clock
    ended: float


@dataclass(frozen=True)
class LiveFrame:
    """A camera image, and what was known of it in time."""

    frame: Frame
    network: Answer | None  # the newest one out by the image's deadline
    seconds: float  # that the engine took for that one; 0 without one
    carried: Carried | None  # the newest one out when the image came, or a prompt's mask, carried to it


class LiveClip:
    """Tracks a clip against the clock."""

    def __init__(
        self, tracker: ClipTracker, rate: float, latency: float | None = None, deadline: float | None = None
    ) -> None:
        """
        Args:
            tracker: the engine with the prompts.
            rate: images a second.
            latency: seconds that the engine takes for an image; None: those that it really takes.
            deadline: seconds after an image's time at which its mask is needed; None: one period.
        """
        self._tracker, self._period, self._latency = tracker, 1 / rate, latency
        self._deadline = self._period if deadline is None else deadline
        self._carrier = MaskCarrier()
        self._free = 0.0  # when the engine has done its work
        self._waiting: Frame | None = None
        self.answers: list[Answer] = []

    def run(self, frames: Iterable[Frame]) -> Iterator[LiveFrame]:
        """Yields every frame, in order, as soon as its deadline has passed on the simulated clock.

        Raises:
            UserError: as from :class:`ClipTracker`.
        """
        open_frames: deque[tuple[Frame, Carried | None]] = deque()
        updates = 0
        last = -1
        for given in frames:
            now = self._time(given)
            frame = replace(given, stamp=round(now * 1e9))
            self._work_until(now)
            self._arrive(frame)
            self._carrier.add_image(frame.rgb, frame.stamp)
            self._ask(frame)
            while updates < len(self.answers) and self.answers[updates].ended <= now + _TIE:
                self._carrier.update(self.answers[updates].result)
                updates += 1
            open_frames.append((frame, self._carrier.carried()))
            last = frame.index
            # Later images can't change what was out by then.
            while open_frames and self._time(open_frames[0][0]) + self._deadline < now - _TIE:
                yield self._closed(*open_frames.popleft())
        while open_frames:
            self._work_until(last * self._period + self._deadline, more=False)
            yield self._closed(*open_frames.popleft())

    def _time(self, frame: Frame) -> float:
        return frame.index * self._period

    def _arrive(self, frame: Frame) -> None:
        if self._waiting is None or not self._prompted(self._waiting):
            self._waiting = frame

    def _ask(self, frame: Frame) -> None:
        """The mask of a prompt is known before the engine has taken it in."""
        for prompt in self._tracker.pending:
            if prompt.frame == frame.index and prompt.prompt.mask is not None:
                mask, key = CroppedMask.from_full(prompt.prompt.mask), self._tracker.engine_id(prompt.object_id)
                state = ObjectState.VISIBLE if mask.area else ObjectState.OCCLUDED
                obj = ObjectResult(key, mask, state, 0.0, 1.0, 1.0, True, prompt.name, prompt.label)
                self._carrier.ask(obj, frame.stamp)

    def _prompted(self, frame: Frame) -> bool:
        return any(prompt.frame <= frame.index for prompt in self._tracker.pending)

    def _worth_waiting(self, age: float) -> bool:
        if self._latency is not None:
            latency = self._latency
        else:
            latency = self.answers[-1].ended - self.answers[-1].begun if self.answers else 0.0
        return seconds_to_wait(age, latency, self._period) > 0

    def _work_until(self, now: float, more: bool = True) -> None:
        """Starts the image that waits, if the engine becomes free before ``now``, when the next image comes if there
        are ``more``."""
        if self._waiting is None or self._free >= now - _TIE:
            return
        begun = max(self._free, self._time(self._waiting))
        if more and not self._prompted(self._waiting) and self._worth_waiting(begun - self._time(self._waiting)):
            return
        frame, self._waiting = self._waiting, None
        (tracked,) = self._tracker.run([frame])
        self._free = begun + (tracked.seconds if self._latency is None else self._latency)
        self.answers.append(Answer(frame, tracked.result, begun, self._free))

    def _closed(self, frame: Frame, carried: Carried | None) -> LiveFrame:
        due = self._time(frame) + self._deadline + _TIE
        out = [answer for answer in self.answers if answer.ended <= due]
        newest = out[-1] if out else None
        return LiveFrame(frame, newest, newest.ended - newest.begun if newest else 0.0, carried)
