"""Evaluates sequences one after the other, or several at a time in processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from typing import Any

from sam2_ros.evaluation.job import Job, Runner
from sam2_ros.evaluation.results import SequenceResult
from sam2_ros.media.errors import UserError


class Stopped(Exception):
    """The evaluation was interrupted; finished sequences are on disk."""


def run_all(job: Job, names: Sequence[str], jobs: int, tick: Callable[[int], object]) -> Iterator[SequenceResult]:
    """Yields the results of ``names`` as they finish and are on disk. ``tick`` gets the number of new frames.

    With ``jobs`` > 1 that many processes share the cores, unless the job sets the threads of each.

    Raises:
        KeyboardInterrupt: the user ended it.
        UserError: as from the engine, or a process died.
    """
    if jobs <= 1 or len(names) <= 1:
        runner = Runner(job)
        try:
            for name in names:
                yield runner.run(name, partial(tick, 1))
        finally:
            runner.close()
        return
    jobs = min(jobs, len(names))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    job = replace(job, threads=job.threads or max(1, cores // jobs))
    context = multiprocessing.get_context("spawn")  # a fork of a process that has run torch may hang
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, _start, (job, stop)) as pool:
        try:
            for done in as_completed([pool.submit(_work, name) for name in names]):
                result = done.result()
                tick(result.frames)
                yield result
        except BrokenProcessPool as error:
            raise UserError("a process of the evaluation died, perhaps out of memory; try fewer --jobs") from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_runner: Runner | None = None
_stop: Any = None


def _start(job: Job, stop: Any) -> None:
    """Prepares a worker process; its parent says when to stop, not the keyboard."""
    global _runner, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _runner, _stop = Runner(job), stop


def _follow_parent() -> None:
    """Ends this process with its parent; otherwise it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(name: str) -> SequenceResult:
    assert _runner is not None

    def check() -> None:
        if _stop.is_set():
            raise Stopped

    return _runner.run(name, check)
