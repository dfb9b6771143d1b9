"""Annotates recordings into one data set. What is done stays done, whatever happens to the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sam2_ros.annotation.engine import Done, Engine, EngineSettings
from sam2_ros.annotation.formats import FORMATS, write_review
from sam2_ros.annotation.recordings import Frames, Recording, open_recording
from sam2_ros.annotation.results import FOLDER, Annotated, read_result
from sam2_ros.media.errors import UserError
from sam2_ros.media.signals import signals_wait
from sam2_ros.media.whole_files import write_json
from sam2_ros.model.download import file_sha256
from sam2_ros.text import printable

SETTINGS = "settings.json"  # of a data set: what its recordings were annotated with
_MAY_DIFFER = ("device", "runtime", "threads", "dtype")  # the same data set may be continued on another machine
_FILES = ("detector", "labels", "model")  # settings that may name one

Opened: TypeAlias = "tuple[Recording, Frames]"
Work: TypeAlias = "Callable[[Sequence[Opened], Path, Done], Iterator[tuple[Recording, str]]]"
"""Annotates recordings into a data set; yields each with why it can't be done, empty when it is."""


@dataclass
class Report:
    """What became of the recordings."""

    finished: list[Annotated] = field(default_factory=list)  # in the order of the sources
    problems: dict[str, str] = field(default_factory=dict)  # by recording: why it failed or is not whole
    doubtful: int = 0  # images


def open_data_set(out: Path, settings: EngineSettings) -> None:
    """Makes the folder, or takes one that an earlier run with the same settings left.

    Raises:
        UserError: it holds something else.
    """
    path = out / SETTINGS
    wanted: dict[str, Any] = {key: value for key, value in asdict(settings).items() if key not in _MAY_DIFFER}
    for key in _FILES:
        if (file := Path(wanted[key])).is_file():
            wanted[f"content of {key}"] = file_sha256(file)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"--out {out} holds other files; give a new or an empty folder") from None
        write_json(path, wanted)
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({printable(error)}); give another folder with --out") from None
    known = earlier if isinstance(earlier, dict) else {}
    changed = [key for key in {**wanted, **known} if known.get(key) != wanted.get(key)]
    ours = {"detector", "format"} <= known.keys()  # other programs have files of this name
    if changed and (not ours or any((out / FOLDER).glob("*.json"))):
        raise UserError(f"--out {out} was made with other settings ({', '.join(changed)}); give another folder")
    if changed:  # and nothing is finished: the first attempt failed
        write_json(path, wanted)


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
    try:
        for recording, problem in work(waiting, out, progress.update):
            passed += steps[recording.name]
            progress.update(passed - progress.n)
            result = None if problem else read_result(out, recording)
            if result is None:
                report.problems[recording.name] = problem or "it was changed meanwhile; run the command again"
                continue
            done[recording.name] = result
            looked = len({reason.frame for reason in result.reasons})
            say(f"{recording.name}: {len(result.images)} images, {len(result.labels)} objects, "
                f"{len(result.masks)} masks, {looked} images to look at")  # fmt: skip
    finally:
        with signals_wait():
            report.finished = [done[each.name] for each in recordings if each.name in done]
            report.problems |= {each.name: each.damage for each in report.finished if each.damage}
            if report.finished:
                report.doubtful = write_review(out, report.finished, settings.images)
                FORMATS[settings.format].write(out, report.finished)
