"""Annotates recordings into one data set. What is done stays done, whatever happens to the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sam2_ros.annotation.data_set import write_data_set
from sam2_ros.annotation.engine import Done, Engine, EngineSettings
from sam2_ros.annotation.recordings import Frames, Images, Recording, extract, open_recording
from sam2_ros.annotation.results import Annotated, read_result
from sam2_ros.media.errors import UserError
from sam2_ros.media.signals import signals_wait
from sam2_ros.text import counted

Opened: TypeAlias = "tuple[Recording, Frames]"
Work: TypeAlias = "Callable[[Sequence[Opened], Path, Done], Iterator[tuple[Recording, str]]]"
"""Annotates recordings into a data set; yields each with why it can't be done, empty when it is."""


@dataclass
class Report:
    """What became of the recordings."""

    finished: list[Annotated] = field(default_factory=list)  # in the order of the sources
    problems: dict[str, str] = field(default_factory=dict)  # by recording: why it failed or is not whole
    doubtful: int = 0  # images
    annotated: int = 0  # recordings, by this run
    images: int = 0  # in them
    seconds: float = 0.0  # that this run took

    @property
    def speed(self) -> str:
        """How fast this run was, for a person."""
        each = self.images / max(self.seconds, 1e-3)
        work = f"{counted(self.images, 'image')} of {counted(self.annotated, 'recording')}"
        return f"{work} in {self.seconds:.0f} s: {each:.1f} a second"


def one_by_one(engine: Engine) -> Work:
    """Works in this process."""

    def work(waiting: Sequence[Opened], out: Path, done: Done) -> Iterator[tuple[Recording, str]]:
        for recording, frames in waiting:
            yield recording, engine.annotate(recording, frames, out, done)

    return work


def annotate(
    recordings: Sequence[Recording], out: Path, settings: EngineSettings, work: Work, report: Report, progress: Any,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Annotates what no earlier run has finished, and writes the data set of all that is done, also after Ctrl-C.

    Args:
        report: filled while it works.
        progress: a bar of :mod:`sam2_ros.media.progress`.
        say: tells a line for each recording.

    Raises:
        WriteError: a file can't be written, as on a full disk; what is done is kept.
    """
    done: dict[str, Annotated] = {}
    waiting: list[Opened] = []
    for recording in recordings:
        if (earlier := read_result(out, recording)) is not None:
            done[recording.name] = earlier
            images = Images(out / settings.images / recording.name, earlier.images)
            if not images.all_there():
                try:
                    extract(open_recording(recording, settings.topic, settings.stills), images.folder, lambda: None)
                    say(f"{recording.name}: images were missing; they are written again")
                except UserError as error:
                    report.problems[recording.name] = f"images are missing, and {error}"
            continue
        try:
            waiting.append((recording, open_recording(recording, settings.topic, settings.stills)))
        except UserError as error:
            report.problems[recording.name] = str(error)
    if done:
        say(f"{len(done)} of {len(recordings)} recordings were finished by an earlier run and are skipped")
    steps = {recording.name: (frames.length or 0) * settings.passes for recording, frames in waiting}
    progress.total = sum(steps.values()) if all(frames.length for _, frames in waiting) else None
    passed = 0
    begin = time.monotonic()
    try:
        for recording, problem in work(waiting, out, progress.update):
            passed += steps[recording.name]
            progress.update(passed - progress.n)
            result = None if problem else read_result(out, recording)
            if result is None:
                report.problems[recording.name] = problem or "it was changed meanwhile; run the command again"
                continue
            done[recording.name] = result
            report.annotated += 1
            report.images += len(result.images)
            looked = len({reason.frame for reason in result.reasons})
            say(f"{recording.name}: {counted(len(result.images), 'image')}, {counted(len(result.labels), 'object')}, "
                f"{counted(len(result.masks), 'mask')}, {counted(looked, 'image')} to look at")  # fmt: skip
    finally:
        with signals_wait():
            report.seconds = time.monotonic() - begin
            report.finished = [done[each.name] for each in recordings if each.name in done]
            report.problems |= {each.name: each.damage for each in report.finished if each.damage}
            if report.finished:
                report.doubtful = write_data_set(out, settings.format, report.finished)
