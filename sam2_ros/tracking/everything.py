"""Finds every object in an image: clicks a grid of points, keeps the good masks, drops doubles.

The steps and their order are those of SAM's automatic mask generation (Kirillov et al., "Segment Anything", 2023,
section B), so that the result is that of SAM 2's official generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import autocast, inference, repeated
from sam2_ros.model.network import HOST, ImageFeatures
from sam2_ros.tracking.everything_settings import EverythingSettings
from sam2_ros.tracking.segmentation import FoundMask
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import BoolMask, CroppedMask

if TYPE_CHECKING:
    from torch import Tensor

    from sam2_ros.model.sam2 import Sam2Model

EDGE = 20.0  # pixels from a crop's edge within which a mask's edge is taken for cut off

Logits: TypeAlias = NDArray[np.float32]
Edges: TypeAlias = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class _Candidate:
    """A mask that is good enough. Its pixels are made again where it is kept; until then the logits take less room."""

    logits: Logits  # [S / 4, S / 4]
    box: Edges  # its outermost pixels, in the image
    iou: float  # predicted
    stability: float
    point: tuple[float, float]  # pixels of the image
    crop: Edges


class MaskFinder:
    """One search through one image, in steps that each end soon.

    Args:
        shared: the network.
        image: RGB ``uint8 [H, W, 3]``.
        encode: gives the features of a part of the image.
    """

    def __init__(
        self,
        shared: SharedModel,
        image: NDArray[np.uint8],
        encode: Callable[[NDArray[np.uint8]], ImageFeatures],
        settings: EverythingSettings,
    ) -> None:
        self._shared = shared
        self._model = shared.model
        self._image = image
        self._encode = encode
        self._settings = settings
        self._kept: list[_Candidate] = []  # of the crops that are done
        self._good: list[_Candidate] = []  # of the crop that is being searched

    @property
    def found(self) -> list[FoundMask]:
        """What was found so far."""
        kept = self._kept + self._best()
        if self._settings.crop_layers and kept:
            scores = np.array([1 / ((c.crop[2] - c.crop[0]) * (c.crop[3] - c.crop[1])) for c in kept])
            kept = [kept[index] for index in suppress([c.box for c in kept], scores, self._settings.nms_iou)]
        found = [self._found(candidate) for candidate in kept]
        return clean(found, self._settings) if self._settings.min_region else found

    def steps(self, batch: int = 0) -> Iterator[float]:
        """Searches; yields the share that is done after each image part that was encoded, and after each ``batch`` of
        points (0: as the settings say)."""
        height, width = self._image.shape[:2]
        crops = crops_of(width, height, self._settings)
        count = batch or self._settings.batch or (16 if self._model.device.type == "cpu" else 64)
        total, done = sum(points_in(layer, self._settings) ** 2 for _, layer in crops), 0
        for crop, layer in crops:
            x0, y0, x1, y1 = crop
            features = self._encode(np.ascontiguousarray(self._image[y0:y1, x0:x1]))
            yield done / total
            points = grid(points_in(layer, self._settings)) * np.array([x1 - x0, y1 - y0])
            for start in range(0, len(points), count):
                part = points[start : start + count]
                self._good += self._search(features, part, crop)
                done += len(part)
                if start + count < len(points):
                    yield done / total
            self._kept += self._best()
            self._good = []
            yield done / total

    def _best(self) -> list[_Candidate]:
        """The good masks of the newest crop without doubles, the best first."""
        boxes, scores = [each.box for each in self._good], np.array([each.iou for each in self._good])
        return [self._good[index] for index in suppress(boxes, scores, self._settings.nms_iou)]

    def _search(self, features: ImageFeatures, points: NDArray[np.float64], crop: Edges) -> list[_Candidate]:
        """The good masks of some clicks in a crop, the points in its pixels."""
        x0, y0, x1, y1 = crop
        logits, ious, owners = self._decode(features, points.astype(np.float32), (x1 - x0, y1 - y0))
        good = []
        for low, iou, owner in zip(logits, ious, owners, strict=True):
            stable, mask = self._enlarged(low, x1 - x0, y1 - y0)
            if stable < self._settings.min_stability:
                continue
            left, top, columns, rows = cv2.boundingRect(mask)
            box = (left + x0, top + y0, left + x0 + max(columns - 1, 0), top + y0 + max(rows - 1, 0))
            if not self._is_cut(box, crop):
                x, y = points[owner].tolist()
                good.append(_Candidate(low, box, iou, stable, (x + x0, y + y0), crop))
        return good

    def _decode(
        self, features: ImageFeatures, points: NDArray[np.float32], size: tuple[int, int]
    ) -> tuple[Logits, list[float], list[int]]:
        """Logits and predicted IoU of the candidates that are good enough, and the index of the point of each."""
        model, least = self._model, self._settings.min_iou or -np.inf
        places = upload((points / np.array(size, np.float32) * model.config.image_size)[:, None], model.device)
        labels = upload(np.ones((len(points), 1), np.int64), model.device)
        with self._shared.turn(), inference(model.device), autocast(model.device, self._shared.dtype):
            if model.device != HOST:
                return _decoded_in_halves(self._shared.torch_model, features, places, labels, least)
            image = repeated(model.without_memory(features), len(points))
            decoded = model.decode(image, features, places, labels)
            logits, ious = decoded.logits[:, 1:], decoded.ious[:, 1:]
            good = ious > least
            return logits[good], ious[good].tolist(), np.nonzero(good)[0].tolist()

    def _enlarged(self, low: Logits, width: int, height: int) -> tuple[float, NDArray[np.uint8]]:
        """Stability, and the mask, 0 or 255, of logits in the size of a crop."""
        full = _resized(low, width, height)
        offset = self._settings.stability_offset
        inner, outer = (cv2.countNonZero(cv2.compare(full, limit, cv2.CMP_GT)) for limit in (offset, -offset))
        return (inner / outer if outer else 0.0), np.asarray(cv2.compare(full, 0.0, cv2.CMP_GT), np.uint8)

    def _is_cut(self, box: Edges, crop: Edges) -> bool:
        """Whether the mask ends at an edge of the crop that is none of the image."""
        height, width = self._image.shape[:2]
        edges = zip(box, crop, (0, 0, width, height), strict=True)
        return any(abs(edge - of_crop) <= EDGE < abs(edge - of_image) for edge, of_crop, of_image in edges)

    def _found(self, candidate: _Candidate) -> FoundMask:
        x0, y0, x1, y1 = candidate.crop
        mask = CroppedMask.from_full(_resized(candidate.logits, x1 - x0, y1 - y0) > 0)
        mask = mask.within(x0, y0, self._image.shape[1], self._image.shape[0])
        return FoundMask(mask, candidate.iou, candidate.stability, candidate.point, candidate.crop)


def _decoded_in_halves(
    model: Sam2Model, features: ImageFeatures, places: Tensor, labels: Tensor, least: float
) -> tuple[Logits, list[float], list[int]]:
    """As :meth:`MaskFinder._decode`, by PyTorch. The masks of a point are drawn only if one of them is good enough."""
    encoder, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    prompts = encoder.tokens(places, labels)
    image, position = model.without_memory(features), encoder.image_position()
    tokens, source = decoder.attend(image, position, prompts, encoder.dense(None))
    ious = decoder.ious(tokens)[:, 1:].float()
    good = ious > least
    rows = good.any(dim=1).nonzero()[:, 0]
    if not len(rows):
        return np.zeros((0, 1, 1), np.float32), [], []
    drawn = decoder.draw(tokens[rows], source[rows], features.stride_8, features.stride_4)[:, 1:].float()
    owners = rows[:, None].expand(-1, 3)[good[rows]]
    return drawn[good[rows]].cpu().numpy(), ious[good].tolist(), owners.tolist()


def _resized(low: Logits, width: int, height: int) -> Logits:
    """Bilinear; pixel centres map to pixel centres, as everywhere."""
    return np.asarray(cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def grid(count: int) -> NDArray[np.float64]:
    """``count``² points, evenly spread over the unit square, row by row, ``[count², 2]``."""
    line = (np.arange(count) + 0.5) / count
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def points_in(layer: int, settings: EverythingSettings) -> int:
    """Points along each side of a crop of this layer."""
    return max(1, int(settings.points / settings.crop_points_factor**layer))


def crops_of(width: int, height: int, settings: EverythingSettings) -> list[tuple[Edges, int]]:
    """The image, then the crops of each layer, each with its layer."""
    crops: list[tuple[Edges, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, settings.crop_layers + 1):
        count = 2**layer
        overlap = int(settings.crop_overlap * min(width, height) * 2 / count)
        wide, high = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for column in range(count):
            for row in range(count):
                x0, y0 = column * (wide - overlap), row * (high - overlap)
                if x0 < width and y0 < height:
                    crops.append(((x0, y0, min(x0 + wide, width), min(y0 + high, height)), layer))
    return crops


def suppress(boxes: list[Edges], scores: NDArray[np.float64], limit: float) -> list[int]:
    """Indices of the boxes that stay, the best first: each drops those of lower score with an IoU above ``limit``."""
    edges = np.array(boxes, np.float64).reshape(-1, 4)
    areas = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    waiting = np.argsort(-scores, kind="stable")
    kept = []
    while len(waiting):
        first, rest = waiting[0], waiting[1:]
        kept.append(int(first))
        low, high = np.maximum(edges[first, :2], edges[rest, :2]), np.minimum(edges[first, 2:], edges[rest, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        joined = areas[first] + areas[rest] - shared
        waiting = rest[~(shared > limit * joined)]
    return kept


def clean(found: list[FoundMask], settings: EverythingSettings) -> list[FoundMask]:
    """Fills small holes, removes small islands, and drops what has become a double; masks that needed neither win."""
    cleaned, untouched = [], []
    for each in found:
        full, filled = without_small(each.mask.full(), settings.min_region, holes=True)
        full, removed = without_small(full, settings.min_region, holes=False)
        changed = filled or removed
        mask = CroppedMask.from_full(full) if changed else each.mask
        cleaned.append(FoundMask(mask, each.predicted_iou, each.stability, each.point, each.crop))
        untouched.append(0.0 if changed else 1.0)
    boxes = [(x0, y0, max(x1 - 1, 0), max(y1 - 1, 0)) for x0, y0, x1, y1 in (each.mask.box for each in cleaned)]
    return [cleaned[index] for index in suppress(boxes, np.array(untouched), settings.nms_iou)]


def without_small(mask: BoolMask, least: int, holes: bool) -> tuple[BoolMask, bool]:
    """The mask without holes, or islands, of fewer than ``least`` pixels, and whether it has changed. The largest
    island stays whatever its size."""
    regions = (~mask if holes else mask).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(regions, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    small = 1 + np.flatnonzero(areas < least)
    if not len(small):
        return mask, False
    if not holes and len(small) == len(areas):
        small = np.delete(small, int(areas.argmax()))
    chosen = np.isin(labels, small)
    return (mask | chosen if holes else mask & ~chosen), True
