"""Folders of made clips, in the layout of DAVIS: ``JPEGImages/NAME``, ``Annotations/NAME``, ``synthesize.json``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2

from sam2_ros.media.label_images import write_labels
from sam2_ros.media.whole_files import write_json, write_whole
from sam2_ros.training.clips import Clip

ABOUT = "synthesize.json"
_QUALITY = 95  # of JPEG


def write_clip(out: Path, name: str, clip: Clip) -> None:
    """Writes pictures and labels, in place of what is there. After an error there is nothing of the clip.

    Raises:
        WriteError: they can't be written.
    """
    images, labels = out / "JPEGImages" / name, out / "Annotations" / name
    for folder in (images, labels):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        for t, (frame, label) in enumerate(zip(clip.frames, clip.labels, strict=True)):
            bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
            write_whole(images / f"{t:05d}.jpg", jpeg)
            write_labels(labels / f"{t:05d}.png", label)
    except BaseException:
        for folder in (images, labels):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_about(out: Path, about: dict[str, Any]) -> None:
    """Writes how the folder was made."""
    write_json(out / ABOUT, about)


def read_about(out: Path) -> dict[str, Any]:
    """How the folder was made; empty if it doesn't say."""
    try:
        found = json.loads((out / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_split(root: Path, use: str, *accepted: str) -> None:
    """Keeps apart what trains, chooses and reports.

    Raises:
        ValueError: ``root`` holds rendered scenes of a split other than ``accepted``.
    """
    split = read_about(root).get("split")
    if split is not None and split not in accepted:
        raise ValueError(
            f"{root} holds scenes of the split '{split}', which are not for {use}; accepted: "
            f"{' or '.join(accepted)} (sam2_ros synthesize --split)"
        )
