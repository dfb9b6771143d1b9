"""Synthetic clips: what is labelled is what is seen."""

import numpy as np
import pytest

from sam2_ros.training.clips import Clip, Still, approach, composite, cutouts, film

RED = np.array([250, 0, 0], np.uint8)
SIZE = 96


def red_square_still() -> Still:
    image = np.full((120, 160, 3), 90, np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    image[40:90, 50:110], labels[40:90, 50:110] = RED, 1
    return Still("square", image, labels)


def redness(frame: np.ndarray) -> np.ndarray:
    """True where the pixel is clearly red."""
    values = frame.astype(int)
    return values[..., 0] - values[..., 1] > 100


def test_virtual_camera_moves_labels_with_the_image() -> None:
    still = red_square_still()
    clip = Clip("still", np.stack([still.image] * 5), np.stack([still.labels] * 5))
    for seed in range(4):
        filmed = film(clip, np.random.default_rng(seed), SIZE)
        differing = redness(filmed.frames) != (filmed.labels == 1)
        assert filmed.labels.any()
        assert differing.mean() < 0.03  # the edges, which the image blends
        assert (filmed.labels[0] != filmed.labels[-1]).any()


def test_a_camera_comes_close_until_the_object_fills_the_view() -> None:
    still = red_square_still()
    steps = 15
    clip = Clip("still", np.stack([still.image] * steps), np.stack([still.labels] * steps))
    clip.labels[6] = 0  # seen, but not labelled there: the camera goes on
    for seed in range(4):
        near = approach(clip, np.random.default_rng(seed), SIZE)
        labelled = [t for t in range(steps) if t != 6]
        assert (redness(near.frames[labelled]) != (near.labels[labelled] == 1)).mean() < 0.03
        assert (near.frames.max(axis=-1) > 60).all()  # never beyond the edge of the picture
        shares = (near.labels[labelled] == 1).mean(axis=(1, 2))
        assert shares.min() < 0.2 and shares.max() > 0.4
        assert redness(near.frames[6]).any()


def test_a_camera_needs_something_to_come_close_to() -> None:
    empty = Clip("empty", np.zeros((3, 9, 9, 3), np.uint8), np.zeros((3, 9, 9), np.uint8))
    with pytest.raises(ValueError, match="no labelled pixel"):
        approach(empty, np.random.default_rng(0), SIZE)


def test_pieces_are_labelled_where_they_are_pasted() -> None:
    background = Still("grey", np.full((100, 100, 3), 90, np.uint8), np.zeros((100, 100), np.uint8))
    (piece,) = cutouts(red_square_still())
    for seed in range(4):
        clip = composite(background, [piece], np.random.default_rng(seed), SIZE, 5)
        assert (redness(clip.frames) != (clip.labels == 1)).mean() < 0.03


def test_later_pieces_cover_earlier_ones() -> None:
    background = Still("grey", np.full((100, 100, 3), 90, np.uint8), np.zeros((100, 100), np.uint8))
    (piece,) = cutouts(red_square_still())
    green = (np.full_like(piece[0], (0, 250, 0)), piece[1])
    overlaps = 0
    for seed in range(6):
        alone = composite(background, [piece], np.random.default_rng(seed), SIZE, 4)
        both = composite(background, [piece, green], np.random.default_rng(seed), SIZE, 4)
        assert not ((both.labels == 1) & (alone.labels != 1)).any()
        overlaps += int(((alone.labels == 1) & (both.labels == 2)).sum())
    assert overlaps > 0


def test_the_seed_decides() -> None:
    still = red_square_still()
    first, again, other = (composite(still, cutouts(still), np.random.default_rng(seed), SIZE, 3) for seed in (1, 1, 2))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.frames, other.frames)
