"""Detectors in ONNX files: small graphs with the outputs of each known family, whose boxes are worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sam2_ros.annotation.onnx_detector import OnnxDetector
from sam2_ros.media.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 64
CLASSES = 3
BOX = (20.0, 10.0, 60.0, 40.0)  # pixels of an image of 128 x 64, which is fed as 64 x 32 or stretched to 64 x 64
IMAGE = np.zeros((64, 128, 3), np.uint8)
IMAGE[..., 0] = 255  # red


def write(
    path: Path, outputs: dict[str, NDArray[Any]], inputs: Sequence[str] = ("images",), metadata: str = "",
    side: int = SIDE,
) -> Path:  # fmt: skip
    """A graph that gives these outputs for any image of ``side`` x ``side``."""
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"images": ([1, 3, side, side], TensorProto.FLOAT), "orig_target_sizes": ([1, 2], TensorProto.INT64)}
    given = [helper.make_tensor_value_info(name, shapes[name][1], shapes[name][0]) for name in inputs]
    values = [numpy_helper.from_array(value, f"{name}_value") for name, value in outputs.items()]
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in outputs]
    results = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in outputs.items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, results, values), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    if metadata:
        helper.set_model_props(model, {"names": metadata})
    onnx.save(model, str(path))
    return path


def yolo() -> dict[str, NDArray[Any]]:
    rows = np.zeros((84, 4 + CLASSES), np.float32)  # 8 x 8 + 4 x 4 + 2 x 2 places
    rows[5] = [20, 28.5, 20, 15, 0.1, 0.8, 0]  # the image lies 16 pixels below the top, in half its size
    rows[6] = [20, 28.5, 20, 16, 0, 0.7, 0]  # the same again
    rows[7] = [20, 28.5, 20, 15, 0, 0.3, 0]
    return {"output0": rows.T[None].copy()}


def yolox() -> dict[str, NDArray[Any]]:
    rows = np.zeros((84, 5 + CLASSES), np.float32)
    # place (2, 1) of the grid with cells of 8 pixels: the middle is (2.5, 1.5625) cells, that is (20, 12.5)
    rows[1 * 8 + 2] = [0.5, 0.5625, np.log(20 / 8), np.log(15 / 8), 0.9, 0, 0.9, 0]
    return {"output": rows[None]}


def nanodet() -> dict[str, NDArray[Any]]:
    rows = np.zeros((85, CLASSES + 32), np.float32)  # and a cell of 64 pixels
    # place (2, 2) of the grid with cells of 8: (16, 16). The image is stretched to 64 x 64: the box is 10, 10, 30, 40.
    row = rows[2 * 8 + 2]
    row[1] = 0.8
    for edge, distance in enumerate((6 / 8, 6 / 8, 14 / 8, 24 / 8)):  # in cells
        low = int(distance)
        bins = np.full(8, -50.0)
        bins[low], bins[low + 1] = np.log(1 - (distance - low)), np.log(max(distance - low, 1e-20))
        row[CLASSES + 8 * edge : CLASSES + 8 * edge + 8] = bins
    return {"output": rows[None]}


def detr() -> dict[str, NDArray[Any]]:
    boxes = np.zeros((1, 5, 4), np.float32)
    boxes[0, 2] = [10, 10, 30, 40]  # of 64 x 64
    return {
        "labels": np.array([[0, 0, 1, 0, 0]], np.int64),
        "boxes": boxes,
        "scores": np.array([[0, 0, 0.8, 0, 0]], np.float32),
    }


def hugging_face() -> dict[str, NDArray[Any]]:
    logits = np.full((1, 5, CLASSES), -9.0, np.float32)
    logits[0, 2, 1] = np.log(0.8 / 0.2)
    boxes = np.zeros((1, 5, 4), np.float32)
    boxes[0, 2] = [20 / 64, 25 / 64, 20 / 64, 30 / 64]
    return {"logits": logits, "pred_boxes": boxes}


@pytest.mark.parametrize(
    ("outputs", "name", "score"),
    [
        (yolo(), "YOLOv8 or 11", 0.8),
        (yolox(), "YOLOX", 0.81),
        (nanodet(), "NanoDet-Plus", 0.8),
        (detr(), "RT-DETR or D-FINE", 0.8),
        (hugging_face(), "RT-DETR or D-FINE", 0.8),
    ],
)
def test_each_layout_is_named_and_read(
    outputs: dict[str, NDArray[Any]], name: str, score: float, tmp_path: Path
) -> None:
    inputs = ("images", "orig_target_sizes") if "boxes" in outputs else ("images",)
    detector = OnnxDetector(write(tmp_path / "d.onnx", outputs, inputs), ["cup", "bowl", "box"])
    assert detector.layout.name == name
    (found,) = detector(IMAGE)
    assert (found.label, found.score) == ("bowl", pytest.approx(score))
    assert found.box == pytest.approx(BOX, abs=1e-3)


def test_images_are_fed_as_each_family_was_trained(tmp_path: Path) -> None:
    """A red image of 128 x 64."""
    fed = {}
    for outputs in (yolo(), yolox(), nanodet(), detr()):
        inputs = ("images", "orig_target_sizes") if "boxes" in outputs else ("images",)
        layout = OnnxDetector(write(tmp_path / "d.onnx", outputs, inputs)).layout
        fed[layout.name] = layout.prepare(IMAGE, SIDE, SIDE)[0][0]
    assert fed["YOLOv8 or 11"][:, 32, 32].tolist() == [1, 0, 0]  # RGB
    assert fed["YOLOv8 or 11"][:, 15, 32].tolist() == pytest.approx([114 / 255] * 3)
    assert fed["YOLOX"][:, 0, 0].tolist() == [0, 0, 255]  # BGR
    assert fed["YOLOX"][:, 32, 0].tolist() == [114] * 3
    expected = [(0 - 103.53) / 57.375, (0 - 116.28) / 57.12, (255 - 123.675) / 58.395]  # BGR
    assert fed["NanoDet-Plus"][:, 63, 63].tolist() == pytest.approx(expected)
    assert fed["RT-DETR or D-FINE"][:, 63, 63].tolist() == [1, 0, 0]


def test_labels_come_from_metadata_or_are_numbers(tmp_path: Path) -> None:
    named = OnnxDetector(write(tmp_path / "a.onnx", yolo(), metadata="{0: 'cup', 1: 'vase', 2: 'box'}"))
    assert named(IMAGE)[0].label == "vase"
    for text in ("{1:", "{[]: 1}", "{1: 'cup', 'b': 'vase'}"):
        assert OnnxDetector(write(tmp_path / "b.onnx", yolo(), metadata=text))(IMAGE)[0].label == "1"
    outputs = detr()
    outputs["labels"][:] = -1
    assert OnnxDetector(write(tmp_path / "c.onnx", outputs), ["cup", "bowl"])(IMAGE)[0].label == "-1"
    (found,) = OnnxDetector(write(tmp_path / "d.onnx", yolo()), ["cup", "a\tb", "box"])(IMAGE)
    assert found.label == r"a\tb"  # the tracker refuses control characters


def test_low_scores_are_left_out(tmp_path: Path) -> None:
    assert OnnxDetector(write(tmp_path / "d.onnx", yolo()), min_score=0.81)(IMAGE) == []


def test_files_that_are_no_detector_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match=r"text\.onnx is no ONNX file that can be run .*; accepted: .*YOLOX"):
        OnnxDetector(tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"its outputs are probabilities \[1, 1000\]; accepted"):
        OnnxDetector(write(tmp_path / "class.onnx", {"probabilities": np.zeros((1, 1000), np.float32)}))
    with pytest.raises(UserError, match=r"its inputs are orig_target_sizes \[1, 2\]"):
        OnnxDetector(write(tmp_path / "in.onnx", yolo(), ("orig_target_sizes",)))
    with pytest.raises(UserError, match="has 3 classes, and --labels names 1"):
        OnnxDetector(write(tmp_path / "d.onnx", yolo(), metadata=""), ["cup"])
    # An export of a network for poses: what follows a box is no class.
    with pytest.raises(UserError, match="has 3 classes, and its metadata names 1; accepted: "):
        OnnxDetector(write(tmp_path / "pose.onnx", yolo(), metadata="{0: 'person'}"))
    with pytest.raises(UserError, match=r"its outputs are labels \[5\], boxes \[5, 4\], scores \[5\]; accepted"):
        OnnxDetector(write(tmp_path / "flat.onnx", {name: value[0] for name, value in detr().items()}))
    with pytest.raises(UserError, match="wants images of 100000 x 100000; accepted: sides up to 4096 pixels"):
        OnnxDetector(write(tmp_path / "huge.onnx", yolo(), side=100_000))
    with pytest.raises(UserError, match="no such file"):
        OnnxDetector(tmp_path / "none.onnx")
