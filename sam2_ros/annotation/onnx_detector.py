"""Detectors in ONNX files, run by ONNX Runtime. How a file wants its image, and what its outputs mean, is recognised by
their names and shapes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.annotation.detectors import best_of
from sam2_ros.inference.matching import Detection
from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import Rgb
from sam2_ros.text import printable

Array: TypeAlias = NDArray[np.floating[Any]]

ACCEPTED = (
    "accepted: exports of YOLOv8 or 11, of YOLOX and NanoDet-Plus without decoding, and of RT-DETR or D-FINE, each "
    "with one image as input"
)
_DEFAULT_SIDE = 640  # of an input that may have any size
_MOST_SIDE = 4096  # pixels of an input
_NMS_IOU = 0.6
_MOST = 300  # boxes of an image, the best first
_PADDING = 114
_REG_BINS = 8  # of NanoDet's distance to each edge
_NANODET_MEAN, _NANODET_STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # BGR


class Raw(NamedTuple):
    """What a network says of N boxes."""

    boxes: Array  # [N, 4] x0, y0, x1, y1 in pixels of its input
    scores: Array  # [N]
    classes: NDArray[np.int64]  # [N]
    known: int  # classes; 0 = unknown


@dataclass(frozen=True)
class Layout:
    """How a family of detectors is fed and read."""

    name: str
    prepare: Callable[[Rgb, int, int], tuple[Array, NDArray[np.float64]]]  # the input; scale and offset, x and y
    read: Callable[[dict[str, Array], int, int], Raw]
    doubles: bool = True  # it gives several boxes for one object


class OnnxDetector:
    """A detector in an ONNX file.

    Args:
        labels: names of its classes; empty: as its metadata say, else numbers.
        min_score: boxes of lower scores are left out.

    Raises:
        UserError: no such file, not ONNX, or not the layout of a known detector.
    """

    def __init__(self, path: Path, labels: Sequence[str] = (), min_score: float = 0.5, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("ONNX files are run by ONNX Runtime: python3 -m pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own kinds
            raise UserError(f"{path} is no ONNX file that can be run ({printable(error, 200)}); {ACCEPTED}") from None
        self._path, self._min_score = path, min_score
        images = [each for each in self._session.get_inputs() if len(each.shape) == 4]
        if len(images) != 1 or images[0].shape[1] != 3:
            shapes = ", ".join(f"{each.name} {each.shape}" for each in self._session.get_inputs())
            raise UserError(f"{path} is no detector that is known: its inputs are {printable(shapes, 300)}; {ACCEPTED}")
        self._image = images[0].name
        height, width = (side if isinstance(side, int) else _DEFAULT_SIDE for side in images[0].shape[2:])
        if not (0 < height <= _MOST_SIDE and 0 < width <= _MOST_SIDE):
            raise UserError(f"{path} wants images of {width} x {height}; accepted: sides up to {_MOST_SIDE} pixels")
        self._width, self._height = width, height
        outputs = self._run(np.zeros((1, 3, height, width), np.float32), width, height)
        self.layout = self._recognise(outputs)
        count = self._classes(outputs)
        self._labels = tuple(map(printable, labels)) or self._names()
        if self._labels and count and len(self._labels) != count:
            source = "--labels" if labels else "its metadata"
            raise UserError(f"{path} has {count} classes, and {source} names {len(self._labels)}; {ACCEPTED}")

    def __call__(self, rgb: Rgb) -> list[Detection]:
        """The best boxes, in pixels of ``rgb`` (``uint8 [H, W, 3]``), by falling score."""
        image, mapping = self.layout.prepare(rgb, self._width, self._height)
        raw = self.layout.read(self._run(image, self._width, self._height), self._width, self._height)
        rows = np.flatnonzero(raw.scores >= self._min_score)
        rows = rows[np.argsort(-raw.scores[rows], kind="stable")][: 10 * _MOST]
        limits = np.array([rgb.shape[1], rgb.shape[0]] * 2, np.float64)
        edges = np.clip((raw.boxes[rows] - np.tile(mapping[1], 2)) / np.tile(mapping[0], 2), 0, limits)
        found = [
            Detection((x0, y0, x1, y1), self._label(int(raw.classes[row])), min(float(raw.scores[row]), 1.0))
            for row, (x0, y0, x1, y1) in zip(rows, edges.tolist(), strict=True)
            if x1 - x0 >= 1 and y1 - y0 >= 1
        ]
        return (best_of(found, _NMS_IOU) if self.layout.doubles else found)[:_MOST]

    def _run(self, image: Array, width: int, height: int) -> dict[str, Array]:
        feeds: dict[str, Any] = {self._image: image}
        for each in self._session.get_inputs():
            if each.name != self._image:  # RT-DETR asks for the size that its boxes are to have
                feeds[each.name] = np.array([[width, height]], np.int64)
        try:
            results = self._session.run(None, feeds)
        except Exception as error:
            raise UserError(f"{self._path} can't be run on an image ({printable(error, 200)}); {ACCEPTED}") from None
        names = [each.name for each in self._session.get_outputs()]
        return {name: np.asarray(value) for name, value in zip(names, results, strict=True)}

    def _recognise(self, outputs: dict[str, Array]) -> Layout:
        """
        Raises:
            UserError: none of the known ones.
        """
        shapes = {name: value.shape for name, value in outputs.items()}
        if {"labels", "boxes", "scores"} <= shapes.keys() or {"logits", "pred_boxes"} <= shapes.keys():
            return Layout("RT-DETR or D-FINE", _stretched, _read_queries, doubles=False)
        if len(shapes) == 1 and len(shape := next(iter(shapes.values()))) == 3 and shape[0] == 1:
            _, rows, columns = shape
            cells = [_cells(self._width, self._height, strides) for strides in (_YOLOX, _NANODET)]
            if rows == cells[0] and columns > 5:
                return Layout("YOLOX", _padded_bgr, _read_yolox)
            if rows == cells[1] and columns > 4 * _REG_BINS:
                return Layout("NanoDet-Plus", _normalised, _read_nanodet)
            if columns == cells[0] and rows > 4:
                return Layout("YOLOv8 or 11", _centred, _read_yolo)
        raise self._unknown(outputs)

    def _classes(self, outputs: dict[str, Array]) -> int:
        """How many there are; 0 = unknown.

        Raises:
            UserError: the outputs have the names of a known detector and other shapes.
        """
        try:
            boxes, scores, classes, known = self.layout.read(outputs, self._width, self._height)
            if boxes.shape == (*scores.shape, 4) and scores.shape == classes.shape == (len(scores),):
                return known
        except (ValueError, IndexError, TypeError):
            pass
        raise self._unknown(outputs)

    def _unknown(self, outputs: dict[str, Array]) -> UserError:
        shown = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        return UserError(
            f"{self._path} is no detector that is known: its outputs are {printable(shown, 300)}; {ACCEPTED}"
        )

    def _label(self, index: int) -> str:
        return self._labels[index] if 0 <= index < len(self._labels) else str(index)

    def _names(self) -> tuple[str, ...]:
        """The classes as Ultralytics writes them into a file."""
        text = self._session.get_modelmeta().custom_metadata_map.get("names", "")
        try:
            names = ast.literal_eval(text[:100_000]) if text else {}
            return tuple(printable(names[key]) for key in sorted(names)) if isinstance(names, dict) else ()
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return ()


# -- how images are fed ----------------------------------------------------------------------------------------------

_YOLOX, _NANODET = (8, 16, 32), (8, 16, 32, 64)


def _padded(rgb: Rgb, width: int, height: int, centred: bool) -> tuple[Rgb, NDArray[np.float64]]:
    """The image in its own proportions, the rest gray; and scale and offset of its pixels."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    inner = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    left, top = ((width - inner[0]) // 2, (height - inner[1]) // 2) if centred else (0, 0)
    padded: Rgb = np.full((height, width, 3), _PADDING, np.uint8)
    padded[top : top + inner[1], left : left + inner[0]] = cv2.resize(rgb, inner, interpolation=cv2.INTER_LINEAR)
    scales = inner[0] / rgb.shape[1], inner[1] / rgb.shape[0]
    return padded, np.array([scales, (left, top)], np.float64)


