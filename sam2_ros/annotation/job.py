"""Annotates recordings one after the other into one data set. What is done stays done, whatever happens to the rest."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from sam2_ros.annotation.formats import FORMATS, write_review
from sam2_ros.annotation.methods import ByDetector, ByPrompts, ByRecorded, Everything, Method
from sam2_ros.annotation.reconcile import UNCERTAIN, Mask, Reason, Reconciled, reconcile
from sam2_ros.annotation.recordings import Frames, Images, Recording, extract, open_recording
from sam2_ros.annotation.results import Annotated, read_result, write_result
from sam2_ros.annotation.two_ways import ANYTHING, encode, follow
from sam2_ros.inference.local import LocalBackend
from sam2_ros.media.errors import UserError
from sam2_ros.media.signals import signals_wait
from sam2_ros.media.whole_files import WriteError, write_json
from sam2_ros.text import printable
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.image_segmenter import ImageSegmenter
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import Prompt

SETTINGS = "settings.json"  # of a data set: what its recordings were annotated with
DROP_AFTER = 300  # images without an object until it is given up, so that its place is free

Done = Callable[[int], object]
"""Told how many images were worked on; each counts once for each direction."""


@dataclass(frozen=True)
class Engine:
    """What annotates one recording."""

    shared: SharedModel
    method: Method
    max_objects: int
    stills: bool

    def annotate(self, recording: Recording, frames: Frames, folder: Path, done: Done) -> Annotated:
        """Writes the images into ``folder``.

        Raises:
            UserError: the recording can't be annotated.
            WriteError: an image can't be written.
        """
        images = extract(frames, folder, lambda: done(0))
        if self.stills:
            return Annotated.of(recording, images, self._separately(images, done))
        plan = self.method.plan(frames, images, lambda: done(0))
        config = TrackerConfig(max_objects=self.max_objects, history=0, drop_after=DROP_AFTER)
        tracks = []
        for order in (range(len(images)), range(len(images) - 1, -1, -1)):
            with closing(LocalBackend(self.shared, config)) as backend:
                tracks.append(follow(backend, images, order, plan.feed(), lambda: done(1)))
        return Annotated.of(recording, images, reconcile(tracks[0], tracks[1], plan.boxes))

    def _separately(self, images: Images, done: Done) -> Reconciled:
        """Segments images that are no sequence."""
        segmenter, method, result, numbers = ImageSegmenter(self.shared), self.method, Reconciled(), count(1)
        for index in range(len(images)):
            found: list[tuple[Any, float, str, float]] = []
            if isinstance(method, Everything):
                found = [(mask, iou, ANYTHING, 1.0) for mask, iou in method.find(images, index)]
            elif isinstance(method, ByDetector):
                rgb = images.read(index)
                boxes = [each for each in method.detect(rgb) if each.score >= method.settings.min_score]
                prompts = [Prompt(box=np.array(each.box, np.float32)) for each in boxes]
                answers = segmenter.segment(segmenter.encode(rgb), prompts) if prompts else []
                found = [(a.mask, a.predicted_iou, b.label, b.score) for a, b in zip(answers, boxes, strict=True)]
            for mask, iou, label, score in found:
                if mask.crop.size:
                    number = next(numbers)
                    result.labels[number] = label
                    result.masks.append(Mask(index, number, encode(mask), iou, detection_score=score))
                    if iou < UNCERTAIN:
                        result.reasons.append(Reason(index, "score", number, iou))
            done(1)
        return result


@dataclass
class Report:
    """What became of the recordings."""

    finished: list[Annotated] = field(default_factory=list)  # in the order of the sources
    skipped: int = 0  # of them, that an earlier run had finished
    problems: dict[str, str] = field(default_factory=dict)  # by recording: why it failed or is not whole
    doubtful: int = 0  # images


def check_method(method: Method, stills: bool, recordings: Sequence[Recording]) -> None:
    """
    Raises:
        UserError: the method can't do these recordings.
    """
    if stills and isinstance(method, ByPrompts | ByRecorded):
        raise UserError("--stills needs a detector that looks at images: an ONNX file, people, or everything")
    if isinstance(method, ByPrompts) and len(recordings) > 1:
        raise UserError(f"a prompts file belongs to one recording; there are {len(recordings)}")


def open_data_set(out: Path, settings: dict[str, Any]) -> None:
    """Makes the folder, or takes one that an earlier run with the same settings left.

    Raises:
        UserError: it holds something else.
    """
    path = out / SETTINGS
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"--out {out} holds other files; give a new or an empty folder") from None
        write_json(path, settings)
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({printable(error)}); give another folder with --out") from None
    if not isinstance(earlier, dict) or earlier != settings:
        known = earlier if isinstance(earlier, dict) else {}
        changed = [key for key in settings if known.get(key) != settings[key]]
        raise UserError(f"--out {out} was made with other settings ({', '.join(changed)}); give another folder")


def annotate(
    recordings: Sequence[Recording], out: Path, form: str, engine: Engine, topic: str, report: Report,
    progress: Any, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Annotates what no earlier run has finished, and writes the data set of all that is done, also after Ctrl-C.

    Args:
        form: a key of :data:`FORMATS`.
        report: filled while it works.
        progress: a bar of :mod:`sam2_ros.media.progress`.
        say: tells a line for each recording.

    Raises:
        WriteError: a file can't be written, as on a full disk; what is done is kept.
    """
    done: dict[str, Annotated] = {}
    waiting: list[tuple[Recording, Frames]] = []
    for recording in recordings:
        if (earlier := read_result(out, recording)) is not None:
            done[recording.name] = earlier
            continue
        try:
            waiting.append((recording, open_recording(recording, topic, engine.stills)))
        except UserError as error:
            report.problems[recording.name] = str(error)
    report.skipped = len(done)
    if done:
        say(f"{len(done)} of {len(recordings)} recordings were finished by an earlier run and are skipped")
    lengths = [frames.length for _, frames in waiting]
    progress.total = None if None in lengths else sum(filter(None, lengths)) * (1 if engine.stills else 2)
    try:
        for recording, frames in waiting:
            result = _one(recording, frames, out, form, engine, report, progress)
            if result is not None:
                done[recording.name] = result
                looked = len({reason.frame for reason in result.reasons})
                say(f"{recording.name}: {len(result.images)} images, {len(result.labels)} objects, "
                    f"{len(result.masks)} masks, {looked} images to look at")  # fmt: skip
    finally:
        with signals_wait():
            report.finished = [done[each.name] for each in recordings if each.name in done]
            report.problems |= {each.name: each.damage for each in report.finished if each.damage}
            if report.finished:
                report.doubtful = write_review(out, report.finished, FORMATS[form].images)
                FORMATS[form].write(out, report.finished)


def _one(
    recording: Recording, frames: Frames, out: Path, form: str, engine: Engine, report: Report, progress: Any
) -> Annotated | None:
    """None after an error, which is reported."""
    folder = out / FORMATS[form].images / recording.name
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    begin = progress.n

    def step(images: int) -> None:
        progress.update(images)

    try:
        progress.set_description_str(recording.name)
        result = engine.annotate(recording, frames, folder, step)
        write_result(out, result)
        return result
    except WriteError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        shutil.rmtree(folder, ignore_errors=True)
        report.problems[recording.name] = str(error) or type(error).__name__
        progress.update(begin - progress.n + (frames.length or 0) * (1 if engine.stills else 2))
        return None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
