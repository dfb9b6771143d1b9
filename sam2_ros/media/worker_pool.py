"""Works at several tasks at a time in processes, which end when their parent stops or dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from sam2_ros.media.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Stopped(Exception):
    """The parent wants no more results."""


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_in_processes(
    jobs: int, prepare: Callable[..., object], arguments: tuple[Any, ...], work: Callable[[Task], Result],
    tasks: Sequence[Task],
) -> Iterator[Result]:  # fmt: skip
    """Yields the results of ``work`` as they come.

    Args:
        jobs: number of processes; each calls ``prepare(*arguments)`` first.
        work: a function of a module; it calls :func:`check_stop` now and then.

    Raises:
        UserError: a process died.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process that has run torch or OpenGL may hang
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, _start, (stop, prepare, arguments)) as pool:
        try:
            for done in as_completed([pool.submit(work, task) for task in tasks]):
                yield done.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that did a part of the work died, perhaps out of memory; try fewer --jobs"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_stops: list[Any] = []  # of this worker process


def check_stop() -> None:
    """In a worker process.

    Raises:
        Stopped: the parent wants no more results.
    """
    if any(stop.is_set() for stop in _stops):
        raise Stopped


def _start(stop: Any, prepare: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Prepares a worker process; its parent says when to stop, not the keyboard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _stops.append(stop)
    prepare(*arguments)


def _follow_parent() -> None:
    """Ends this process with its parent; otherwise it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
