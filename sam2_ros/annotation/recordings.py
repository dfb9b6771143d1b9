"""The recordings that a user names, and the images of each as they go into the data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2

from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import open_source
from sam2_ros.media.image_folder import MAX_BYTES, images_of, read_image
from sam2_ros.media.input_files import read_file
from sam2_ros.media.picture_decoder import PictureError, read_header
from sam2_ros.media.source_frame import Frame, Rgb, note
from sam2_ros.media.whole_files import write_error
from sam2_ros.text import counted, printable

JPEG_QUALITY = 95
_MOST_SIDE = 65500  # pixels, of OpenCV's JPEG
_MAX_NAME = 60  # characters; a file's name has 255 bytes at most
_ACCEPTED = "accepted: a folder of images, a video, a rosbag2 folder, or an MCAP file"


class Frames(Protocol):
    """The frames of a recording; ``length`` is None if it is unknown."""

    length: int | None

    def __iter__(self) -> Iterator[Frame]: ...


@dataclass(frozen=True)
class Recording:
    """A recording on disk. ``name`` is its own among all recordings of a data set, and fit for a file's name."""

    name: str
    path: Path

    @property
    def is_bag(self) -> bool:
        return self.path.suffix == ".mcap" or (self.path / "metadata.yaml").is_file()

    @property
    def identity(self) -> list[int | str]:
        """What tells whether the recording has changed: its files, not the folders in it, of which one may be the data
        set."""
        files = [*self.path.iterdir()] if self.path.is_dir() else [self.path]
        stats = [file.stat() for file in files if file.is_file()]
        newest = max((stat.st_mtime_ns for stat in stats), default=0)
        return [str(self.path.resolve()), len(stats), sum(stat.st_size for stat in stats), newest]


@dataclass(frozen=True)
class ImageFile:
    """An image of the data set."""

    name: str  # of the file
    stamp: int  # ns
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class Images:
    """The images of one recording in the data set. ``damage`` says why there are no more; empty: they are all."""

    folder: Path
    files: Sequence[ImageFile]
    damage: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Rgb:
        """RGB ``uint8 [H, W, 3]``.

        Raises:
            UserError: it can't be read, or is another image than the one that was annotated.
        """
        rgb = read_image(self._path(index))
        self._check_size(index, rgb.shape[1], rgb.shape[0])
        return rgb

    def jpeg(self, index: int) -> bytes:
        """The file, for who decodes it himself; raises as :meth:`read`."""
        path = self._path(index)
        content = read_file(path, MAX_BYTES)
        try:
            header = read_header(content)
        except PictureError as error:
            raise UserError(f"{path}: not a readable image ({error})") from None
        self._check_size(index, header.width, header.height)
        return content

    def all_there(self) -> bool:
        """Whether no file is missing."""
        return all((self.folder / file.name).is_file() for file in self.files)

    def _path(self, index: int) -> Path:
        path = self.folder / self.files[index].name
        if not path.exists():
            raise UserError(f"{path}: no such file; 'sam2_ros annotate' writes it again")
        return path

    def _check_size(self, index: int, width: int, height: int) -> None:
        file = self.files[index]
        if (width, height) != (file.width, file.height):
            raise UserError(
                f"{self.folder / file.name} has {width} x {height} pixels; it was annotated with {file.width} x "
                f"{file.height}: put that image back"
            )


def find_recordings(sources: Sequence[str], out: Path | None = None) -> list[Recording]:
    """The recordings, each once, without the data set ``out``, which ``*`` may name too.

    Raises:
        UserError: there is no such file or folder, or no recording among them.
    """
    found: list[Recording] = []
    paths = {out.resolve()} if out is not None else set()
    taken = {"images"}  # Ultralytics takes the last folder of this name in a path for the data set's own
    for source in sources:
        path = Path(source)
        if not path.exists():
            raise UserError(f"{printable(source)}: no such file or folder; {_ACCEPTED}")
        plain = path.resolve()
        if plain in paths:
            note(f"{path} is named twice, or is the data set itself; left out")
            continue
        paths.add(plain)
        base = re.sub(r"[^\w.-]", "_", plain.name if plain.is_dir() else plain.stem).lstrip(".")[:_MAX_NAME]
        base = base or "recording"
        name, number = base, 1
        while name.lower() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.lower())
        found.append(Recording(name, path))
    if not found:
        raise UserError(f"no recording is given; {_ACCEPTED}")
    return found


def open_recording(recording: Recording, topic: str = "", stills: bool = False) -> Frames:
    """
    Args:
        topic: of a bag's images; empty: the only one.
        stills: the images of a folder are no sequence and may differ in size.

    Raises:
        UserError: it can't be read; also while iterating.
    """
    if recording.is_bag:
        from sam2_ros.annotation.bags import Bag

        return Bag(recording.path, topic)
    if stills:
        if not recording.path.is_dir():
            raise UserError(f"{recording.path} is no folder of images, which --stills needs")
        return Stills(recording.path)
    return open_source(str(recording.path))


class Stills:
    """The images of a folder, which need not belong together. One that can't be read is left out, with a note."""

    def __init__(self, folder: Path) -> None:
        self._files = images_of(folder)
        self.length: int | None = len(self._files)

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            try:
                rgb = read_image(file)
            except UserError as error:
                note(f"{error}; left out")
                continue
            yield Frame(index, file.stem, 0, rgb)


def extract(frames: Frames, folder: Path, done: Callable[[], object]) -> Images:
    """Writes every frame as a JPEG of quality 95 into ``folder``, in which the data set has its images.

    Args:
        done: called after each frame.

    Raises:
        UserError: there is no frame at all.
        WriteError: a file can't be written.
    """
    files: list[ImageFile] = []
    damage = ""
    coming = iter(frames)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                frame = next(coming, None)
                jpeg = b"" if frame is None else _jpeg(frame.rgb)
            except UserError as error:
                if not files:
                    raise
                damage = f"{error}; only what comes before is annotated, {counted(len(files), 'image')}"
                break
            if frame is None:
                break
            path = folder / f"{frame.name}.jpg"
            path.write_bytes(jpeg)
            files.append(ImageFile(path.name, frame.stamp, frame.rgb.shape[1], frame.rgb.shape[0]))
            done()
    except OSError as error:
        raise write_error(folder, error) from error
    if not files:
        raise UserError("there is no image that can be read")
    return Images(folder, files, damage)


def _jpeg(rgb: Rgb) -> bytes:
    """
    Raises:
        UserError: it is too large.
    """
    height, width = rgb.shape[:2]
    if max(height, width) > _MOST_SIDE:
        raise UserError(f"an image has {width} x {height} pixels; a JPEG has up to {_MOST_SIDE} on a side")
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
