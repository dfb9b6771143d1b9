"""Evaluates sequences one after the other, or several at a time in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from sam2_ros.evaluation.job import Job, Runner
from sam2_ros.evaluation.results import SequenceResult
from sam2_ros.media.worker_pool import available_cores, check_stop, work_in_processes


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
    job = replace(job, threads=job.threads or max(1, available_cores() // jobs))
    for result in work_in_processes(jobs, _start, (job,), _work, names):
        tick(result.frames)
        yield result


_runners: list[Runner] = []  # of this worker process


def _start(job: Job) -> None:
    _runners.append(Runner(job))


def _work(name: str) -> SequenceResult:
    return _runners[0].run(name, check_stop)
