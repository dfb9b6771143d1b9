"""Renders folders of robot scenes: clips in the layout of DAVIS, and ``Scenes/NAME.json`` about each.

That file is written last: a clip that has it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from sam2_ros.evaluation.kinds import SCENES
from sam2_ros.media.whole_files import write_whole
from sam2_ros.media.worker_pool import available_cores, check_stop, work_in_processes
from sam2_ros.simulation.scenes.models import Thing, folder_models
from sam2_ros.simulation.scenes.offscreen import Offscreen
from sam2_ros.training.clip_folder import write_clip
from sam2_ros.training.robot_clips import RobotClips, robot_clip


def robot_clip_name(index: int) -> str:
    return f"scene{index:05d}"


def render_robot_clips(out: Path, settings: RobotClips, models: Path | None, clips: int, jobs: int) -> Iterator[str]:
    """Renders what is missing of the first ``clips`` clips of a folder; gives the names of all as they are there.

    Args:
        models: a folder of models; None: plain shapes.
        jobs: that many processes share the cores.

    Raises:
        UserError: unusable models, no OpenGL, or a process died.
    """
    names = [robot_clip_name(index) for index in range(clips)]
    left = [index for index, name in enumerate(names) if not (out / SCENES / f"{name}.json").is_file()]
    yield from (name for index, name in enumerate(names) if index not in set(left))
    if jobs <= 1 or len(left) <= 1:
        renderer = _Renderer(out, settings, models)
        try:
            for index in left:
                yield renderer.make(index)
        finally:
            renderer.close()
        return
    jobs = min(jobs, len(left))
    yield from work_in_processes(jobs, _start, (out, settings, models, max(1, available_cores() // jobs)), _work, left)


class _Renderer:
    """Makes clips with one renderer, which is made for the first of them."""

    def __init__(self, out: Path, settings: RobotClips, models: Path | None) -> None:
        self._out, self._settings = out, settings
        self._things: tuple[Thing, ...] = folder_models(models, settings.split) if models else ()
        self._screen: Offscreen | None = None

    def make(self, index: int) -> str:
        if self._screen is None:
            self._screen = Offscreen(self._settings.width, self._settings.height)
        name = robot_clip_name(index)
        clip, about = robot_clip(self._settings, index, self._things, self._screen, check_stop)
        write_clip(self._out, name, clip)
        path = self._out / SCENES / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(about) + "\n")
        return name

    def close(self) -> None:
        if self._screen is not None:
            self._screen.close()


_renderers: list[_Renderer] = []  # of this worker process


def _start(out: Path, settings: RobotClips, models: Path | None, threads: int) -> None:
    # Helpers of Mesa's renderer on the CPU; a single one only waits for its caller.
    os.environ["LP_NUM_THREADS"] = str(threads if threads > 1 else 0)
    cv2.setNumThreads(threads)
    _renderers.append(_Renderer(out, settings, models))


def _work(index: int) -> str:
    return _renderers[0].make(index)
