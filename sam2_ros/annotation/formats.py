"""Writes annotated recordings as a data set in a usual format, and the list of images to look at."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools import mask as coco

from sam2_ros.annotation.doubts import doubtful_frames
from sam2_ros.annotation.masks import Mask
from sam2_ros.annotation.recordings import ImageFile
from sam2_ros.annotation.results import Annotated
from sam2_ros.media.label_images import write_labels
from sam2_ros.media.whole_files import check_writable, write_json, write_whole

_CAR, _PEDESTRIAN, _OTHERS = 1, 2, 11  # classes of KITTI MOTS; 10 is its "ignore"
_MOTS = {"car": _CAR, "person": _PEDESTRIAN, "pedestrian": _PEDESTRIAN}
_MOTS_OBJECTS = 1000  # ids of a class; more where a recording has more objects
Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Format:
    """How a data set is written. The images of each recording have a folder of their own in ``images``."""

    images: str
    write: Callable[[Path, Sequence[Annotated]], None]


def write_review(out: Path, done: Sequence[Annotated], images: str) -> int:
    """``review.json``: the images that a person should look at, the most doubtful first. Returns their number."""
    rows: list[dict[str, Any]] = []
    for recording in done:
        for frame, doubt, reasons in doubtful_frames(recording.reasons):
            file = f"{images}/{recording.name}/{recording.images[frame].name}"
            shown = [{"kind": r.kind, "object": r.object_id, "value": round(r.value, 4)} for r in reasons]
            rows.append({"recording": recording.name, "frame": frame, "image": file, "doubt": round(doubt, 4),
                         "reasons": shown})  # fmt: skip
    rows.sort(key=lambda row: -row["doubt"])
    write_json(out / "review.json", rows)
    return len(rows)


def _classes(done: Sequence[Annotated]) -> list[str]:
    return sorted({label for recording in done for label in recording.labels.values()})


def _by_frame(recording: Annotated) -> dict[int, list[Mask]]:
    found: dict[int, list[Mask]] = defaultdict(list)
    for mask in recording.masks:
        found[mask.frame].append(mask)
    return found


def _write_coco(out: Path, done: Sequence[Annotated]) -> None:
    """``annotations.json``: COCO's instances, with videos and track ids as in COCO's video data sets."""
    classes = _classes(done)
    videos: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    tracks = 0
    for video, recording in enumerate(done, 1):
        videos.append({"id": video, "name": recording.name})
        first = len(images) + 1
        for frame, image in enumerate(recording.images):
            images.append({
                "id": first + frame, "file_name": f"{recording.name}/{image.name}", "width": image.width,
                "height": image.height, "video_id": video, "frame_id": frame, "timestamp_ns": image.stamp,
            })  # fmt: skip
        numbers = {key: tracks + place for place, key in enumerate(recording.labels, 1)}
        tracks += len(numbers)
        for mask in recording.masks:
            annotations.append({
                "id": len(annotations) + 1, "image_id": first + mask.frame, "iscrowd": 0,
                "category_id": classes.index(recording.labels[mask.object_id]) + 1,
                "track_id": numbers[mask.object_id], "object_id": mask.object_id,
                "bbox": coco.toBbox(mask.mask).tolist(), "area": int(coco.area(mask.mask)),
                "segmentation": {"size": list(mask.mask["size"]), "counts": mask.mask["counts"].decode("ascii")},
                "score": round(mask.score, 4), "predicted_iou": round(mask.predicted_iou, 4),
                "agreement": None if mask.agreement is None else round(mask.agreement, 4),
                "detection_score": round(mask.detection_score, 4),
            })  # fmt: skip
    categories = [{"id": number, "name": label} for number, label in enumerate(classes, 1)]
    content = {"videos": videos, "images": images, "categories": categories, "annotations": annotations}
    write_whole(out / "annotations.json", json.dumps(content) + "\n")


def _write_yolo(out: Path, done: Sequence[Annotated]) -> None:
    """``data.yaml``, and for each image a file of outlines, in shares of its size."""
    classes = _classes(done)
    for recording in done:
        masks = _by_frame(recording)
        for frame, image in enumerate(recording.images):
            lines = []
            for mask in masks[frame]:
                ring = _outline(mask)
                if len(ring) >= 3:
                    shares = (ring / (image.width, image.height)).clip(0, 1).ravel()
                    number = classes.index(recording.labels[mask.object_id])
                    lines.append(" ".join([str(number), *(f"{share:.6f}" for share in shares)]))
            path = out / "labels" / recording.name / f"{Path(image.name).stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(f"{line}\n" for line in lines))
        _remove_others(out / "labels" / recording.name, recording, ".txt")
    folders = [f"images/{recording.name}" for recording in done]
    content = {"path": str(out.resolve()), "train": folders, "val": [*folders], "names": dict(enumerate(classes))}
    write_whole(out / "data.yaml", yaml.safe_dump(content, sort_keys=False))


def _outline(mask: Mask) -> NDArray[np.float64]:
    """The outline of the largest part through the middles of its outermost pixels, ``[N, 2]`` x, y."""
    pixels = coco.decode(mask.mask)
    rings, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    ring = max(rings, key=lambda each: float(cv2.contourArea(each)), default=np.zeros((0, 1, 2)))
    return np.asarray(ring.reshape(-1, 2) + 0.5, np.float64)


def _write_davis(out: Path, done: Sequence[Annotated]) -> None:
    """Label images: a pixel is the id of the object there."""
    for recording in done:
        masks, most = _by_frame(recording), max(recording.labels, default=0)
        for frame, image in enumerate(recording.images):
            labels = _flat(masks[frame], image)
            path = out / "Annotations" / recording.name / f"{Path(image.name).stem}.png"
            check_writable(path)
            write_labels(path, labels if most > 255 else labels.astype(np.uint8))
        _remove_others(out / "Annotations" / recording.name, recording, ".png")


def _write_mots(out: Path, done: Sequence[Annotated]) -> None:
    """KITTI MOTS' text format, a file for each recording: frame, id, class, height, width, run lengths."""
    others = [label for label in _classes(done) if label not in _MOTS]
    numbers = _MOTS | {label: number for number, label in enumerate(others, _OTHERS)}
    for recording in done:
        ids: dict[int, int] = {}
        count: dict[int, int] = defaultdict(int)
        for key, label in recording.labels.items():
            count[numbers[label]] += 1
            ids[key] = max(_MOTS_OBJECTS, len(recording.labels) + 1) * numbers[label] + count[numbers[label]]
        lines = []
        masks = _by_frame(recording)
        for frame, image in enumerate(recording.images):
            labels = _flat(masks[frame], image)
            for mask in masks[frame]:
                rle = coco.encode(np.asfortranarray((labels == mask.object_id).view(np.uint8)))
                if coco.area(rle):
                    row = (frame, ids[mask.object_id], numbers[recording.labels[mask.object_id]], *rle["size"])
                    lines.append(" ".join(map(str, row)) + " " + rle["counts"].decode("ascii"))
        path = out / "instances_txt" / f"{recording.name}.txt"
        check_writable(path)
        write_whole(path, "".join(f"{line}\n" for line in lines))
    used = {numbers[label]: label for label in _classes(done)}
    write_whole(out / "classes.txt", "".join(f"{number} {label}\n" for number, label in sorted(used.items())))


def _remove_others(folder: Path, recording: Annotated, suffix: str) -> None:
    """Removes the files of images that the recording has no more: it was shortened, or another one had its name."""
    known = {f"{Path(image.name).stem}{suffix}" for image in recording.images}
    for file in folder.glob(f"*{suffix}"):
        if file.name not in known:
            file.unlink()


def _flat(masks: Sequence[Mask], image: ImageFile) -> Labels:
    """The masks in one image, ``[H, W]``; a pixel belongs to the object of the highest score."""
    labels: Labels = np.zeros((image.height, image.width), np.uint16)
    for mask in sorted(masks, key=lambda each: (each.score, -each.object_id)):
        labels[coco.decode(mask.mask).astype(np.bool_)] = mask.object_id
    return labels


FORMATS = {
    "coco": Format("images", _write_coco),
    "yolo": Format("images", _write_yolo),
    "davis": Format("JPEGImages", _write_davis),
    "mots": Format("images", _write_mots),
}
