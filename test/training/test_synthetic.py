"""Clips with occlusion and absence: what is labelled is what is seen, and objects really go and come back."""

import cv2
import numpy as np
import pytest

from sam2_ros.media.overlay import object_color
from sam2_ros.training.clips import Still, cutouts
from sam2_ros.training.synthetic import (
    OcclusionClips,
    SceneSettings,
    first_good_view,
    occlusion_clip,
    outlined,
    patch,
    presence_curve,
)

SIZE, STEPS = 96, 16
CALM = SceneSettings(passers=0, look_alike=0.0)


def still(color: tuple[int, int, int], name: str = "square") -> Still:
    """A square of ``color`` on grey."""
    image = np.full((120, 160, 3), 90, np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    image[40:90, 50:110], labels[40:90, 50:110] = color, 1
    return Still(name, image, labels)


RED, GREEN = still((250, 0, 0)), still((0, 250, 0), "green")
GREY = Still("grey", np.full((100, 100, 3), 90, np.uint8), np.zeros((100, 100), np.uint8))


def redness(frames: np.ndarray) -> np.ndarray:
    values = frames.astype(int)
    return values[..., 0] - values[..., 1] > 70


def test_objects_are_there_at_first_go_and_come_back() -> None:
    for seed in range(40):
        curve = presence_curve(np.random.default_rng(seed), STEPS, back=True)
        assert curve[0] == 0 and curve.max() == 1 and (curve == 1).sum() >= 2
        gone = np.flatnonzero(curve == 1)
        assert (np.diff(gone) == 1).all()
        forever = presence_curve(np.random.default_rng(seed), STEPS, back=False)
        assert forever[0] == 0 and forever[-1] == 1


def test_what_is_labelled_is_what_is_seen() -> None:
    # The occluders are grey like the ground, so that red is what is left of the object.
    hidden = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        occluder = patch(GREY.image, rng)
        clip = occlusion_clip(GREY, cutouts(RED), [occluder], rng, SIZE, STEPS, CALM)
        assert clip.frames.shape == (STEPS, SIZE, SIZE, 3) and clip.labels.shape == (STEPS, SIZE, SIZE)
        start = first_good_view(clip.labels == 1)
        assert (redness(clip.frames) != (clip.labels == 1))[start:].mean() < 0.03
        assert set(np.unique(clip.labels)) <= {0, 1}
        hidden += int(not (clip.labels == 1).any(axis=(1, 2)).all())
    assert hidden >= 4


def test_a_look_alike_is_not_the_object() -> None:
    settings = SceneSettings(passers=0, look_alike=1.0)
    unlabelled = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clip = occlusion_clip(GREY, cutouts(RED), [patch(GREY.image, rng)], rng, SIZE, STEPS, settings)
        unlabelled += int((redness(clip.frames) & (clip.labels == 0)).sum())
    assert unlabelled > 1000


def test_seed_and_number_decide() -> None:
    clips, again, other = (OcclusionClips([RED, GREEN], seed, SIZE, 8) for seed in (1, 1, 2))
    assert np.array_equal(clips[3].frames, again[3].frames) and np.array_equal(clips[3].labels, again[3].labels)
    assert not np.array_equal(clips[3].frames, clips[4].frames)
    assert not np.array_equal(clips[3].frames, other[3].frames)


def test_an_object_never_moves_over_the_photograph_it_was_cut_from() -> None:
    # Only the red square can be an object over the green photograph, whose own square stays unlabelled.
    clips = OcclusionClips([RED, GREEN], 0, SIZE, 8, settings=CALM)
    for index in range(12):
        clip = clips[index]
        over_green = clip.name.startswith("green")
        values = clip.frames[clip.labels > 0].astype(int)
        if len(values) < 50:
            continue
        reddish = (values[:, 0] > values[:, 1]).mean()
        assert reddish > 0.8 if over_green else reddish < 0.2


def test_photographs_without_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="2 photographs with 0 usable objects; accepted"):
        OcclusionClips([GREY, GREY], 0, SIZE, 8)


def test_outlines_have_the_colours_of_their_objects_and_nothing_else_changes() -> None:
    frame = np.full((40, 60, 3), 90, np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[5:20, 5:25], labels[10:35, 35:55] = 1, 2
    picture = outlined(frame, labels)
    assert (frame == 90).all(), "a copy"
    expected = frame.copy()
    for value in (1, 2):
        inside = labels == value
        edge = inside & ~cv2.erode(inside.astype(np.uint8), np.ones((3, 3))).astype(bool)
        expected[edge] = object_color(value)
    assert np.array_equal(picture, expected)


def test_an_object_is_labelled_from_its_first_good_view_on() -> None:
    masks = np.zeros((6, 10, 10), np.bool_)
    masks[1, 0, :2] = masks[2, :2] = masks[3, :2] = masks[4, :1] = True
    assert first_good_view(masks) == 2
    assert first_good_view(masks[:1]) == 1
    starts = []
    for index in range(30):
        clip = OcclusionClips([RED, GREEN], 3, SIZE, STEPS)[index]
        for value in np.unique(clip.labels)[1:]:
            areas = (clip.labels == value).sum(axis=(1, 2))
            first = np.flatnonzero(areas)[0]
            assert areas[first] >= 0.5 * np.median(areas[areas > 0])
            starts.append(first)
    assert max(starts) > 0
