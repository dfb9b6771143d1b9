"""The node's statistics, and their publication on ``/diagnostics``."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

import numpy as np
from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from sam2_ros.inference.backend import BackendInfo, FrameRefused
from sam2_ros.inference.frames import Counters, Processed
from sam2_ros.inference.live_masks import LiveImage
from sam2_ros.text import printable
from sam2_ros.tracking.carrier import KEPT_BYTES, KEPT_SECONDS
from sam2_ros.tracking.types import ObjectState

Task = Callable[[DiagnosticStatusWrapper], DiagnosticStatusWrapper]  # fills a status and returns it

_WINDOW = 200  # frames for percentiles
_RATE_WINDOW = 5.0  # seconds for the input rate, and for the warning after a failure
_TOO_LATE = (
    f"the engine answers so late that its image is no longer kept (up to {KEPT_SECONDS:g} s, "
    f"{KEPT_BYTES >> 20} MiB): ~/tracks_live has no masks; use a faster model or smaller images"
)


class Statistics:
    """Rates and latencies of the last frames; written by the executor and the inference thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._arrivals: deque[int] = deque(maxlen=_WINDOW)  # ns
            self._latencies: deque[float] = deque(maxlen=_WINDOW)  # ms, image callback to results
            self._engine_times: deque[float] = deque(maxlen=_WINDOW)  # ms
            self._ages: deque[float] = deque(maxlen=_WINDOW)  # ms, of the newest mask when an image comes
            self._live_latencies: deque[float] = deque(maxlen=_WINDOW)  # ms, image callback to carried masks
            self._newest_taken = 0  # ns, when the image of the newest mask came
            self._ended: deque[int] = deque(maxlen=_WINDOW)  # ns, when the engine gave its results
            self.states: Counter[ObjectState] = Counter()
            self.load_shedding: tuple[str, ...] = ()  # that the newest frame was worked on with
            self.last_failure = ""
            self.refused = False  # by an engine that takes no such frame
            self._last_failure_time = -math.inf  # s, steady
            self._output_failure, self._output_failure_time = "", -math.inf
            self._too_late_time = -math.inf  # s, steady, of an answer that came too late to be carried

    def arrived(self, receive_time: int) -> None:
        with self._lock:
            self._arrivals.append(receive_time)
            if self._newest_taken:
                self._ages.append((receive_time - self._newest_taken) / 1e6)

    def carried(self, live: LiveImage) -> None:
        """The masks of a camera image were published."""
        with self._lock:
            self._live_latencies.append((time.monotonic_ns() - live.frame.receive_time) / 1e6)
            if live.carried is not None and live.carried.too_late:
                self._too_late_time = time.monotonic()

    def not_carried(self) -> None:
        """Nobody wants masks of every image any more."""
        with self._lock:
            self._live_latencies.clear()

    def processed(self, processed: Processed) -> None:
        with self._lock:
            self._latencies.append((processed.end_time - processed.frame.receive_time) / 1e6)
            self._engine_times.append((processed.end_time - processed.start_time) / 1e6)
            self._newest_taken = processed.frame.receive_time
            self._ended.append(processed.end_time)
            self._count_states(processed)
            self.load_shedding = processed.result.load_shedding

    def hidden(self, processed: Processed) -> None:
        """No engine has seen the frame."""
        with self._lock:
            self._count_states(processed)

    def _count_states(self, processed: Processed) -> None:
        self.states = Counter(obj.state for obj in processed.result.objects)

    def failed(self, error: Exception) -> None:
        with self._lock:
            self.last_failure = printable(error, 500)
            self.refused = isinstance(error, FrameRefused)
            self._last_failure_time = time.monotonic()

    def failed_lately(self) -> bool:
        with self._lock:
            return time.monotonic() - self._last_failure_time < _RATE_WINDOW

    def output_failed(self, topic: str, problem: str) -> None:
        with self._lock:
            self._output_failure, self._output_failure_time = f"{topic} fails: {problem}", time.monotonic()

    def output_failure(self) -> str:
        """Which topic could not be published lately, and why; empty if all were."""
        with self._lock:
            return self._output_failure if time.monotonic() - self._output_failure_time < _RATE_WINDOW else ""

    def live_failure(self) -> str:
        """Why no masks could be carried lately; empty if they were."""
        with self._lock:
            late = time.monotonic() - self._too_late_time < _RATE_WINDOW
        return _TOO_LATE if late else ""

    def input_rate(self) -> float:
        """Images a second, over the last seconds."""
        return self._rate(self._arrivals)

    def engine_rate(self) -> float:
        """Processed frames a second, over the last seconds."""
        return self._rate(self._ended)

    def _rate(self, times: deque[int]) -> float:
        now = time.monotonic_ns()
        with self._lock:
            recent = [one for one in times if now - one < _RATE_WINDOW * 1e9]
        return (len(recent) - 1) * 1e9 / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def percentiles(self) -> dict[str, float]:
        """Milliseconds by name, e.g. ``latency p50 [ms]``; empty before the first frame."""
        with self._lock:
            series = {
                "latency": list(self._latencies), "engine": list(self._engine_times),
                "age of masks": list(self._ages), "live latency": list(self._live_latencies),
            }  # fmt: skip
        return {
            f"{name} p{share} [ms]": float(np.percentile(values, share))
            for name, values in series.items()
            if values
            for share in (50, 90, 99)
        }


def publish_diagnostics(node: Node, period: float, tasks: Mapping[str, Task]) -> Updater:
    """Publishes a status for each task on ``/diagnostics`` every ``period`` seconds, in every state of the node.

    Args:
        tasks: by the name that follows the node's in the name of the status; called in the executor.
    """
    updater = Updater(node, period)
    updater.node_name = node.get_fully_qualified_name()
    updater.setHardwareID(updater.node_name)
    for name, task in tasks.items():
        updater.add(name, task)
    # The updater's own timer runs by the node's clock, which stands still when a simulation does.
    node.destroy_timer(updater.timer)
    steady = Clock(clock_type=ClockType.STEADY_TIME)
    updater.timer = node.create_timer(updater.period, updater.force_update, clock=steady)
    return updater


def active_values(counters: Counters, statistics: Statistics, age: float, info: BackendInfo) -> dict[str, object]:
    """The values that an active node reports."""
    return {
        "model": info.model,
        "device": info.device,
        "dtype": info.dtype,
        "image size [px]": info.image_size,
        "input rate [Hz]": statistics.input_rate(),
        "input age [s]": age,
        "engine rate [Hz]": statistics.engine_rate(),
        "received": counters.received,
        "processed": counters.processed,
        "dropped": counters.dropped,
        "failed": counters.failed,
        "last failure": statistics.last_failure,
        **statistics.percentiles(),
        "load shedding": ", ".join(statistics.load_shedding) or "none",
        "bank [bytes]": info.bank_bytes,
        "history at most [bytes]": info.history_bytes,
        "caches of weights [bytes]": info.cache_bytes,
        "objects": sum(statistics.states.values()),
        "objects at most": info.max_objects,
        **{f"objects {state.name.lower()}": statistics.states[state] for state in ObjectState},
    }
