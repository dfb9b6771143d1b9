"""Where objects lie after the camera moved, on pictures of known motion."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import textures
from numpy.typing import NDArray
from small_tracker import small_model

from sam2_ros.tracking import ObjectState, Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.camera_motion import LARGEST_SCALE, STANDING, Box, CameraMotion, Motion
from sam2_ros.tracking.mask_follower import MaskFollower
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.types import CroppedMask
from sam2_ros.tracking.windows import Frame

Image = NDArray[np.uint8]
SIZE = WIDTH, HEIGHT = 640, 480
# Large and small spots, as of wood or of a cloth.
TABLE = textures.background(3, 1600, 1200) // 2 + cv2.resize(textures.patch(2, 100, 76), (1600, 1200)) // 2
LEFT, TOP = 480, 360  # of the first view


def view(x: float, y: float = 0, turn: float = 0, scale: float = 1) -> Image:
    """The table as a camera sees it that moved right by ``x`` pixels and down by ``y``, turned by ``turn`` degrees
    about the middle of its picture, and came nearer."""
    matrix = cv2.getRotationMatrix2D((LEFT + x + WIDTH / 2, TOP + y + HEIGHT / 2), turn, scale)
    matrix[:, 2] -= (LEFT + x, TOP + y)
    return np.asarray(cv2.warpAffine(TABLE, matrix, SIZE), np.uint8)


def measured(first: Image, second: Image, things: tuple[Box, ...] = ()) -> Motion:
    camera = CameraMotion()
    assert camera.follow(first, 4, things) is STANDING
    return camera.follow(second, 5, things)


def moved(motion: Motion, box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Middle, width and height (``[4]``), pixels."""
    x0, y0, x1, y1 = box
    edges = np.array(motion.moved((x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT))).reshape(2, 2) * SIZE
    return np.concatenate((edges.mean(axis=0), edges[1] - edges[0]))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (9, -4), (100, 40)])
def test_what_stands_moves_against_the_camera(x: float, y: float) -> None:
    found = moved(measured(view(0), view(x, y)), (300, 200, 340, 260))
    assert np.abs(found - (320 - x, 230 - y, 40, 60)).max() < 1.5


def test_a_turn_and_a_step_nearer() -> None:
    """About the middle of the picture, (320, 240): what is 200 pixels right of it goes up, and becomes larger."""
    found = moved(measured(view(0), view(0, turn=10, scale=1.1)), (500, 220, 540, 260))
    turned = 1.1 * 200 * np.array([np.cos(np.radians(10)), -np.sin(np.radians(10))])
    assert np.abs(found[:2] - (320, 240) - turned).max() < 2 and np.abs(found[2:] - 44).max() < 1


def test_what_moves_by_itself_does_not_count() -> None:
    """A thing that covers half of the picture moves left, the table right."""
    first, second = view(0), view(-20)
    cover = textures.patch(4, 400, 400)
    first[40:440, 200:600], second[40:440, 170:570] = cover, cover
    thing = (200 / WIDTH, 40 / HEIGHT, 600 / WIDTH, 440 / HEIGHT)
    assert abs(moved(measured(first, second, (thing,)), (50, 50, 90, 90))[0] - 90) < 1.5


def test_the_camera_is_taken_to_stand_where_its_motion_can_not_be_told() -> None:
    flat, other = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), textures.texture(9, WIDTH, HEIGHT)
    assert measured(flat, flat) is STANDING, "nothing to follow"
    assert measured(view(0), other) is STANDING, "another scene"
    assert measured(view(0), view(5)[:240]) is STANDING, "another size"
    assert measured(view(0), view(5), ((0.0, 0.0, 1.0, 1.0),)) is STANDING, "a thing is everywhere"
    camera = CameraMotion()
    assert camera.follow(view(0), 0, []) is STANDING, "the first frame"
    assert camera.follow(view(5), 2, []) is STANDING, "a frame is missing"
    assert camera.follow(view(10), 3, None) is STANDING, "not needed"
    assert camera.follow(view(15), 4, []) is not STANDING


