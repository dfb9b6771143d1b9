"""Training clips of what the tracker sees through windows."""

import json
from pathlib import Path

import numpy as np

from recipes.embedded.windows import SHORTEST, hard_objects, looks, windows_of
from sam2_ros.tracking.windows import SLACK, Frame, Window
from sam2_ros.training.clips import Clip

WIDTH, HEIGHT, STEPS, HIDDEN, SIDE = 320, 180, 16, range(6, 8), 384


def two_squares() -> Clip:
    """A white square of 20 pixels (1) that moves right and is hidden for a while, and a grey one (2) at rest."""
    labels = np.zeros((STEPS, HEIGHT, WIDTH), np.uint8)
    for t, label in enumerate(labels):
        if t not in HIDDEN:
            label[40:60, 20 + 6 * t : 40 + 6 * t] = 1
        label[140:160, 280:300] = 2
    grey = np.array([0, 255, 128], np.uint8)[labels]
    return Clip("squares", np.repeat(grey[..., None], 3, axis=3), labels)


def test_windows_follow_each_object_and_show_it_larger() -> None:
    clip = two_squares()
    seen = {int(look.labels.max()): look for look in looks(clip, np.random.default_rng(0), SIDE)}
    assert set(seen) == {1, 2}
    moving = seen[1]
    assert moving.labels.shape == (STEPS, SIDE, SIDE) and set(np.unique(moving.labels)) == {0, 1}
    for t in range(STEPS):
        white = moving.frames[t, :, :, 0] > 200
        assert white.any() == (t not in HIDDEN)
        assert np.count_nonzero(white != (moving.labels[t] == 1)) <= 0.1 * np.count_nonzero(white)
        assert t in HIDDEN or np.mean(white) > 3 * np.mean(clip.labels[t] == 1)


def test_a_window_moves_ahead_when_it_must_and_stays_while_its_object_is_hidden() -> None:
    masks = two_squares().labels == 1
    windows = windows_of(masks, np.random.default_rng(0), SIDE)
    assert 1 < len(set(windows)) < STEPS
    assert windows[HIDDEN.stop] == windows[HIDDEN.start + 1]
    for t in set(range(1, STEPS)) - {HIDDEN.stop}:  # with the object's step, where it was seen just before
        assert t in HIDDEN or windows[t].holds((20 + 6 * t, 40, 40 + 6 * t, 60))


def test_a_window_grows_in_steps() -> None:
    masks = np.zeros((SHORTEST, HEIGHT, WIDTH), np.bool_)
    masks[:2, 80:90, 150:160] = True
    masks[2:, 60:110, 130:180] = True  # a thing that comes near
    windows = windows_of(masks, np.random.default_rng(0), SIDE)
    shares = [Frame(WIDTH, HEIGHT, SIDE).share_of(window) for window in windows]
    assert shares[-1] > 2 * shares[0] and windows[-1] != Window.whole(WIDTH, HEIGHT)
    assert max(np.divide(shares[4:], shares[3:-1])) <= SLACK + 0.02


def test_objects_that_are_seen_briefly_are_left_out() -> None:
    clip = two_squares()
    clip.labels[: STEPS - SHORTEST + 1] = 0
    assert list(looks(clip, np.random.default_rng(0), SIDE)) == []


def test_objects_that_are_alike_small_or_hidden_come_first(tmp_path: Path) -> None:
    labels = np.zeros((SHORTEST, HEIGHT, WIDTH), np.uint8)
    for value in range(1, 7):
        labels[:, 40:60, 50 * value - 40 : 50 * value - 20] = value
    things = [
        {"id": n, "kind": kind, "hidden_and_back": n == 4, "area": 0.01}
        for n, kind in enumerate(("distinct", "copy", "near", "distinct", "small", "distinct"), 1)
    ]
    (tmp_path / "Scenes").mkdir()
    (tmp_path / "Scenes" / "squares.json").write_text(json.dumps({"objects": things}))
    assert hard_objects(tmp_path, "squares") == {2, 4, 5} and hard_objects(tmp_path, "other") == set()
    clip = Clip("squares", np.repeat(labels[..., None], 3, axis=3), labels)
    for seed in range(3):
        found = looks(clip, np.random.default_rng(seed), 64, first={2, 4, 5})
        assert sorted(int(look.labels.max()) for look in found) == [2, 4, 5]
