"""Training clips of what the tracker sees through windows."""

import json
from pathlib import Path

import cv2
import numpy as np

from recipes.embedded.windows import SHORTEST, hard_objects, seen_through, tracks_of
from sam2_ros.training.data.videos import Video

WIDTH, HEIGHT, STEPS, HIDDEN, SIDE = 320, 180, 16, range(6, 8), 448


def two_squares(folder: Path) -> tuple[Video, np.ndarray]:
    """A white square of 20 pixels (1) that moves right and is hidden for a while, and a grey one (2) at rest."""
    labels = np.zeros((STEPS, HEIGHT, WIDTH), np.uint8)
    frames, masks = list[Path](), list[Path]()
    for t, label in enumerate(labels):
        if t not in HIDDEN:
            label[40:60, 20 + 6 * t : 40 + 6 * t] = 1
        label[140:160, 280:300] = 2
        picture = np.where(label == 1, 255, np.where(label == 2, 128, 0)).astype(np.uint8)
        for paths, kind, image in ((frames, "f", np.repeat(picture[:, :, None], 3, 2)), (masks, "l", label)):
            paths.append(folder / f"{kind}{t:02d}.png")
            assert cv2.imwrite(str(paths[-1]), image)
    return Video("squares", tuple(frames), tuple(masks)), labels


def test_windows_follow_each_object_and_show_it_larger(tmp_path: Path) -> None:
    video, labels = two_squares(tmp_path)
    found = tracks_of(video, labels, np.random.default_rng(0), whole=0.0, side=SIDE)
    assert {track.objects for track in found} == {(1,), (2,)}
    alone = next(track for track in found if track.objects == (1,))
    assert 1 < len(set(alone.windows)) < STEPS  # it moves, but not at every frame
    clip = seen_through(alone, SIDE)
    assert clip.labels.shape == (STEPS, SIDE, SIDE) and set(np.unique(clip.labels)) == {0, 1}
    for t in range(STEPS):
        white = clip.frames[t, :, :, 0] > 200
        assert white.any() == (t not in HIDDEN)
        assert np.count_nonzero(white != (clip.labels[t] == 1)) <= 0.1 * np.count_nonzero(white)
        assert t in HIDDEN or np.mean(white) > 3 * np.mean(labels[t] == 1)


def test_whole_frames_and_short_tracks(tmp_path: Path) -> None:
    video, labels = two_squares(tmp_path)
    rng = np.random.default_rng(0)
    for track in tracks_of(video, labels, rng, whole=1.0, side=SIDE):
        assert all(window.shares(WIDTH, HEIGHT) == (0, 0, 1, 1) for window in track.windows)
    labels[: STEPS - SHORTEST + 1] = 0
    assert tracks_of(video, labels, rng, whole=0.0, side=SIDE) == []


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
    video = Video("squares", (), ())
    for seed in range(3):
        found = tracks_of(video, labels, np.random.default_rng(seed), whole=0.0, side=SIDE, first={2, 4, 5})
        assert sorted(key for track in found for key in track.objects) == [2, 4, 5]
