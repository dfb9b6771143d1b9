"""Synthetic clips: what is labelled is what is seen."""

import numpy as np
from small_training import red_square_still, redness

from sam2_ros.training.clips import Clip, Still, composite, cutouts, film

SIZE = 96


def test_virtual_camera_moves_labels_with_the_image() -> None:
    still = red_square_still()
    clip = Clip("still", np.stack([still.image] * 5), np.stack([still.labels] * 5))
    for seed in range(4):
        filmed = film(clip, np.random.default_rng(seed), SIZE)
        differing = redness(filmed.frames) != (filmed.labels == 1)
        assert filmed.labels.any()
        assert differing.mean() < 0.03  # the edges, which the image blends
        assert (filmed.labels[0] != filmed.labels[-1]).any()


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