def _batch(image: NDArray[Any]) -> Array:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)


def _centred(rgb: Rgb, width: int, height: int) -> tuple[Array, NDArray[np.float64]]:
    image, mapping = _padded(rgb, width, height, centred=True)
    return _batch(image) / 255, mapping


def _padded_bgr(rgb: Rgb, width: int, height: int) -> tuple[Array, NDArray[np.float64]]:
    image, mapping = _padded(rgb, width, height, centred=False)
    return _batch(image[..., ::-1]), mapping


def _resized(rgb: Rgb, width: int, height: int) -> tuple[Rgb, NDArray[np.float64]]:
    image = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return image, np.array([(width / rgb.shape[1], height / rgb.shape[0]), (0, 0)], np.float64)


def _stretched(rgb: Rgb, width: int, height: int) -> tuple[Array, NDArray[np.float64]]:
    image, mapping = _resized(rgb, width, height)
    return _batch(image) / 255, mapping


def _normalised(rgb: Rgb, width: int, height: int) -> tuple[Array, NDArray[np.float64]]:
    image, mapping = _resized(rgb, width, height)
    return _batch((image[..., ::-1] - np.array(_NANODET_MEAN)) / np.array(_NANODET_STD)), mapping


# -- how outputs are read --------------------------------------------------------------------------------------------


