"""Annotates recordings on a Ray cluster, each as a task of its own. All nodes see the folder of the data set."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from sam2_ros.annotation.engine import Done, Engine, EngineSettings
from sam2_ros.annotation.job import Opened, Work
from sam2_ros.annotation.recordings import Recording
from sam2_ros.media.errors import UserError
from sam2_ros.text import printable

ATTEMPTS = 4  # to annotate a recording whose worker dies


def on_ray(settings: EngineSettings, address: str) -> Work:
    """Works on the cluster at ``address``; "local" starts one on this machine.

    Every worker has an engine of its own, on ``settings.threads`` CPUs (0 = one), and on a GPU if the cluster has any.
    A recording whose worker dies is begun again.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
        from ray.exceptions import RayTaskError
    except ImportError:
        raise UserError("--ray needs Ray: python3 -m pip install 'sam2_ros[ray]'") from None

    def work(waiting: Sequence[Opened], out: Path, done: Done) -> Iterator[tuple[Recording, str]]:
        try:
            ray.init(
                address=address, include_dashboard=False if address == "local" else None, logging_level=logging.ERROR
            )
        except Exception as error:  # of many kinds
            raise UserError(f"no Ray cluster at {address}: {printable(error, 300)}") from None
        threads = settings.threads or 1
        gpus = 1 if settings.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        task: Any = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=ATTEMPTS - 1)(annotate_recording)
        mine = replace(settings, threads=threads, **_whole_paths(settings))
        running = {}
        for recording, _ in waiting:
            moved = replace(recording, path=recording.path.resolve())
            running[task.remote(mine, moved, out.resolve())] = recording
        try:
            while running:
                (ready,), _ = ray.wait(list(running), num_returns=1)
                try:
                    problem = ray.get(ready)
                except RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    problem = f"its worker died {ATTEMPTS} times ({printable(error, 200)})"
                yield running.pop(ready), problem
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            ray.shutdown()
            for recording in running.values():
                shutil.rmtree(out / settings.images / recording.name, ignore_errors=True)

    return work


def annotate_recording(settings: EngineSettings, recording: Recording, out: Path) -> str:
    """The task; as :meth:`Engine.annotate`."""
    engine = _engine(settings)
    try:
        frames = engine.open(recording)
    except UserError as error:
        return str(error)
    return engine.annotate(recording, frames, out, lambda images: None)


def _whole_paths(settings: EngineSettings) -> dict[str, Any]:
    """The files that the settings name, for a worker in another folder."""
    named = {"detector": settings.detector, "labels": settings.labels, "model": settings.model}
    return {key: str(Path(value).resolve()) for key, value in named.items() if value and Path(value).exists()}


@cache
def _engine(settings: EngineSettings) -> Engine:
    """Of this worker, which annotates several recordings."""
    return settings.make()
