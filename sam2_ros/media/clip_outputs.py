"""The files of a tracked clip: label images, video, table and picture; and the checks of their paths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sam2_ros.media.errors import UserError
from sam2_ros.media.figures import Storyboard, write_png
from sam2_ros.media.image_folder import IMAGE_SUFFIXES
from sam2_ros.media.label_images import compose_labels, maker_of, write_labels
from sam2_ros.media.overlay import draw_overlay
from sam2_ros.media.source_frame import Frame
from sam2_ros.media.track_table import FrameRecord, record, summary_table, write_tracks
from sam2_ros.media.video_writer import VIDEO_SUFFIXES, VideoWriter
from sam2_ros.media.whole_files import UNFINISHED, check_space, check_writable
from sam2_ros.text import counted
from sam2_ros.tracking.types import FrameResult

Input = tuple[str, Path]  # what it is, for messages, and where


@dataclass(frozen=True)
class OutputPaths:
    """Where the outputs go; None: not wanted. ``masks`` is a folder."""

    masks: Path | None = None
    video: Path | None = None
    json: Path | None = None
    picture: Path | None = None

    @property
    def chosen(self) -> dict[str, Path]:
        """The wanted ones by their option."""
        return {f"--{name}-out": path for name, path in vars(self).items() if path is not None}

    def check(self, source: str, inputs: Sequence[Input]) -> None:
        """Refuses paths that can't be written, and outputs that would overwrite an input or each other.

        Args:
            source: the clip; its run's label images may be replaced.
            inputs: the files that are read, and SOURCE.

        Raises:
            UserError: with the option, the path and what to do.
        """
        for (option, path), (other, same) in combinations(self.chosen.items(), 2):
            if path.resolve() == same.resolve():
                raise UserError(f"{option} and {other} are both {path}; give each a path of its own")
        for option, path in self.chosen.items():
            _check_apart(option, path, source, inputs)
        for option, accepted in (("--video-out", VIDEO_SUFFIXES), ("--picture-out", (".png",))):
            if option in self.chosen and (file := self.chosen[option]).suffix.lower() not in accepted:
                raise UserError(f"{option} is {file}; accepted: a name that ends in {', '.join(accepted)}")
        if self.masks:
            self._check_masks(self.masks, source, inputs)
        for option, path in self.chosen.items():
            try:
                check_writable(path / "000000.png" if path == self.masks else path)
                if path == self.video:
                    check_space(path)
            except UserError as error:
                raise UserError(f"{option}: {error}") from error

    def _check_masks(self, folder: Path, source: str, inputs: Sequence[Input]) -> None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--masks-out {folder} is a file; give the path of a folder")
        for what, path in inputs:
            if path.is_file() and path.resolve().parent == folder.resolve():
                raise UserError(f"--masks-out {folder} holds {what} ({path.name}); use another folder")
        mine = run_mark(source)
        others = (file for file in _label_images(folder) if maker_of(file) != mine and file != self.picture)
        if foreign := next(others, None):
            raise UserError(
                f"--masks-out {folder} holds {foreign.name}, which no earlier run on {source} wrote; use another "
                "folder, or remove the images that are in the way"
            )


def run_mark(source: str) -> str:
    """What label images say about their maker, the same for every run on ``source``."""
    return f"sam2_ros track {hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:16]}"


def _label_images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.png") if not file.name.startswith("."))


def _check_apart(option: str, output: Path, source: str, inputs: Iterable[Input]) -> None:
    for what, path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            kind = "folder" if output.is_dir() else "file"
            raise UserError(f"{option} {output} is {what} itself and would be overwritten; use another {kind}")
    folder = Path(source).parent if "%" in Path(source).name else Path(source)  # also of a pattern, img_%05d.jpg
    if output.suffix.lower() in IMAGE_SUFFIXES and folder.is_dir() and output.resolve().parent == folder.resolve():
        raise UserError(f"{option} {output} would be a frame of SOURCE; write it to another folder")


class ClipOutputs:
    """Writes label images and video as frames come, table and picture at the end.

    Args:
        paths: checked by :meth:`OutputPaths.check`.
        file_id: maps the engine's id of an object to the id to write.
        wide: whether an id exceeds 255.
        windows: draw the part of the image in which the network looked for each object.
    """

    def __init__(
        self,
        paths: OutputPaths,
        source: str,
        fps: float,
        file_id: Callable[[int], int],
        wide: bool,
        windows: bool = False,
    ) -> None:
        self._paths, self._source, self._fps, self._file_id, self._wide = paths, source, fps, file_id, wide
        self._windows = windows
        self._records: list[FrameRecord] = []
        self._seconds = 0.0
        self._size = (0, 0)
        self._video = VideoWriter(paths.video, fps) if paths.video else None
        title = f"{Path(source).name}: state, visibility and predicted IoU"
        self._story = Storyboard(title) if paths.picture else None
        self.removed = 0  # label images of an earlier run
        self.written: list[Path] = []

    @property
    def count(self) -> int:
        """Frames so far."""
        return len(self._records)

    def add(self, frame: Frame, result: FrameResult, seconds: float) -> None:
        """Takes a frame with its objects; ``seconds`` is what the engine took.

        Raises:
            WriteError: a file can't be written.
        """
        if not self._records:
            self._begin()
        row = record(result, frame.index, frame.name, self._file_id)
        if self._paths.masks:
            objects = [(self._file_id(obj.object_id), obj) for obj in result.objects]
            labels = compose_labels(objects, result.height, result.width, self._wide)
            write_labels(self._paths.masks / f"{frame.name}.png", labels, run_mark(self._source))
        self._records.append(row)
        self._seconds += seconds
        self._size = (result.width, result.height)
        if self._video or self._story:
            drawn = draw_overlay(frame.rgb, result, ids=self._file_id, windows=self._windows)
            if self._story:
                self._story.add(drawn, row)
            if self._video:
                self._video.write(drawn)

    def finish(self, about: dict[str, Any]) -> list[Exception]:
        """Completes every file, whichever of the others fails; returns the errors. Without a frame there is no file.

        Args:
            about: of the engine, for the table.
        """
        if not self._records:
            return []
        errors: list[Exception] = []
        self.written = [self._paths.masks] if self._paths.masks else []
        for path, write in (
            (self._paths.video, self._complete_video),
            (self._paths.json, lambda path: self._write_table(path, about)),
            (self._paths.picture, self._write_picture),
        ):
            if path:
                try:
                    write(path)
                    if path != self._paths.video or (self._video and self._video.frames):
                        self.written.append(path)
                except Exception as error:  # e.g. a full disk
                    errors.append(error)
        return errors

    def summary(self, model: str, device: str) -> str:
        """States, scores and speed as text, and the written files."""
        rate = f"{self.count / self._seconds:.1f}" if self._seconds else "-"
        line = (
            f"{counted(self.count, 'frame')} of {self._size[0]}x{self._size[1]}, {model} on {device}: {rate} frames/s"
        )
        return "\n".join([summary_table(self._records), line, *(f"written: {path}" for path in self.written)])

    def _begin(self) -> None:
        """Removes the label images of an earlier run, so that a shorter one leaves none between its own."""
        folder = self._paths.masks
        if folder:
            for file in folder.glob(UNFINISHED):
                file.unlink()
            for file in _label_images(folder):
                if maker_of(file) == run_mark(self._source):
                    file.unlink()
                    self.removed += 1

    def _complete_video(self, _: Path) -> None:
        assert self._video is not None
        self._video.close()

    def _write_table(self, path: Path, about: dict[str, Any]) -> None:
        width, height = self._size
        write_tracks(
            path, self._records, {"source": self._source, **about, "width": width, "height": height, "fps": self._fps}
        )

    def _write_picture(self, path: Path) -> None:
        assert self._story is not None
        write_png(path, self._story.draw())
