"""The demo without ROS: the engine tracks a clip in this process."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sam2_ros.demo.clip_report import Report, ReportWriter
from sam2_ros.demo.footage import Clip, clip_prompt
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.clip_tracker import ClipTracker
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import open_source
from sam2_ros.media.progress import bar
from sam2_ros.media.prompts_file import FramePrompt


def track(clip: Clip, backend: Backend, folder: Path, frames: int | None, quiet: bool) -> Report:
    """Tracks every frame of a clip, or ``frames`` of them, and writes the report's files to ``folder``.

    Raises:
        UserError, KeyboardInterrupt: an error or a signal before the first frame was tracked; later it ends the report
            early.
    """
    source = open_source(clip.source)
    prompt = clip_prompt(clip, source)
    limit = frames or source.length
    seconds, stopped = 0.0, None
    with (
        closing(ReportWriter(folder, clip.name, source.fps)) as report,
        bar(limit, "frame", quiet, clip.name) as progress,
    ):
        try:
            for tracked in ClipTracker(backend, [FramePrompt(0, 1, prompt, clip.object_name)]).run(source):
                seconds += tracked.seconds
                report.add(tracked.frame.rgb, tracked.result)
                progress.update()
                if report.frames == limit:
                    break
        except (UserError, KeyboardInterrupt) as error:
            if not report.frames:
                raise
            stopped = error
        return report.finish(0, report.frames / seconds, stopped)
