"""A data set as ``sam2_ros annotate`` leaves it: a rendered clip with exact masks, and an error in some of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from sam2_ros.annotation.data_set import SETTINGS, read_data_set, write_data_set
from sam2_ros.annotation.doubts import Reason
from sam2_ros.annotation.formats import FORMATS
from sam2_ros.annotation.masks import Mask, encode
from sam2_ros.annotation.recordings import ImageFile
from sam2_ros.annotation.results import Annotated, write_result
from sam2_ros.media.rendered_scene import RenderedFrame, render
from sam2_ros.media.whole_files import write_json
from sam2_ros.tracking.types import CroppedMask

NAME, IMAGES, WIDTH, HEIGHT = "clip", 16, 320, 240
BALL, BOOK = 1, 2
WRONG = range(6, 10)  # images in which the ball's mask lies beside it
REASONS = [
    Reason(7, "disagreement", BALL, 0.0), Reason(8, "disagreement", BALL, 0.1), Reason(13, "score", BOOK, 0.4),
]  # fmt: skip


def annotated(scene: list[RenderedFrame]) -> Annotated:
    images = [ImageFile(f"{index:06d}.jpg", index * 10**8, WIDTH, HEIGHT) for index in range(len(scene))]
    masks = []
    for index, frame in enumerate(scene):
        for key, pixels in frame.masks.items():
            shown = np.roll(pixels, -70, axis=0) if key == BALL and index in WRONG else pixels
            masks.append(Mask(index, key, encode(CroppedMask.from_full(shown)), 0.9, 0.9))
    masks.sort(key=lambda mask: (mask.frame, mask.object_id))
    return Annotated(NAME, [NAME, 1, 1, 1], "", images, {BALL: "ball", BOOK: "book"}, masks, REASONS)


def make_data_set(out: Path, format: str = "coco") -> list[RenderedFrame]:
    """Writes it; returns the truth."""
    scene = list(render(IMAGES, WIDTH, HEIGHT, post=False))
    folder = out / FORMATS[format].images / NAME
    folder.mkdir(parents=True)
    for index, frame in enumerate(scene):
        cv2.imwrite(str(folder / f"{index:06d}.jpg"), frame.rgb[..., ::-1])
    write_json(out / SETTINGS, {"detector": "everything", "format": format, "stills": False, "windows": False})
    done = annotated(scene)
    write_result(out, done)
    write_data_set(out, format, [done])
    return scene


def add_recording(out: Path, name: str) -> None:
    """Adds a recording with the same images and masks."""
    done = read_data_set(out)
    shutil.copytree(out / done.images / NAME, out / done.images / name)
    other = replace(done.recordings[0], name=name)
    write_result(out, other)
    write_data_set(out, done.format, [*done.recordings, other])
