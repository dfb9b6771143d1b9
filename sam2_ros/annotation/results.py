"""What is known of an annotated recording, as a JSON file; a run that was interrupted goes on from these files."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sam2_ros.annotation.doubts import Reason
from sam2_ros.annotation.masks import Mask, check_runs
from sam2_ros.annotation.reconcile import Reconciled
from sam2_ros.annotation.recordings import ImageFile, Images, Recording
from sam2_ros.media.errors import UserError
from sam2_ros.media.input_files import read_file
from sam2_ros.media.picture_decoder import MAX_PIXELS
from sam2_ros.media.whole_files import check_writable, write_error, write_whole
from sam2_ros.text import printable
from sam2_ros.tracking.prompt_checks import MAX_TEXT

FOLDER = "recordings"  # in the data set
UNSAVED = "unsaved"  # corrections that a person has not saved
_MAX_BYTES = 1 << 30  # of a file


@dataclass(frozen=True)
class Annotated:
    """A recording that is done.

    ``damage`` says why images are missing at its end. ``corrected`` are the images and objects on which a person has
    decided.
    """

    name: str
    identity: list[int | str]  # of the recording that was read
    damage: str
    images: list[ImageFile]
    labels: dict[int, str]  # by the object's id
    masks: list[Mask]
    reasons: list[Reason]
    corrected: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, identity: list[int | str], images: Images, found: Reconciled) -> Annotated:
        return cls(name, identity, images.damage, [*images.files], found.labels, found.masks, found.reasons)


def write_result(out: Path, done: Annotated, folder: str = FOLDER) -> None:
    """
    Raises:
        WriteError: the file can't be written.
    """
    content = asdict(done)
    for mask in content["masks"]:
        mask["mask"]["counts"] = mask["mask"]["counts"].decode("ascii")
    path = _path(out, done.name, folder)
    check_writable(path)
    write_whole(path, json.dumps(content) + "\n")


def read_result(out: Path, recording: Recording) -> Annotated | None:
    """What an earlier run wrote; None where there is none that can be read, or of another or changed recording."""
    try:
        done = read_annotated(out, recording.name)
    except UserError:
        return None
    return done if done.identity == recording.identity else None


def read_annotated(out: Path, name: str, folder: str = FOLDER) -> Annotated:
    """What is known of the recording of this name.

    Raises:
        UserError: there is nothing that can be read and fits together; the message says why, not what to do.
    """
    path = _path(out, name, folder)
    try:
        _check_file(name)
        content: dict[str, Any] = json.loads(read_file(path, _MAX_BYTES))
        for mask in content["masks"]:
            mask["mask"]["counts"] = mask["mask"]["counts"].encode("ascii")
        content["images"] = [ImageFile(**each) for each in content["images"]]
        content["labels"] = {int(key): label for key, label in content["labels"].items()}
        content["masks"] = [Mask(**each) for each in content["masks"]]
        content["reasons"] = [Reason(**each) for each in content["reasons"]]
        content["corrected"] = [(frame, key) for frame, key in content.get("corrected", ())]
        done = Annotated(**content)
        _check(done, name)
        return done
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        why = str(error) if isinstance(error, ValueError) else "it is not what 'sam2_ros annotate' writes"
        raise UserError(f"{printable(path, 300)} can't be read ({printable(why, 200)})") from None


def read_unsaved(out: Path, saved: Annotated) -> Annotated | None:
    """The corrections of a recording that were not saved; None where there are none.

    Raises:
        UserError: the file of them can't be read, or is of other images.
    """
    path = _path(out, saved.name, UNSAVED)
    if not path.exists():
        return None
    cure = "move it elsewhere to review the recording without these corrections"
    try:
        unsaved = read_annotated(out, saved.name, UNSAVED)
    except UserError as error:
        raise UserError(f"{error}; {cure}") from None
    if unsaved.images != saved.images:
        raise UserError(f"{path} holds corrections of other images; {cure}")
    return unsaved


def forget_result(out: Path, name: str, *folders: str) -> None:
    """
    Raises:
        WriteError: a file can't be removed.
    """
    for folder in folders:
        path = _path(out, name, folder)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from error


def _check(done: Annotated, name: str) -> None:
    """
    Raises:
        ValueError, TypeError: it is of another recording, or its parts do not fit together.
    """
    if not isinstance(done.damage, str):
        raise ValueError("its damage is no text")
    if done.name != name:
        raise ValueError(f"it is of the recording {done.name}")
    for image in done.images:
        _check_file(image.name)
        if image.width < 1 or image.height < 1 or image.width * image.height > MAX_PIXELS:
            raise ValueError(f"an image has {image.width} x {image.height} pixels")
    for key, label in done.labels.items():
        if not isinstance(label, str) or not 0 < key < 1 << 31 or len(label) > MAX_TEXT:
            raise ValueError(f"object {key} has no label of up to {MAX_TEXT} characters")
    places = [(mask.frame, mask.object_id) for mask in done.masks]
    if len(set(places)) < len(places):
        raise ValueError("an object has two masks in one image")
    frames = range(len(done.images))
    for frame, key in (*places, *done.corrected):
        if type(frame) is not int or frame not in frames or key not in done.labels:
            raise ValueError(f"it has a mask of object {key} in image {frame}")
    for mask in done.masks:
        check_runs(mask.mask, done.images[mask.frame].width, done.images[mask.frame].height)
        if not math.isfinite(mask.score):
            raise ValueError(f"the score of a mask in image {mask.frame} is no number")
    for each in done.reasons:
        numbers = type(each.frame) is int and type(each.object_id) is int and math.isfinite(each.value)
        if not numbers or each.frame not in frames or not isinstance(each.kind, str):
            raise ValueError(f"it has a doubt about image {each.frame}")


def _check_file(name: str) -> None:
    """
    Raises:
        ValueError: it is a path, which may lead out of the data set.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} names no file")


def _path(out: Path, name: str, folder: str) -> Path:
    return out / folder / f"{name}.json"
