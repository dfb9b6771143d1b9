"""The folder of a data set: what it was made with, and which recordings it consists of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.annotation.folder import LOCK, check_links
from sam2_ros.annotation.formats import FORMATS, write_review
from sam2_ros.annotation.results import FOLDER, Annotated, read_annotated
from sam2_ros.media.errors import UserError
from sam2_ros.media.input_files import read_file
from sam2_ros.media.whole_files import write_json
from sam2_ros.model.weight_files import content_digest
from sam2_ros.text import printable

if TYPE_CHECKING:
    from sam2_ros.annotation.engine import EngineSettings

SETTINGS = "settings.json"  # of a data set: what its recordings were annotated with
_MAY_DIFFER = ("device", "runtime", "threads", "dtype")  # the same data set may be continued on another machine
_MAX_BYTES = 1 << 24  # of the settings, which name all recordings
_FILES = ("detector", "labels", "model")  # settings that may name one

_RECORDINGS = "recordings"  # among the settings: the names of those that the data set consists of


@dataclass(frozen=True)
class DataSet:
    """A data set that was written. ``images``: the folder in it; ``stills``: its images are no sequences."""

    out: Path
    format: str
    images: str
    stills: bool
    windows: bool
    recordings: list[Annotated]


def open_data_set(out: Path, settings: EngineSettings) -> list[str]:
    """Takes a folder that is empty, or that an earlier run with the same settings left. Returns the names of the
    recordings that its data set consists of.

    Raises:
        UserError: it holds something else.
    """
    path = out / SETTINGS
    wanted: dict[str, Any] = {key: value for key, value in asdict(settings).items() if key not in _MAY_DIFFER}
    for key in _FILES:
        if wanted[key] and (digest := content_digest(Path(wanted[key]).expanduser())):
            wanted[f"content of {key}"] = digest
    if not path.exists():
        if any(file.name != LOCK for file in out.iterdir()):
            raise UserError(f"--out {out} holds other files; give a new or an empty folder")
        write_json(path, wanted)
        return []
    try:
        earlier = _read_settings(out)
    except (UserError, ValueError) as error:
        raise UserError(f"{path} can't be read ({printable(error)}); give another folder with --out") from None
    known = earlier if isinstance(earlier, dict) else {}
    names = known.pop(_RECORDINGS, None)
    changed = [key for key in {**wanted, **known} if known.get(key) != wanted.get(key)]
    ours = {"detector", "format"} <= known.keys()  # other programs have files of this name
    if changed and (not ours or any((out / FOLDER).glob("*.json"))):
        told = ", ".join(f"{key}: {known[key]!r}" if key in known and " " not in key else key for key in changed)
        raise UserError(f"--out {out} was made with other settings ({printable(told, 500)}); give another folder")
    check_links(out)
    if changed:  # and nothing is finished: the first attempt failed
        write_json(path, wanted)
    return [str(name) for name in names] if isinstance(names, list) else []


def write_data_set(out: Path, format: str, done: Sequence[Annotated]) -> int:
    """Writes the data set of these recordings, and the list of images to look at. Returns the length of that.

    Raises:
        WriteError: a file can't be written.
    """
    doubtful = write_review(out, done, FORMATS[format].images)
    FORMATS[format].write(out, done)
    write_json(out / SETTINGS, _read_settings(out) | {_RECORDINGS: [each.name for each in done]})
    return doubtful


def read_data_set(out: Path) -> DataSet:
    """
    Raises:
        UserError: it is none, nothing in it is finished, or a file of it can't be read.
    """
    try:
        settings = _read_settings(out)
        format, stills, windows = str(settings["format"]), bool(settings["stills"]), bool(settings["windows"])
        images = FORMATS[format].images
        names = dict.fromkeys(str(name) for name in settings.get(_RECORDINGS, ()))
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{printable(out)} is no data set; give the folder that 'sam2_ros annotate --out' wrote"
        ) from None
    check_links(out)
    try:
        recordings = [read_annotated(out, name) for name in names]
    except UserError as error:
        raise UserError(f"{error}; run 'sam2_ros annotate' again") from None
    if not recordings:
        raise UserError(f"{printable(out)}: no data set is written yet; run 'sam2_ros annotate' again, which goes on")
    return DataSet(out, format, images, stills, windows, recordings)


def _read_settings(out: Path) -> Any:
    """
    Raises:
        UserError, ValueError: the file can't be read.
    """
    content = read_file(out / SETTINGS, _MAX_BYTES)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("lists within lists, too deep") from None
