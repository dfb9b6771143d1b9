"""The overlay draws what it should and nothing else."""

import numpy as np
import pytest

from sam2_ros.media.overlay import bar_size, draw_overlay, object_color
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState


def ellipse(height: int, width: int, cx: float, cy: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.asarray(((x - cx * width) / (0.12 * width)) ** 2 + ((y - cy * height) / (0.2 * height)) ** 2 < 1)


def found(object_id: int, mask: np.ndarray, state: ObjectState = ObjectState.VISIBLE, **more: object) -> ObjectResult:
    return ObjectResult(object_id, CroppedMask.from_full(mask), state, 4.0, 0.98, 0.9, False, **more)  # type: ignore[arg-type]


def frame(height: int, width: int, *objects: ObjectResult, stamp: int = 0) -> FrameResult:
    return FrameResult(0, stamp, width, height, objects)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280)])
def test_without_labels_exactly_the_masked_pixels_change(height: int, width: int) -> None:
    image, first, second = noise(height, width), ellipse(height, width, 0.3, 0.5), ellipse(height, width, 0.95, 0.9)
    before = image.copy()
    drawn = draw_overlay(image, frame(height, width, found(1, first), found(2, second)), labels=False)
    assert np.array_equal(image, before), "the source stays as it was"
    assert np.array_equal((drawn != image).any(axis=2), first | second)


def test_the_mask_is_tinted_in_the_colour_of_its_id_and_outlined() -> None:
    image, mask = np.zeros((480, 640, 3), np.uint8), ellipse(480, 640, 0.5, 0.5)
    drawn = draw_overlay(image, frame(480, 640, found(3, mask)), alpha=0.5, labels=False)
    color = np.array(object_color(3))
    assert np.abs(drawn[240, 320] - color / 2).max() <= 1
    assert drawn[240, int(np.flatnonzero(mask[240])[0])].tolist() == color.tolist()


def test_a_visible_object_gets_a_label_and_a_hidden_one_a_line_in_the_corner() -> None:
    image, mask = np.full((480, 640, 3), 120, np.uint8), ellipse(480, 640, 0.6, 0.6)
    visible = draw_overlay(image, frame(480, 640, found(1, mask, name="cup")))
    changed = (visible != image).any(axis=2)
    top = int(np.flatnonzero(mask.any(axis=1))[0])
    assert changed[top - 12 : top, int(0.5 * 640)].any(), "a label above the mask"
    assert not changed[:100, :200].any(), "nothing in the corner"
    hidden = draw_overlay(image, frame(480, 640, found(1, np.zeros_like(mask), ObjectState.LOST, name="cup")))
    changed = (hidden != image).any(axis=2)
    assert changed[:30, :60].any() and not changed[60:].any()
    corner = hidden[:30, :60].astype(int)
    assert (corner.max(axis=2) - corner.min(axis=2)).max() <= 2, "grey"


@pytest.mark.parametrize(
    ("rows", "columns", "top"),
    [
        (slice(5, 9), slice(620, 640), 5),  # no room above it
        (slice(470, 480), slice(0, 20), None),
    ],
)
def test_a_label_is_drawn_whole_inside_the_image(rows: slice, columns: slice, top: int | None) -> None:
    image, mask = np.zeros((480, 640, 3), np.uint8), np.zeros((480, 640), np.bool_)
    mask[rows, columns] = True
    objects = frame(480, 640, found(1, mask, name="a rather long name"))
    label = (draw_overlay(image, objects) != draw_overlay(image, objects, labels=False)).any(axis=2)
    width, height = bar_size("1 a rather long name visible 0.98", 0.5)
    (used_rows,), (used_columns,) = label.any(axis=1).nonzero(), label.any(axis=0).nonzero()
    assert used_columns[0] == (640 - width if columns.stop == 640 else 0) and np.ptp(used_columns) == width - 1
    assert used_rows[0] == (rows.start - height if top is None else top) and np.ptp(used_rows) == height - 1


def test_a_label_larger_than_the_image_is_cut() -> None:
    tiny = np.ones((8, 8), np.bool_)
    assert draw_overlay(noise(8, 8), frame(8, 8, found(1, tiny))).shape == (8, 8, 3)


def test_neighbouring_ids_have_distinct_colours() -> None:
    colors = np.array([object_color(i) for i in range(1, 17)], float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(16)
    assert distance.min() > 40
    assert object_color(5) == object_color(5)


def test_a_result_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image is \(10, 10, 3\), the result belongs to \(480, 640, 3\)"):
        draw_overlay(noise(10, 10), frame(480, 640))


def test_windows_are_framed_in_the_colours_of_their_objects() -> None:
    image, nothing = np.zeros((360, 640, 3), np.uint8), np.zeros((360, 640), np.bool_)
    shared = (100, 50, 300, 200)
    objects = [found(1, nothing, window=shared), found(2, nothing, window=shared), found(3, nothing)]
    drawn = draw_overlay(image, frame(360, 640, *objects), labels=False, windows=True)
    for inset, number in ((0, 1), (1, 2)):
        corners = [(50 + inset, 100 + inset), (199 - inset, 299 - inset), (120, 100 + inset), (120, 299 - inset)]
        assert {tuple(drawn[place].tolist()) for place in corners} == {object_color(number)}
    assert np.count_nonzero(drawn.any(axis=2)) == 2 * (200 + 148) + 2 * (198 + 146), "and nothing else"
    assert not draw_overlay(image, frame(360, 640, *objects), labels=False).any(), "only on request"
