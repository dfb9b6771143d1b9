"""Finds the labelled sequences of a data set, in the layouts of DAVIS, YouTube-VOS/MOSE/LVOS and SA-V."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2_ros.evaluation.sequences import LabelImages, LabelledSequence, Masklets, ObjectImages
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import ImageFolder, VideoFile

MASKLET_FPS = 24.0
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
_ACCEPTED = (
    "accepted: DAVIS (JPEGImages/[480p/]SEQUENCE/*.jpg with Annotations/[480p/]SEQUENCE/*.png), YouTube-VOS, MOSE and "
    "LVOS (the same with a meta.json), SA-V (JPEGImages_24fps and Annotations_6fps, or *.mp4 with *_manual.json)"
)


Opener = Callable[[str], LabelledSequence]


@dataclass(frozen=True)
class Dataset:
    """The sequences of a data set by name; a sequence is read when it is opened."""

    layout: str  # davis, youtube, sav or sav-train
    names: tuple[str, ...]
    open: Opener


def open_dataset(
    root: Path, layout: str = "auto", listed: Path | None = None, only: Sequence[str] | None = None
) -> Dataset:
    """Recognises the layout of ``root`` and lists its sequences.

    Args:
        layout: davis, youtube, sav, sav-train, or auto.
        listed: a text file with a sequence's name on each line; a relative path may also be one inside ``root``.
        only: the sequences to take.

    Raises:
        UserError: nothing there that is accepted, or a sequence that does not exist.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {_ACCEPTED}")
    layout = _recognise(root) if layout == "auto" else layout
    names, opener = {"davis": _davis, "youtube": _youtube, "sav": _sav, "sav-train": _sav_train}[layout](root)
    wanted = names if listed is None else _read_list(root, listed)
    if only:
        wanted = [name for name in wanted if name in only] if listed is not None else list(only)
        missing = set(only) - set(wanted)
        if missing:
            raise UserError(f"{listed}: sequence '{min(missing)}' is not on this list")
    available = set(names)
    if unknown := [name for name in wanted if name not in available]:
        raise UserError(f"{root}: no labelled sequence '{unknown[0]}'; there are {len(names)}: {_some(names)}")
    if not wanted:
        raise UserError(f"{root}: no labelled sequences; {_ACCEPTED}")
    return Dataset(layout, tuple(dict.fromkeys(wanted)), opener)


def _some(names: Sequence[str], count: int = 8) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _recognise(root: Path) -> str:
    if (root / "JPEGImages_24fps").is_dir():
        return "sav"
    if _meta_file(root) is not None:
        return "youtube"
    if any((base / "JPEGImages").is_dir() for base in (root, root / "valid")):
        return "davis"
    if any(root.glob("*_manual.json")):
        return "sav-train"
    found = _some(sorted(path.name for path in root.iterdir())) or "nothing"
    raise UserError(f"{root}: no data set of a known layout (there is {found}); {_ACCEPTED}")


def _read_list(root: Path, listed: Path) -> list[str]:
    """Names from a text file. A line of DAVIS 2016 holds paths of image and label; their folder is the name."""
    path = listed if listed.is_file() else root / listed
    if not path.is_file():
        raise UserError(f"{listed}: no such list of sequences (looked in {root} too)")
    words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [word.split("/")[-2] if "/" in word else word for word in words]


def _folders(root: Path) -> tuple[Path, Path]:
    """The folders that hold the sequences' images and labels."""
    base = root if (root / "JPEGImages").is_dir() else root / "valid"
    images, labels = base / "JPEGImages", base / "Annotations"
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; {_ACCEPTED}")
    for resolution in _RESOLUTIONS:
        if (images / resolution).is_dir() and (labels / resolution).is_dir():
            return images / resolution, labels / resolution
    return images, labels


def _both(images: Path, labels: Path) -> list[str]:
    return sorted(path.name for path in labels.iterdir() if path.is_dir() and (images / path.name).is_dir())


def _label_files(folder: Path, frames: ImageFolder) -> dict[int, Path]:
    """The label images of a folder, by the frame of the same name.

    Raises:
        UserError: labels without a frame, or none at all.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png")
    if not files:
        raise UserError(f"{folder}: no label images; accepted: PNG files named as the frames are")
    indices = {name: index for index, name in enumerate(frames.names)}
    if unknown := [file for file in files if file.stem not in indices]:
        raise UserError(f"{unknown[0]}: there is no frame of this name among the {len(indices)} images")
    return {indices[file.stem]: file for file in files}


def _davis(root: Path, meta: dict[str, Any] | None = None) -> tuple[list[str], Opener]:
    images, labels = _folders(root)

    def opener(name: str) -> LabelledSequence:
        frames = ImageFolder(images / name)
        objects = tuple(sorted(int(value) for value in meta[name])) if meta and name in meta else None
        return LabelledSequence(name, frames, LabelImages(_label_files(labels / name, frames), objects))

    return _both(images, labels), opener


def _youtube(root: Path) -> tuple[list[str], Opener]:
    """As DAVIS, but ``meta.json`` lists the objects, so that not every label image must be read."""
    return _davis(root, _read_meta(root))


def _meta_file(root: Path) -> Path | None:
    """The data sets name it differently: meta.json (YouTube-VOS), valid_meta.json (LVOS), meta_valid.json."""
    names = ("meta.json", "valid_meta.json", "meta_valid.json")
    return next((base / name for base in (root, root / "valid") for name in names if (base / name).is_file()), None)


def _read_meta(root: Path) -> dict[str, Any]:
    path = _meta_file(root)
    if path is None:
        return {}
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
        return {name: video["objects"] for name, video in videos.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a list of objects ({error!r}); accepted: the meta.json of YouTube-VOS") from None


def _sav(root: Path) -> tuple[list[str], Opener]:
    images, labels = root / "JPEGImages_24fps", root / "Annotations_6fps"
    if not labels.is_dir():
        raise UserError(f"{labels}: no such folder; {_ACCEPTED}")

    def opener(name: str) -> LabelledSequence:
        frames = ImageFolder(images / name)
        folders = [path for path in (labels / name).iterdir() if path.is_dir()]
        # Folders count from 000, ids from 1: 0 is the background of a label image.
        files = {int(folder.name) + 1: _label_files(folder, frames) for folder in folders}
        return LabelledSequence(name, frames, ObjectImages(files))

    return _both(images, labels), opener


def _sav_train(root: Path) -> tuple[list[str], Opener]:
    """Videos with the masklets that people made; automatic masklets are no ground truth."""

    def opener(name: str) -> LabelledSequence:
        path = root / f"{name}_manual.json"
        video = VideoFile(root / f"{name}.mp4", MASKLET_FPS)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            size = int(content["video_height"]), int(content["video_width"])
            # As for the object folders of the validation set: ids from 1.
            truth = Masklets(content["masklet"], [int(value) + 1 for value in content["masklet_id"]], size)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: no masklets ({error!r}); accepted: the *_manual.json of SA-V's training set"
            ) from None
        return LabelledSequence(name, video, truth)

    names = sorted(path.name.removesuffix("_manual.json") for path in root.glob("*_manual.json"))
    return [name for name in names if (root / f"{name}.mp4").is_file()], opener