def _cells(width: int, height: int, strides: Sequence[int]) -> int:
    return sum(-(-width // stride) * -(-height // stride) for stride in strides)


def _places(width: int, height: int, strides: Sequence[int]) -> tuple[Array, Array]:
    """Column and row of every cell ``[N, 2]``, and its stride ``[N, 1]``; row by row, small strides first."""
    grids = [np.mgrid[: -(-height // stride), : -(-width // stride)][::-1].reshape(2, -1).T for stride in strides]
    sizes = np.concatenate([np.full((len(grid), 1), stride) for grid, stride in zip(grids, strides, strict=True)])
    return np.concatenate(grids).astype(np.float32), sizes.astype(np.float32)


def _edges(middles: Array, sizes: Array) -> Array:
    return np.concatenate([middles - sizes / 2, middles + sizes / 2], axis=1)


def _best(boxes: Array, scores: Array) -> Raw:
    """Each box with its best class, of scores ``[N, classes]``."""
    return Raw(boxes, scores.max(axis=1), scores.argmax(axis=1), scores.shape[1])


def _read_yolo(outputs: dict[str, Array], width: int, height: int) -> Raw:
    rows = next(iter(outputs.values()))[0].T
    return _best(_edges(rows[:, :2], rows[:, 2:4]), rows[:, 4:])


def _read_yolox(outputs: dict[str, Array], width: int, height: int) -> Raw:
    rows = next(iter(outputs.values()))[0]
    places, strides = _places(width, height, _YOLOX)
    middles, sizes = (rows[:, :2] + places) * strides, np.exp(np.minimum(rows[:, 2:4], 20)) * strides
    return _best(_edges(middles, sizes), rows[:, 4:5] * rows[:, 5:])


def _read_nanodet(outputs: dict[str, Array], width: int, height: int) -> Raw:
    rows = next(iter(outputs.values()))[0]
    scores, bins = rows[:, : -4 * _REG_BINS], rows[:, -4 * _REG_BINS :].reshape(-1, 4, _REG_BINS)
    shares = np.exp(bins - bins.max(axis=2, keepdims=True))
    distances = (shares / shares.sum(axis=2, keepdims=True)) @ np.arange(_REG_BINS, dtype=np.float32)
    places, strides = _places(width, height, _NANODET)
    middles, distances = places * strides, distances * strides
    return _best(np.concatenate([middles - distances[:, :2], middles + distances[:, 2:]], axis=1), scores)


def _read_queries(outputs: dict[str, Array], width: int, height: int) -> Raw:
    if "logits" in outputs:
        boxes = outputs["pred_boxes"][0] * np.array([width, height] * 2, np.float32)
        return _best(_edges(boxes[:, :2], boxes[:, 2:]), 1 / (1 + np.exp(-outputs["logits"][0])))
    return Raw(outputs["boxes"][0], outputs["scores"][0], outputs["labels"][0].astype(np.int64), 0)
