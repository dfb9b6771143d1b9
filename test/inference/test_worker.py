"""The inference thread: newest frame wins, commands between frames, faults counted, every future answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from sam2_ros.inference import NullBackend
from sam2_ros.inference.backend import FrameDropped
from sam2_ros.inference.frames import Counters, Frame, Processed, interruption
from sam2_ros.inference.worker import MAX_COMMANDS, Worker
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.types import FrameResult, Prompt, PromptCode, PromptError, PromptRequest, PromptResult

SECOND = 1_000_000_000
PATIENCE = 10.0  # seconds until a test that waits in vain fails
RGB = np.zeros((20, 30, 3), np.uint8)
BOX = PromptRequest(Prompt(box=np.array([2, 3, 10, 12], np.float32)))


class GatedBackend(NullBackend):
    """Every step waits until the test lets it through; ``entered`` says that one has begun."""

    def __init__(self) -> None:
        super().__init__(TrackerConfig(history=2))
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.closed = False
        self.fault: Exception | None = None

    def step(self, frame: np.ndarray, stamp: int) -> FrameResult:
        self.entered.release()
        assert self.gate.acquire(timeout=PATIENCE)
        fault, self.fault = self.fault, None
        if fault:
            raise fault
        return super().step(frame, stamp)

    def close(self) -> None:
        self.closed = True


class Recorder:
    """A listener that keeps what it hears; ``stamps`` are those of the processed frames."""

    def __init__(self) -> None:
        self.heard = threading.Condition()
        self.processed: list[Processed] = []
        self.changes: list[Processed] = []
        self.failures: list[Exception] = []
        self.objects: list[Processed] = []
        self.hidden: list[Processed] = []
        self.restarts: list[str] = []
        self.fault: Exception | None = None

    def on_processed(self, processed: Processed) -> None:
        with self.heard:
            self.processed.append(processed)
            self.heard.notify_all()
        if self.fault:
            raise self.fault

    def on_changes(self, processed: Processed) -> None:
        with self.heard:
            self.changes.append(processed)
            self.heard.notify_all()

    def on_objects(self, processed: Processed) -> None:
        with self.heard:
            self.objects.append(processed)
            self.heard.notify_all()

    def on_hidden(self, processed: Processed) -> None:
        with self.heard:
            self.hidden.append(processed)
            self.heard.notify_all()

    def on_restart(self, frame: Frame, reason: str) -> None:
        with self.heard:
            self.restarts.append(reason)
            self.heard.notify_all()

    def on_failure(self, frame: Frame, error: Exception) -> None:
        with self.heard:
            self.failures.append(error)
            self.heard.notify_all()

    @property
    def stamps(self) -> list[int]:
        return [each.frame.stamp for each in self.processed]

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.heard:
            assert self.heard.wait_for(condition, PATIENCE)


def frame(stamp: int, decode: Callable[[], np.ndarray] = lambda: RGB) -> Frame:
    return Frame(stamp, decode, time.monotonic_ns(), source=f"header {stamp}")


class Bench:
    """A worker whose engine moves one frame at a time."""

    def __init__(self, backend: GatedBackend | None = None) -> None:
        self.backend: Any = backend or GatedBackend()
        self.recorder = Recorder()
        self.worker = Worker(lambda: self.backend, self.recorder)
        self.info = self.worker.start().result(PATIENCE)
        self.worker.resume()

    def submit_and_wait_for_start(self, stamp: int) -> None:
        self.worker.submit(frame(stamp))
        assert self.backend.entered.acquire(timeout=PATIENCE)

    def process(self, stamp: int) -> None:
        self.submit_and_wait_for_start(stamp)
        self.backend.gate.release()
        self.recorder.wait(lambda: stamp in self.recorder.stamps)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.backend.gate.release(1000)
    bench.worker.close()


def refusal(future: Future) -> PromptError:
    with pytest.raises(PromptError) as caught:
        future.result(PATIENCE)
    return caught.value


def test_newest_frame_wins_and_the_counters_add_up(bench: Bench) -> None:
    bench.submit_and_wait_for_start(1)
    for stamp in (2, 3, 4, 5):
        bench.worker.submit(frame(stamp))
    assert bench.worker.counters == Counters(received=5, processed=0, dropped=3, failed=0)
    bench.backend.gate.release(2)
    bench.recorder.wait(lambda: len(bench.recorder.processed) == 2)
    assert bench.recorder.stamps == [1, 5]
    assert bench.recorder.processed[-1].counters == Counters(received=5, processed=2, dropped=3, failed=0)


def test_what_the_listener_gets(bench: Bench) -> None:
    bench.process(7)
    (processed,) = bench.recorder.processed
    assert processed.frame.source == "header 7"
    assert processed.image is RGB
    assert processed.frame.receive_time <= processed.start_time <= processed.end_time
    assert processed.counters == Counters(received=1, processed=1)


def test_a_dropped_frame_is_never_decoded(bench: Bench) -> None:
    def must_not_run() -> np.ndarray:
        raise AssertionError("a dropped frame was decoded")

    bench.submit_and_wait_for_start(1)
    bench.worker.submit(frame(2, must_not_run))
    bench.worker.submit(frame(3))
    bench.backend.gate.release(2)
    bench.recorder.wait(lambda: bench.recorder.stamps == [1, 3])
    assert not bench.recorder.failures


def test_a_fault_in_the_engine_or_the_image_costs_one_frame(bench: Bench) -> None:
    def broken() -> np.ndarray:
        raise ValueError("bad image")

    bench.backend.fault = RuntimeError("bad frame")
    bench.submit_and_wait_for_start(1)
    bench.backend.gate.release()
    bench.recorder.wait(lambda: len(bench.recorder.failures) == 1)
    bench.worker.submit(frame(2, broken))
    bench.recorder.wait(lambda: len(bench.recorder.failures) == 2)
    bench.process(3)
    assert [str(error) for error in bench.recorder.failures] == ["bad frame", "bad image"]
    assert bench.worker.counters == Counters(received=3, processed=1, dropped=0, failed=2)


def test_a_fault_in_the_listener_is_reported_and_the_worker_goes_on(bench: Bench) -> None:
    bench.recorder.fault = OSError("nobody listens")
    bench.process(1)
    bench.recorder.wait(lambda: len(bench.recorder.failures) == 1)
    bench.recorder.fault = None
    bench.process(2)
    assert bench.worker.counters == Counters(received=2, processed=2)


def test_commands_run_between_frames_in_the_inference_thread(bench: Bench) -> None:
    bench.submit_and_wait_for_start(1)
    future = bench.worker.call(lambda backend: threading.current_thread().name)
    assert not future.done()
    bench.backend.gate.release()
    assert future.result(PATIENCE) == "inference"


def test_a_command_goes_before_the_frame_that_waits(bench: Bench) -> None:
    bench.submit_and_wait_for_start(1)
    bench.worker.submit(frame(2))
    future = bench.worker.call_on_frame(lambda backend: backend.add([BOX])[0].applied_stamp)
    bench.backend.gate.release(2)
    assert future.result(PATIENCE) == 1
    bench.recorder.wait(lambda: bench.recorder.stamps == [1, 2])
    assert len(bench.recorder.processed[1].result.objects) == 1


def test_an_exception_in_a_command_reaches_the_caller_alone(bench: Bench) -> None:
    def fail(backend: object) -> None:
        raise ZeroDivisionError("within")

    with pytest.raises(ZeroDivisionError, match="within"):
        bench.worker.call(fail).result(PATIENCE)
    bench.process(1)


def test_changes_come_with_the_newest_frame(bench: Bench) -> None:
    bench.process(5)
    bench.worker.call_on_frame(lambda backend: backend.add([BOX])).result(PATIENCE)
    (processed,), (changed,) = bench.recorder.processed, bench.recorder.changes
    assert [change.object_id for change in changed.result.changes] == [1]
    assert [(obj.object_id, obj.prompted) for obj in changed.result.objects] == [(1, True)]
    assert changed.frame is processed.frame and changed.image is processed.image
    assert changed.counters == processed.counters and changed.end_time == processed.end_time


def test_a_fault_in_the_changes_is_reported_and_the_worker_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no changes")

    bench.process(1)
    with monkeypatch.context() as patched:
        patched.setattr(bench.backend, "take_changes", fail)
        (answer,) = bench.worker.call_on_frame(lambda backend: backend.add([BOX])).result(PATIENCE)
    assert answer.code is PromptCode.OK
    assert [str(error) for error in bench.recorder.failures] == ["no changes"]
    bench.process(2)


def test_a_prompt_waits_for_the_first_frame(bench: Bench) -> None:
    future = bench.worker.call_on_frame(lambda backend: backend.add([BOX])[0].code, wait=PATIENCE)
    assert not future.done()
    bench.process(1)
    assert future.result(PATIENCE) is PromptCode.OK


def test_a_prompt_without_any_frame_is_refused(bench: Bench) -> None:
    error = refusal(bench.worker.call_on_frame(lambda backend: backend.add([BOX]), wait=0.01))
    assert error.code is PromptCode.NO_FRAME
    assert "no frame was processed within the time allowed" in str(error)


def add_at(bench: Bench, stamp: int, wait: float = 0.0) -> Future[PromptResult]:
    """A box for the frame of this stamp, in seconds."""
    return bench.worker.call_on_frame(lambda backend: backend.add([BOX], stamp * SECOND)[0], stamp * SECOND, wait)


def test_a_stamp_picks_a_stored_frame_or_waits_for_a_newer_one(bench: Bench) -> None:
    """The engine stores three frames."""
    for stamp in (10, 20, 30, 40):
        bench.process(stamp * SECOND)
    assert add_at(bench, 40).result(PATIENCE).applied_stamp == 40 * SECOND
    late = add_at(bench, 20).result(PATIENCE)
    assert (late.applied_stamp, late.prompt_age, late.frames_caught_up) == (20 * SECOND, 20.0, 2)
    older = add_at(bench, 10).result(PATIENCE)
    assert older.code is PromptCode.TOO_OLD
    assert "10.000000000 is gone; accepted: 20.000000000 to 40.000000000" in older.message
    later = add_at(bench, 50, wait=PATIENCE)
    assert not later.done()
    bench.process(50 * SECOND)
    assert later.result(PATIENCE).applied_stamp == 50 * SECOND


def test_a_stamp_whose_frame_was_dropped_means_the_nearest_one(bench: Bench) -> None:
    """It is waited for until a newer one was processed; that one may be the nearest."""
    bench.process(10 * SECOND)
    waiting = bench.worker.call_on_frame(
        lambda backend: backend.add([BOX], 11 * SECOND - 1000)[0], 11 * SECOND - 1000, PATIENCE
    )
    assert not waiting.done()
    bench.process(11 * SECOND)
    result = waiting.result(PATIENCE)
    assert result.applied_stamp == 11 * SECOND and result.stamp_difference == pytest.approx(1e-6)


def test_a_frame_that_does_not_come_within_the_time_is_refused_by_the_engine(bench: Bench) -> None:
    """Unless the newest one is near enough."""
    bench.process(10 * SECOND)
    never = add_at(bench, 12, wait=0.01).result(PATIENCE)
    assert never.code is PromptCode.NO_FRAME and "no frame stamped 12.000000000 was processed" in never.message
    near = 10 * SECOND + 1000
    result = bench.worker.call_on_frame(lambda backend: backend.add([BOX], near)[0], near, 0.01).result(PATIENCE)
    assert result.applied_stamp == 10 * SECOND and result.stamp_difference == pytest.approx(1e-6)


def test_a_limited_number_of_commands_waits(bench: Bench) -> None:
    """And a pause ends all the same."""
    bench.process(1)
    waiting = [bench.worker.call_on_frame(lambda backend: 1, 99 * SECOND, 60.0) for _ in range(MAX_COMMANDS)]
    for refused in (bench.worker.call(lambda backend: 1), bench.worker.call_on_frame(lambda backend: 1, 0, 60.0)):
        with pytest.raises(PromptError, match=f"{MAX_COMMANDS} commands wait already") as caught:
            refused.result(PATIENCE)
        assert caught.value.code is PromptCode.FAILED
    bench.worker.pause()
    for future in waiting:
        with pytest.raises(PromptError, match="deactivated meanwhile"):
            future.result(PATIENCE)
    assert bench.worker.call(lambda backend: 1).result(PATIENCE) == 1


def test_pause_keeps_the_objects_and_counts_afresh(bench: Bench) -> None:
    bench.process(1)
    bench.worker.call_on_frame(lambda backend: backend.add([BOX])).result(PATIENCE)
    bench.worker.pause()
    bench.worker.submit(frame(2))
    assert bench.worker.counters == Counters(received=1, processed=1)
    bench.worker.resume()
    bench.process(3)
    assert bench.worker.counters == Counters(received=1, processed=1)
    assert [obj.object_id for obj in bench.recorder.processed[-1].result.objects] == [1]


def test_a_prompt_is_never_for_a_frame_from_before_a_pause(bench: Bench) -> None:
    bench.process(1)
    bench.worker.call_on_frame(lambda backend: backend.add([BOX])).result(PATIENCE)
    bench.worker.pause()
    bench.worker.resume()
    error = refusal(bench.worker.call_on_frame(lambda backend: backend.add([BOX]), wait=0.01))
    assert error.code is PromptCode.NO_FRAME and "the newest" not in str(error)
    assert refusal(bench.worker.call_on_frame(lambda backend: None, stamp=1, wait=0.01)).code is PromptCode.NO_FRAME

    assert bench.worker.newest is not None and bench.worker.newest.stamp == 1
    assert bench.worker.call(lambda backend: backend.remove(1)).result(PATIENCE)
    assert bench.recorder.changes[-1].frame.stamp == 1, "what needs no frame goes on"

    waiting = bench.worker.call_on_frame(lambda backend: backend.add([BOX])[0].applied_stamp, wait=PATIENCE)
    assert not waiting.done()
    bench.process(2)
    assert waiting.result(PATIENCE) == 2


def test_pause_returns_after_the_frame_under_way_and_refuses_who_waits(bench: Bench) -> None:
    bench.submit_and_wait_for_start(1)
    bench.worker.submit(frame(2))
    waiting = bench.worker.call_on_frame(lambda backend: None, stamp=9, wait=PATIENCE)
    pausing = threading.Thread(target=bench.worker.pause)
    pausing.start()
    assert refusal(waiting).code is PromptCode.NOT_ACTIVE
    assert pausing.is_alive()
    bench.backend.gate.release()
    pausing.join(PATIENCE)
    assert not pausing.is_alive()
    assert bench.recorder.stamps == [1]
    assert bench.worker.counters == Counters(received=2, processed=1, dropped=1)


def test_close_frees_the_engine_and_answers_everybody(bench: Bench) -> None:
    waiting = bench.worker.call_on_frame(lambda backend: None, wait=PATIENCE)
    bench.worker.close()
    assert refusal(waiting).code is PromptCode.NOT_ACTIVE
    assert refusal(bench.worker.call(lambda backend: None)).code is PromptCode.NOT_ACTIVE
    assert bench.backend.closed


def test_a_backend_that_can_not_be_built_fails_the_start() -> None:
    def fail() -> NullBackend:
        raise FileNotFoundError("no weights")

    worker = Worker(fail, Recorder())
    with pytest.raises(FileNotFoundError, match="no weights"):
        worker.start().result(PATIENCE)
    assert refusal(worker.call(lambda backend: None)).code is PromptCode.NOT_ACTIVE
    worker.close()


def test_with_a_queue_every_frame_is_processed_in_order() -> None:
    backend, recorder = GatedBackend(), Recorder()
    worker = Worker(lambda: backend, recorder, queue=3)
    worker.start().result(PATIENCE)
    worker.resume()
    worker.submit(frame(1))
    assert backend.entered.acquire(timeout=PATIENCE)
    for stamp in (2, 3, 4, 5):  # three have room
        worker.submit(frame(stamp))
    assert worker.counters == Counters(received=5, dropped=1)
    backend.gate.release(10)
    recorder.wait(lambda: len(recorder.processed) == 4)
    assert recorder.stamps == [1, 2, 3, 4]
    assert [each.counters.received for each in recorder.processed] == [2, 3, 4, 5]  # one of them dropped
    worker.close()


class AheadBackend(GatedBackend):
    """Encodes what it is let; ``encoding`` says that it has begun."""

    encodes_ahead = True

    def __init__(self) -> None:
        super().__init__()
        self.encoding = threading.Semaphore(0)
        self.encoder_gate = threading.Semaphore(0)
        self.encoder_fault: Exception | None = None

    def encode(self, frame: np.ndarray) -> object:
        self.encoding.release()
        assert self.encoder_gate.acquire(timeout=PATIENCE)
        fault, self.encoder_fault = self.encoder_fault, None
        if fault:
            raise fault
        return ("encoded", frame)

    def step(self, encoded: Any, stamp: int) -> FrameResult:
        assert isinstance(encoded, tuple) and encoded[0] == "encoded"
        return super().step(encoded[1], stamp)


@pytest.fixture
def ahead() -> Iterator[Bench]:
    bench = Bench(AheadBackend())
    yield bench
    bench.backend.encoder_gate.release(100)
    bench.backend.gate.release(100)
    bench.worker.close(PATIENCE)


def test_the_next_frame_is_encoded_while_one_is_tracked(ahead: Bench) -> None:
    backend, worker, recorder = ahead.backend, ahead.worker, ahead.recorder
    worker.submit(frame(1))
    backend.encoder_gate.release()
    assert backend.entered.acquire(timeout=PATIENCE) and backend.encoding.acquire(timeout=PATIENCE)
    worker.submit(frame(2))
    assert backend.encoding.acquire(timeout=PATIENCE), "encoded, while 1 is tracked"
    worker.submit(frame(3))
    worker.submit(frame(4))  # the newest wins, as ever
    assert worker.counters == Counters(received=4, dropped=1)
    backend.encoder_gate.release()
    assert not backend.encoding.acquire(timeout=0.2), "one ahead, not more"
    backend.gate.release(3)
    assert backend.encoding.acquire(timeout=PATIENCE)
    backend.encoder_gate.release()
    recorder.wait(lambda: recorder.stamps == [1, 2, 4])
    assert worker.counters == Counters(received=4, processed=3, dropped=1)
    assert all(each.start_time <= each.end_time for each in recorder.processed)


def test_no_thread_of_a_worker_keeps_its_process_alive(ahead: Bench) -> None:
    threads = {thread.name: thread.daemon for thread in threading.enumerate() if thread.name.startswith("inference")}
    assert threads == {"inference": True, "inference ahead": True}


def test_a_frame_that_can_not_be_encoded_ahead_is_counted(ahead: Bench) -> None:
    backend, worker, recorder = ahead.backend, ahead.worker, ahead.recorder
    backend.encoder_gate.release(100)
    backend.gate.release(100)
    backend.encoder_fault = ValueError("no colours")
    worker.submit(frame(1))
    recorder.wait(lambda: len(recorder.failures) == 1)

    def refuse() -> np.ndarray:
        raise OSError("no such encoding")

    worker.submit(frame(2, refuse))
    recorder.wait(lambda: len(recorder.failures) == 2)
    worker.submit(frame(3))
    recorder.wait(lambda: recorder.stamps == [3])
    assert [str(error) for error in recorder.failures] == ["no colours", "no such encoding"]
    assert worker.counters == Counters(received=3, processed=1, failed=2)


def test_hidden_objects_are_told_also_if_the_encoder_was_lost(ahead: Bench) -> None:
    backend, worker, recorder = ahead.backend, ahead.worker, ahead.recorder
    hidden = FrameResult(1, 1, 30, 20, ())
    backend.encoder_fault = FrameDropped("no server", hidden)
    worker.submit(frame(1))
    assert backend.encoding.acquire(timeout=PATIENCE)
    taken = time.monotonic_ns()
    backend.encoder_gate.release(100)
    backend.gate.release(100)
    recorder.wait(lambda: len(recorder.hidden) == 1)
    (told,) = recorder.hidden
    assert told.result is hidden and told.image is RGB
    assert told.frame.receive_time <= told.start_time <= taken <= told.end_time, "from when the encoder took it"

    def lost() -> np.ndarray:
        raise FrameDropped("no image either", hidden)

    worker.submit(frame(2, lost))
    worker.submit(frame(3))
    recorder.wait(lambda: recorder.stamps[-1:] == [3])
    assert len(recorder.hidden) == 1


def test_a_pause_gives_up_what_is_encoded_ahead(ahead: Bench) -> None:
    backend, worker, recorder = ahead.backend, ahead.worker, ahead.recorder

    def pause_while(condition: Callable[[], bool], release: threading.Semaphore) -> None:
        pausing = threading.Thread(target=worker.pause)
        pausing.start()
        wait_until(condition)
        assert pausing.is_alive(), "it waits for the frame under way"
        release.release()
        pausing.join(PATIENCE)
        assert not pausing.is_alive()

    worker.submit(frame(1))
    assert backend.encoding.acquire(timeout=PATIENCE)
    pause_while(lambda: worker.counters == Counters(received=1, dropped=1), backend.encoder_gate)
    assert worker.counters == Counters(received=1, dropped=1)
    worker.resume()
    worker.submit(frame(2))
    backend.encoder_gate.release()
    assert backend.entered.acquire(timeout=PATIENCE)
    worker.submit(frame(3))
    backend.encoder_gate.release()
    wait_until(lambda: worker._ahead is not None)  # 3 is encoded, 2 is tracked
    pause_while(lambda: worker.counters.dropped == 1, backend.gate)
    assert recorder.stamps == [2] and worker.counters == Counters(received=2, processed=1, dropped=1)
    worker.resume()
    worker.submit(frame(4))
    backend.encoder_gate.release()
    backend.gate.release()
    recorder.wait(lambda: recorder.stamps == [2, 4])
    assert worker.counters == Counters(received=1, processed=1)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_frames_that_do_not_go_on_from_the_last_forget_the_objects() -> None:
    backend, recorder = NullBackend(TrackerConfig(history=2)), Recorder()
    worker = Worker(lambda: backend, recorder, jump_back=1.0)
    worker.start().result(PATIENCE)
    worker.resume()

    def process(stamp: int, shape: tuple[int, int] = (20, 30)) -> None:
        count = len(recorder.processed)
        worker.submit(frame(stamp, lambda: np.zeros((*shape, 3), np.uint8)))
        recorder.wait(lambda: len(recorder.processed) > count)

    def add() -> None:
        (answer,) = worker.call(lambda backend: backend.add([BOX])).result(PATIENCE)
        assert answer.success

    process(10 * SECOND)
    add()
    process(9 * SECOND + 1)  # less than a second
    process(9 * SECOND + 2, (40, 60))  # the same aspect
    assert len(recorder.processed[-1].result.objects) == 1 and not recorder.restarts
    process(9 * SECOND + 3, (40, 50))
    assert not recorder.processed[-1].result.objects and "another aspect" in recorder.restarts[-1]
    add()
    process(SECOND, (40, 50))
    assert not recorder.processed[-1].result.objects and "time jumped back" in recorder.restarts[-1]
    worker.close()


def test_a_frame_that_no_engine_has_seen_is_told_with_its_hidden_objects(bench: Bench) -> None:
    bench.process(1)
    hidden = FrameResult(1, 2, 30, 20, ())
    for stamp, fault in ((2, FrameDropped("no server", hidden)), (3, FrameDropped("replaced by a newer one"))):
        bench.backend.fault = fault
        bench.submit_and_wait_for_start(stamp)
        bench.backend.gate.release()
        bench.recorder.wait(lambda: fault in bench.recorder.failures)  # noqa: B023
    bench.process(4)
    (told,) = bench.recorder.hidden  # an engine that is only busy knows where its objects are
    assert told.result is hidden and told.frame.stamp == 2 and told.image is RGB
    assert told.counters == Counters(received=2, processed=1, dropped=1)
    assert bench.worker.counters == Counters(received=4, processed=2, dropped=2)


def test_each_command_is_refused_at_its_own_deadline(bench: Bench) -> None:
    """The first is not kept waiting by one that may wait for an hour."""
    patient = bench.worker.call_on_frame(lambda backend: None, 7, 3600.0)
    hasty = bench.worker.call_on_frame(lambda backend: None, 7, 0.1)
    assert refusal(hasty).code is PromptCode.NO_FRAME
    assert not patient.done()


def test_objects_of_an_earlier_worker_are_forgotten_where_the_time_was_reset() -> None:
    """Its newest frame is known, so that the first frame here can be compared with it."""
    before = Processed(frame(100 * SECOND), RGB, FrameResult(0, 100 * SECOND, 30, 20, ()), 0, 0, Counters())
    recorder = Recorder()
    worker = Worker(NullBackend, recorder, jump_back=1.0, last=before)
    worker.start().result(PATIENCE)
    worker.resume()
    try:
        assert worker.newest is before.frame
        worker.submit(frame(SECOND))
        recorder.wait(lambda: recorder.stamps == [SECOND])
        assert len(recorder.restarts) == 1 and "time jumped back" in recorder.restarts[0]
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("stamp", "shape", "jump_back", "reason"),
    [
        (10 * SECOND, (20, 30), 1.0, ""),
        (9 * SECOND, (20, 30), 1.0, ""),
        (9 * SECOND - 1, (20, 30), 1.0, "time jumped back from 10.000000000 to 8.999999999"),
        (0, (20, 30), 0.0, ""),
        (99 * SECOND, (20, 30), 1.0, ""),
        (11 * SECOND, (200, 300), 1.0, ""),
        (11 * SECOND, (100, 152), 1.0, ""),  # 1.3 % wider
        (11 * SECOND, (100, 148), 1.0, ""),
        (11 * SECOND, (100, 154), 1.0, "the image changed from 30 x 20 to 154 x 100 pixels, which is another aspect"),
        (11 * SECOND, (100, 146), 1.0, "the image changed from 30 x 20 to 146 x 100 pixels, which is another aspect"),
    ],
)
def test_what_does_not_go_on_from_the_last_frame(
    stamp: int, shape: tuple[int, int], jump_back: float, reason: str
) -> None:
    last = Processed(frame(10 * SECOND), RGB, FrameResult(0, 10 * SECOND, 30, 20, ()), 0, 0, Counters())
    image = np.zeros((*shape, 3), np.uint8)
    assert interruption(frame(stamp), image, last, jump_back) == reason
    assert interruption(frame(stamp), image, None, jump_back) == "", "there is none"
