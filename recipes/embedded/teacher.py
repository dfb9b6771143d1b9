"""Finds objects in unlabelled photographs by MobileSAM: ``python -m recipes.embedded teacher --help``.

Each click of a grid gives three candidates. Those with a high predicted IoU and a stable shape are selected, and the
better one of two that overlap (SAM's automatic masks: Kirillov et al., "Segment Anything", 2023, appendix B). As
cut-outs their labels are exact, whatever the photograph really shows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recipes.embedded.initialise import Matching, embedded_config, initial_model
from recipes.embedded.mobilesam import load_mobilesam
from sam2_ros.media.progress import bar
from sam2_ros.model.network import ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.clips import Image, read_rgb

SIDE = 1024  # of MobileSAM's input
GRID = 12  # clicks along each side
CLICKS_AT_ONCE = 48
MIN_IOU, MIN_STABILITY = 0.82, 0.92
MIN_AREA, MAX_AREA = 0.008, 0.3  # share of the photograph
IMAGES = (".jpg", ".jpeg", ".png")


def mobilesam_model(path: Path) -> Sam2Model:
    """MobileSAM at its own input size, in our modules; without memory it answers as MobileSAM does."""
    statistics = torch.randn(2, 256, SIDE // 16, SIDE // 16)  # for the memory modules, which are unused here
    return initial_model(embedded_config(SIDE), load_mobilesam(path), statistics, Matching()).eval()


def _confident(model: Sam2Model, features: ImageFeatures, points: Tensor) -> list[tuple[float, Tensor]]:
    """Quality and logits ``[h, w]`` of the selected candidates for single clicks ``[N, 1, 2]``."""
    count = len(points)
    image = model.without_memory(features).expand(count, -1, -1, -1)
    decoded = model.decode(image, features, points, torch.ones(count, 1, dtype=torch.int64))
    logits, ious = decoded.logits[:, 1:].flatten(0, 1), decoded.ious[:, 1:].flatten()
    stability = (logits > 1).sum((1, 2)) / (logits > -1).sum((1, 2)).clamp(min=1)
    area = (logits > 0).float().mean((1, 2))
    kept = (ious > MIN_IOU) & (stability > MIN_STABILITY) & (area > MIN_AREA) & (area < MAX_AREA)
    return [(float(ious[i] * stability[i]), logits[i]) for i in torch.nonzero(kept)[:, 0].tolist()]


def _overlap(a: Tensor, b: Tensor) -> bool:
    """More than half in common, or one mostly inside the other."""
    common = int((a & b).sum())
    return common > 0.5 * int((a | b).sum()) or common > 0.7 * min(int(a.sum()), int(b.sum()))


@torch.inference_mode()
def find_objects(model: Sam2Model, image: Image, grid: int = GRID) -> list[NDArray[np.uint8]]:
    """Masks ``uint8 [H, W]`` (0 or 1) of whole objects in ``image``, ``uint8 [H, W, 3]`` RGB, the surest first.

    Each is one region; objects that touch two sides of the photograph are left out. There are ``grid`` clicks along
    each side.
    """
    height, width = image.shape[:2]
    features = model.encode_image(model.preprocess(torch.from_numpy(image)))
    ticks = (torch.arange(grid) + 0.5) / grid * model.config.image_size
    clicks = torch.cartesian_prod(ticks, ticks)[:, None]
    found = [item for part in clicks.split(CLICKS_AT_ONCE) for item in _confident(model, features, part)]
    kept: list[Tensor] = []
    masks = []
    for _, logits in sorted(found, key=lambda item: -item[0]):
        binary = logits > 0
        if any(_overlap(binary, other) for other in kept):
            continue
        kept.append(binary)
        full = F.interpolate(logits[None, None], (height, width), mode="bilinear")[0, 0] > 0
        opened = cv2.morphologyEx(full.numpy().astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        count, regions, stats, _ = cv2.connectedComponentsWithStats(opened)
        if count < 2:
            continue
        mask = (regions == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
        sides = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
        if sum(bool(side.any()) for side in sides) < 2:
            masks.append(mask)
    return masks


def polygons(mask: NDArray[np.uint8]) -> list[list[float]]:
    """Outer outlines in COCO's format: ``[x, y, x, y, …]`` in pixels."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [outline.ravel().astype(float).tolist() for outline in outlines if len(outline) >= 3]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded teacher", description=__doc__)
    parser.add_argument("--mobilesam", type=Path, required=True, help="MobileSAM's mobile_sam.pt")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--unlike", type=Path, help="leave out photographs that have a label file X.txt in this folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write: images/ and annotations.json (COCO)")
    args = parser.parse_args(argv)
    labelled = {path.stem for path in args.unlike.rglob("*.txt")} if args.unlike else set()
    paths = sorted(p for p in args.images.rglob("*") if p.suffix.lower() in IMAGES and p.stem not in labelled)
    if not paths:
        parser.error(f"{args.images} holds no photographs; accepted: a folder with {', '.join(IMAGES)}")
    model = mobilesam_model(args.mobilesam)
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    with bar(len(paths), "photograph", quiet=False) as progress:
        for path in paths:
            image = read_rgb(path)
            height, width = image.shape[:2]
            images.append({"id": len(images), "file_name": path.name, "height": height, "width": width})
            (args.out / "images" / path.name).write_bytes(path.read_bytes())
            for mask in find_objects(model, image):
                rings = polygons(mask)
                if rings:
                    annotations.append(
                        {
                            "id": len(annotations),
                            "image_id": images[-1]["id"],
                            "category_id": 1,
                            "area": int(mask.sum()),
                            "segmentation": rings,
                        }
                    )
            progress.update()
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (args.out / "annotations.json").write_text(json.dumps(content))
    print(f"{args.out}: {len(annotations)} objects in {len(images)} photographs")
