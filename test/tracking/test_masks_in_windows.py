"""Masks of objects that are seen through windows of their own: where they lie in the image, and whose a pixel is."""

from __future__ import annotations

import pytest
import torch

from sam2_ros.tracking.cuda_masks import pack_bits
from sam2_ros.tracking.masks import OUTSIDE_LOGIT, masks_in_windows, moved, suppress_overlap
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.windows import Window

WIDTH, HEIGHT = 80, 60
WHOLE = Window(0, 0, WIDTH, HEIGHT)
LEFT, RIGHT = Window(4, 6, 44, 36), Window(34, 16, 74, 46)


def everywhere(value: float, rows: int = 8, columns: int = 8) -> torch.Tensor:
    return torch.full((1, rows, columns), value)


def at(*where: tuple[torch.Tensor, Window], non_overlap: bool = False) -> list[CroppedMask]:
    logits, windows = zip(*where, strict=True)
    found = masks_in_windows(logits, windows, HEIGHT, WIDTH, non_overlap)
    assert all((mask.width, mask.height) == (WIDTH, HEIGHT) for mask in found)
    return found


@pytest.mark.parametrize("sizes", [((8, 8), (8, 8)), ((8, 8), (16, 4))])
def test_each_mask_lies_in_its_window(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    one, other = (everywhere(3.0, *size) for size in sizes)
    first, second = at((one, LEFT), (other, RIGHT))
    assert first.box == LEFT and second.box == RIGHT and first.area == second.area == 40 * 30
    assert [mask.box for mask in at((one, WHOLE), (other, WHOLE))] == [WHOLE, WHOLE]
    (alone,) = at((one, RIGHT), non_overlap=True)
    assert alone.box == RIGHT
    assert [mask.box for mask in at((one, WHOLE), (-other, RIGHT))] == [WHOLE, (0, 0, 0, 0)]


@pytest.mark.parametrize("sizes", [((8, 8), (8, 8)), ((8, 8), (16, 4))])
def test_a_pixel_that_two_see_goes_to_the_one_that_is_surer(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    one, other = (everywhere(value, *size) for value, size in zip((2.0, 3.0), sizes, strict=True))
    first, second = at((one, LEFT), (other, RIGHT), non_overlap=True)
    assert second.box == RIGHT and second.area == 40 * 30
    assert first.area == 40 * 30 - 10 * 20 and first.box == LEFT and not (first.full() & second.full()).any()
    first, second = at((one, WHOLE), (other, RIGHT), non_overlap=True)
    assert first.area == WIDTH * HEIGHT - 1200 and second.area == 1200
    first, second = at((one, WHOLE), (other, WHOLE), non_overlap=True)
    assert (first.area, second.area) == (0, WIDTH * HEIGHT)
    assert [mask.area for mask in at((one, LEFT), (other * -1, RIGHT), non_overlap=True)] == [1200, 0]


def test_of_equals_the_first_has_a_pixel_and_the_others_lose_it() -> None:
    """A loser's logit falls to -10; one that was below stays."""
    logits = torch.tensor([3.0, 3.0, -4.0, -20.0]).reshape(4, 1, 1, 1)
    assert suppress_overlap(logits).flatten().tolist() == [3, -10, -10, -20]
    negative = torch.tensor([-6.0, -5.0]).reshape(2, 1, 1, 1)
    assert suppress_overlap(negative).flatten().tolist() == [-10, -5]


def test_eight_pixels_are_a_byte_the_leftmost_in_the_highest_bit() -> None:
    masks = torch.zeros(2, 2, 10, dtype=torch.bool)
    masks[0, 0, [0, 7, 8]] = masks[1, 1, [1, 9]] = True
    assert pack_bits(masks).tolist() == [[[129, 128], [0, 0]], [[0, 0], [64, 64]]]
    assert pack_bits(torch.ones(1, 1, 8, dtype=torch.bool)).tolist() == [[[255]]]
    assert pack_bits(torch.ones(1, 1, 8, dtype=torch.bool)).dtype == torch.uint8


def ramp(side: int = 64) -> torch.Tensor:
    """Logits that tell where they lie: the column, and 100 times the row."""
    places = torch.arange(side, dtype=torch.float32)
    return (places + 100 * places[:, None])[None]


@pytest.mark.parametrize(
    ("before", "now", "left", "top", "pixel"),
    [
        (Window(0, 0, 64, 64), Window(16, 8, 48, 40), 16, 8, 1.0),
        (Window(10, 20, 74, 84), Window(26, 28, 58, 60), 16, 8, 1.0),
        (Window(0, 0, 128, 128), Window(32, 16, 96, 80), 16, 8, 1.0),
        (Window(10, 20, 74, 84), Window(10, 20, 74, 84), 0, 0, 2.0),
        (Window(0, 0, 64, 64), Window(8, 24, 40, 32), 8, 24, 1.0),
    ],
)
def test_logits_lie_where_they_lay_in_the_frame(before: Window, now: Window, left: int, top: int, pixel: float) -> None:
    """The middle of each pixel of the new window, ``pixel`` old ones wide, in old pixels."""
    found = moved(ramp(), before, now, 32)
    assert found.shape == (1, 32, 32)
    high = 64 * now.height / before.height / 32
    for row, column in ((2, 3), (20, 9), (29, 30)):
        x, y = left + (column + 0.5) * pixel - 0.5, top + (row + 0.5) * high - 0.5
        assert float(found[0, row, column]) == pytest.approx(x + 100 * y, abs=0.05)


def test_around_a_window_there_is_nothing() -> None:
    found = moved(torch.full((1, 32, 32), 5.0), Window(0, 0, 32, 32), Window(16, 0, 48, 32), 32)
    assert (found[0, :, 17:] == OUTSIDE_LOGIT).all() and torch.allclose(found[0, 1:31, :15], torch.tensor(5.0))
    far = moved(torch.full((1, 32, 32), 5.0), Window(0, 0, 32, 32), Window(100, 100, 132, 132), 32)
    assert (far == OUTSIDE_LOGIT).all()