def test_where_the_camera_stands_errors_do_not_add_up() -> None:
    camera, noise = CameraMotion(), np.random.default_rng(0)
    for frame in range(20):
        noisy = np.clip(view(0) + noise.normal(0, 4, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
        assert camera.follow(noisy, frame, []) is STANDING


def test_a_slow_motion_is_followed() -> None:
    """To a tenth of it."""
    camera, place = CameraMotion(), (0.4, 0.4, 0.5, 0.5)
    for frame in range(40):
        place = camera.follow(view(frame), frame, []).moved(place)
    assert np.abs(np.array(place[:2]) * SIZE - (0.4 * WIDTH - 39, 0.4 * HEIGHT)).max() < 4


def test_sizes_change_by_steps_and_nothing_comes_from_beyond_the_horizon() -> None:
    box = (0.4, 0.4, 0.6, 0.6)
    x0, _, x1, _ = Motion(np.diag([3.0, 3.0, 1.0])).moved(box)
    assert x1 - x0 == pytest.approx(0.2 * LARGEST_SCALE)
    behind = np.eye(3)
    behind[2] = (-3, 0, 1)
    assert Motion(behind).moved(box) == box


@pytest.mark.parametrize("scale", [1.05, 0.95])
def test_places_stay_numbers_however_long_the_camera_drives(scale: float) -> None:
    """Along a corridor, past something that is never seen again."""
    motion, box = Motion(np.diag([scale, scale, 1.0])), (0.6, 0.6, 0.7, 0.7)
    for _ in range(20_000):
        box = motion.moved(box)
    assert np.isfinite(box).all() and box[0] <= box[2]
    edges = np.array(box).reshape(2, 2) * SIZE
    Frame(*SIZE, 256).window((edges[0, 0], edges[0, 1], edges[1, 0], edges[1, 1]))


def test_places_are_taken_along() -> None:
    obj, motion = LiveObject(1, 0, "", "", 0.0, 0), Motion(np.array([[1, 0, 0.1], [0, 1, 0], [0, 0, 1.0]]))
    obj.box, obj.trail = (100, 100, 140, 120), obj.trail.seen(3, (0.5, 0.5, 0.6, 0.6), 0.01)
    obj.follow_camera(motion, *SIZE)
    obj.follow_camera(STANDING, *SIZE)
    assert obj.box == pytest.approx((164, 100, 204, 120))
    assert obj.trail.boxes[-1] == pytest.approx((0.6, 0.5, 0.7, 0.6)) and obj.trail.frames == (3,)


def test_a_mask_is_carried_with_a_camera_that_starts_to_move() -> None:
    """It is at rest, and 100 pixels further on the next frame: more than optical flow finds by itself."""
    first, second = view(0), view(100)
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[200:230, 300:340] = True
    masks = []
    for motion in (STANDING, measured(first, second)):
        follower, obj = MaskFollower(), LiveObject(1, 0, "", "", 0.0, 0)
        obj.mask, obj.presence = CroppedMask.from_full(mask), replace(obj.presence, frame=0)
        for frame, image in enumerate((first, second)):
            follower.add_image(image, frame, SIZE)
        masks.append(follower.carry([obj], motion).get(1))
    assert masks[0] is None or masks[0].mask.box[0] > 220
    assert masks[1] is not None and np.abs(np.array(masks[1].mask.box) - (200, 200, 240, 230)).max() <= 3


def hidden_at(steps: int, late: bool = False) -> tuple[float, ...]:
    """Where an object is expected that was hidden on frame 1, ``steps`` frames later, while the camera moves right by
    20 pixels a frame. ``late``: it was said afterwards that it is hidden."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, window="on", history=steps + 1))
    hide = PromptRequest(Prompt(mask=np.zeros((HEIGHT, WIDTH), np.bool_)), 1)
    tracker.step(view(0), 1)
    assert tracker.add([PromptRequest(Prompt(box=np.array([300, 200, 340, 240], np.float32)))])[0].success
    place = tracker._objects[1].box
    assert place is not None
    for step in range(steps + 1):
        if step == 1 and not late:
            assert tracker.add([hide], 2)[0].success
        with pytest.MonkeyPatch.context() as patch:
            if step or late:
                patch.setattr(type(tracker.model), "present", lambda self, score, iou: score > 1e9)
            tracker.step(view(20 * step), 2 + step)
    if late:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(tracker.model), "present", lambda self, score, iou: score > 1e9)
            assert tracker.add([hide], 2)[0].success
    obj = tracker._objects[1]
    assert obj.state is not ObjectState.VISIBLE and obj.box is not None
    window = obj.window
    assert window is not None and window.holds(obj.box)
    return tuple(np.subtract(obj.box, place).tolist())


@pytest.mark.parametrize("late", [False, True])
def test_a_hidden_object_is_looked_for_where_it_lies_on_the_table(late: bool) -> None:
    """The masks of the small network are noise; so are the boxes around them, up to the first frame."""
    away = np.array(hidden_at(6, late)) - np.array(hidden_at(0, late))
    assert np.abs(away - (-120, 0, -120, 0)).max() < 4


def test_a_correction_after_the_next_frame_was_encoded_follows_the_camera_to_it() -> None:
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, window="on"))
    tracker.step(view(0), 1)
    assert tracker.add([PromptRequest(Prompt(box=np.array([300, 200, 340, 240], np.float32)))])[0].success
    encoded = tracker.encode(view(20))
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[100:140, 200:260] = True
    assert tracker.add([PromptRequest(Prompt(mask=mask), 1)])[0].success
    obj = tracker._objects[1]
    before = obj.box
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tracker.model), "present", lambda self, score, iou: score > 1e9)
        tracker.step(encoded, 2)
    assert obj.state is not ObjectState.VISIBLE and before is not None and obj.box is not None
    assert np.abs(np.subtract(obj.box, before) - (-20, 0, -20, 0)).max() < 1.5
    (place,) = obj.trail.boxes
    assert place == pytest.approx(np.array(obj.box) / [*SIZE, *SIZE], abs=0.02)
