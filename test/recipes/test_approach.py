"""A virtual camera that comes close to the objects of a clip."""

import numpy as np
import pytest
from small_training import red_square_still, redness

from recipes.embedded.data import approach
from sam2_ros.training.clips import Clip

SIZE = 96


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
