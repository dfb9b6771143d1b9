"""Writes what was found in single images: a label image, a JSON file and a picture of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam2_ros.media.errors import UserError
from sam2_ros.media.label_images import LabelImage, write_labels
from sam2_ros.media.overlay import bar_size, draw_overlay, draw_text, object_color
from sam2_ros.media.source_frame import Rgb
from sam2_ros.media.whole_files import write_json, write_whole
from sam2_ros.tracking.types import CroppedMask, FrameResult, MaskCandidate, ObjectResult, ObjectState

MOST_TITLED = 30  # objects, the largest first; more titles would cover the picture


@dataclass(frozen=True)
class Segmented:
    """One object in an image."""

    mask: CroppedMask
    predicted_iou: float
    stability: float
    candidates: tuple[MaskCandidate, ...] = ()
    point: tuple[float, float] | None = None  # pixels, that found it


def coco_run_lengths(mask: CroppedMask) -> dict[str, Any]:
    """COCO's run lengths, uncompressed: column by column from the top left, background first.

    ``pycocotools.mask.frPyObjects`` reads them.
    """
    flat = mask.full().ravel(order="F")
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(borders, prepend=0, append=flat.size).tolist()
    return {"size": [mask.height, mask.width], "counts": [0, *counts] if flat[0] else counts}


def label_image(found: Sequence[Segmented], width: int, height: int) -> LabelImage:
    """A pixel is the number of the object there, from 1 in the order of ``found``; where several overlap, of the
    smallest."""
    labels: LabelImage = np.zeros((height, width), np.uint8 if len(found) <= 255 else np.uint16)
    for number, each in sorted(enumerate(found, 1), key=lambda pair: -pair[1].mask.area):
        crop = each.mask.crop
        labels[each.mask.y : each.mask.y + crop.shape[0], each.mask.x : each.mask.x + crop.shape[1]][crop] = number
    return labels


def output_paths(out: Path, images: Sequence[Path]) -> dict[Path, tuple[Path, Path, Path]]:
    """For each image the files that :func:`write_segmented` makes of it.

    Raises:
        UserError: one of the files is an image itself.
    """
    paths = {image: (out / f"{image.stem}.png", out / f"{image.stem}.json", out / f"{image.stem}_overlay.jpg")
             for image in images}  # fmt: skip
    if len(images) > 1 and out.resolve() == images[0].resolve().parent:
        raise UserError(
            f"--out {out} is the folder of the images, which would get more of them; give another folder with --out"
        )
    inputs = {image.resolve() for image in images}
    for written in paths.values():
        for path in written:
            if path.resolve() in inputs:
                raise UserError(f"{path} is an image to be read; give another folder with --out")
    return paths


def write_segmented(
    paths: tuple[Path, Path, Path], image: Path, rgb: Rgb, found: Sequence[Segmented], about: dict[str, Any]
) -> None:
    """Writes the label image, the JSON file and the picture.

    Raises:
        WriteError: a file can't be written.
    """
    labels, json_file, picture = paths
    height, width = rgb.shape[:2]
    objects = tuple(
        ObjectResult(number, each.mask, ObjectState.VISIBLE, 0.0, 1.0, each.predicted_iou, True)
        for number, each in enumerate(found, 1)
    )
    content = {"image": image.name, "width": width, "height": height, **about}
    write_json(json_file, content | {"objects": [_entry(each, number) for number, each in enumerate(found, 1)]})
    write_labels(labels, label_image(found, width, height), "sam2_ros")
    drawn = draw_overlay(rgb, FrameResult(0, 0, width, height, objects), labels=False)
    for number, each in enumerate(found[:MOST_TITLED], 1):
        _title(drawn, each, number)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    write_whole(picture, encoded.tobytes())


def _title(image: Rgb, found: Segmented, number: int) -> None:
    """Writes number and predicted IoU where the object's box begins."""
    text, scale = f"{number} {found.predicted_iou:.2f}", max(0.35, 0.45 * image.shape[0] / 480)
    width, height = bar_size(text, scale)
    x0, y0, _, _ = found.mask.box
    left, top = min(x0, image.shape[1] - width), min(y0, image.shape[0] - height)
    draw_text(image, text, max(0, left), max(0, top), (0, 0, 0), object_color(number), scale)


def _entry(found: Segmented, number: int) -> dict[str, Any]:
    entry = {"id": number, **_mask(found)}
    if found.point is not None:
        entry["point"] = list(found.point)
    if found.candidates:
        entry["candidates"] = [{"index": each.index, **_mask(each)} for each in found.candidates]
    return entry


def _mask(each: Segmented | MaskCandidate) -> dict[str, Any]:
    x0, y0, x1, y1 = each.mask.box
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": each.mask.area,
        "predicted_iou": round(each.predicted_iou, 4),
        "stability": round(each.stability, 4),
        "segmentation": coco_run_lengths(each.mask),
    }
