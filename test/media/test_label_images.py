"""Label images: what is written is what is read, and overlaps go to the better mask."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sam2_ros.media.errors import UserError
from sam2_ros.media.label_images import compose_labels, palette, read_labels, read_mask, write_labels
from sam2_ros.tracking.types import CroppedMask, ObjectResult, ObjectState


def tracked(mask: np.ndarray, iou: float) -> ObjectResult:
    return ObjectResult(1, CroppedMask.from_full(mask), ObjectState.VISIBLE, 5.0, 1.0, iou, False)


def rectangle(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((20, 30), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_ids_up_to_255_make_a_palette_png(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_labels(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        colors = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_labels(tmp_path / "a.png"), labels)
    # The first colours of the PASCAL VOC and DAVIS palette, as published with the data sets.
    assert colors[0, :4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors[0, 8].tolist() == [64, 0, 0]
    assert len({tuple(color) for color in palette().tolist()}) == 256


def test_wider_ids_make_a_16_bit_png(tmp_path: Path) -> None:
    labels = np.array([[0, 255], [256, 65535]], np.uint16)
    write_labels(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
    assert np.asarray(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)).tolist() == labels.tolist()
    again = read_labels(tmp_path / "a.png")
    assert again.dtype == np.uint16
    assert np.array_equal(again, labels)


def test_overlap_goes_to_the_higher_predicted_iou_then_to_the_lower_id() -> None:
    left, right = rectangle(0, 10, 0, 20), rectangle(0, 10, 10, 30)
    labels = compose_labels([(1, tracked(left, 0.9)), (2, tracked(right, 0.6))], 20, 30)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels == 1, left)
    assert np.array_equal(labels == 2, right & ~left)
    labels = compose_labels([(400, tracked(left, 0.6)), (2, tracked(right, 0.6))], 20, 30, wide=True)
    assert np.array_equal(labels == 2, right)
    assert np.array_equal(labels == 400, left & ~right)


def test_an_id_beyond_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="object id 256 does not fit a label image; accepted: 1 to 255"):
        compose_labels([(256, tracked(rectangle(0, 1, 0, 1), 1.0))], 20, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_a_mask_is_read_from_every_single_channel_png(tmp_path: Path, mode: str) -> None:
    mask = rectangle(3, 9, 4, 20)
    if mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16) * 700)
    else:
        image = Image.fromarray(mask.astype(np.uint8) * 255).convert(mode)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "color.png")
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    for name, message in (("color.png", "a colour image"), ("text.png", "not a readable"), ("gone.png", "no such")):
        with pytest.raises(UserError, match=message):
            read_mask(tmp_path / name)
