"""What is known of an annotated recording, as a JSON file; a run that was interrupted goes on from these files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sam2_ros.annotation.doubts import Reason
from sam2_ros.annotation.masks import Mask
from sam2_ros.annotation.reconcile import Reconciled
from sam2_ros.annotation.recordings import ImageFile, Images, Recording
from sam2_ros.media.whole_files import check_writable, write_error, write_whole

FOLDER = "recordings"  # in the data set
UNSAVED = "unsaved"  # corrections that a person has not saved


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
    """What an earlier run wrote; None where there is none, or of another or changed recording."""
    done = read_annotated(out, recording.name)
    return done if done is not None and done.identity == recording.identity else None


def read_annotated(out: Path, name: str, folder: str = FOLDER) -> Annotated | None:
    """What is known of the recording of this name; None where there is nothing that can be read."""
    try:
        content: dict[str, Any] = json.loads(_path(out, name, folder).read_text(encoding="utf-8"))
        for mask in content["masks"]:
            mask["mask"]["counts"] = mask["mask"]["counts"].encode("ascii")
        content["images"] = [ImageFile(**each) for each in content["images"]]
        content["labels"] = {int(key): label for key, label in content["labels"].items()}
        content["masks"] = [Mask(**each) for each in content["masks"]]
        content["reasons"] = [Reason(**each) for each in content["reasons"]]
        content["corrected"] = [(frame, key) for frame, key in content.get("corrected", ())]
        return Annotated(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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


def _path(out: Path, name: str, folder: str) -> Path:
    return out / folder / f"{name}.json"
