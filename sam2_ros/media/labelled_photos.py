"""Labelled photographs on disk, in COCO's format or with YOLO polygons."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

Rings = list[NDArray[np.int32]]  # polygons of one instance, each [N, 2] x, y in pixels


@dataclass(frozen=True)
class Photo:
    """A photograph on disk and its instances."""

    path: Path
    instances: Callable[[int, int], list[Rings]]  # in a picture of this width and height, large ones first


def _yolo_instances(labels: Path, width: int, height: int) -> list[Rings]:
    """One polygon each; lines with fewer than three corners (boxes) are left out.

    Raises:
        ValueError: names the line that holds something else.
    """
    found: Rings = []
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = np.array(line.split()[1:], np.float64)
            if values.size >= 6:
                found.append((values.reshape(-1, 2) * (width, height)).astype(np.int32))
        except ValueError as error:
            expected = f"expected a class and x y pairs, found '{line[:40]}'"
            raise ValueError(f"{labels}, line {number}: {expected}") from error
    return [[ring] for ring in sorted(found, key=lambda ring: -abs(float(cv2.contourArea(ring))))]


def _coco_instances(
    shapes: list[list[list[float]]], own_width: int, own_height: int, width: int, height: int
) -> list[Rings]:
    """``shapes``, large ones first, are in pixels of the photograph's own size."""
    scale = np.array([width / own_width, height / own_height])
    return [
        [(np.array(ring, np.float64).reshape(-1, 2) * scale).astype(np.int32) for ring in shape if len(ring) >= 6]
        for shape in shapes
    ]


def yolo_photos(root: Path) -> list[Photo]:
    """``images/**/X.jpg`` with ``labels/**/X.txt``: an instance a line, its class, then x y pairs as shares.

    Raises:
        ValueError: no label file with its photograph.
    """
    images: dict[str, Path] = {}
    for path in sorted((root / "images").rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            key = path.relative_to(root / "images").with_suffix("").as_posix()
            images[key] = images[path.stem] = path
    photos = []
    for path in sorted((root / "labels").rglob("*.txt")):
        key = path.relative_to(root / "labels").with_suffix("").as_posix()
        image = images.get(key, images.get(path.stem))
        if image is not None:
            photos.append(Photo(image, partial(_yolo_instances, path)))
    if not photos:
        raise ValueError(f"{root} has no labelled photograph; expected images/X.jpg and labels/X.txt")
    return photos


def coco_photos(file: Path, unlabelled: bool = False) -> list[Photo]:
    """The photographs of a COCO JSON file; they lie in ``images/`` beside it, or beside it.

    Instances given as run lengths (crowds) are left out, and photographs without instances unless ``unlabelled``.

    Raises:
        ValueError: not COCO's format, no instance is a polygon, or none of the photographs is there.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        by_image: dict[Any, list[Any]] = {}
        annotated = bool(content["annotations"])
        for annotation in sorted(content["annotations"], key=_area, reverse=True):
            if isinstance(annotation.get("segmentation"), list):
                by_image.setdefault(annotation["image_id"], []).append(annotation["segmentation"])
        entries = [(e["file_name"], e["width"], e["height"], by_image.get(e["id"], [])) for e in content["images"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not in COCO's format (images, annotations with polygons): {error}") from error
    if annotated and not by_image:
        raise ValueError(
            f"{file}: its instances are no polygons; accepted: polygons, no run lengths ('sam2_ros annotate' writes "
            "what is read here with --format yolo, or davis for videos)"
        )
    photos = []
    for name, width, height, shapes in entries:
        path = next((p for p in (file.parent / "images" / name, file.parent / name) if p.is_file()), None)
        if path is not None and (shapes or unlabelled):
            photos.append(Photo(path, partial(_coco_instances, shapes, width, height)))
    if not photos:
        raise ValueError(f"{file}: none of its photographs with instances lies in {file.parent / 'images'}")
    return photos


def _area(annotation: dict[str, Any]) -> float:
    """The area of an instance, or that of its box."""
    box = annotation.get("bbox", (0, 0, 0, 0))
    return float(annotation.get("area", box[2] * box[3]))


def photos_in(root: Path, unlabelled: bool = False) -> list[Photo]:
    """Labelled photographs: ``images/`` with ``annotations.json`` (COCO) or with ``labels/*.txt`` (YOLO polygons).

    Raises:
        ValueError: neither is there, or it can't be read.
    """
    if (root / "annotations.json").is_file():
        return coco_photos(root / "annotations.json", unlabelled)
    if (root / "labels").is_dir():
        return yolo_photos(root)
    raise ValueError(f"{root} holds no labelled photographs; accepted: images/ with annotations.json or with labels/")
