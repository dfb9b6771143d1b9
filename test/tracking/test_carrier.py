"""Masks carried to images that the network has not seen, on scenes whose motion is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import textures
from numpy.typing import NDArray
from textures import background, texture

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.tracking import carrier, colour_model, flow_window
from sam2_ros.tracking.carried_object import CarriedObject
from sam2_ros.tracking.carrier import Carried, MaskCarrier
from sam2_ros.tracking.colour_model import ColourModel
from sam2_ros.tracking.flow_window import Pyramid
from sam2_ros.tracking.image_motion import ImageMotion, Step
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
WIDTH, HEIGHT = 320, 240
PERIOD = 33_000_000  # ns


@dataclass(frozen=True)
class Patch:
    """A textured rectangle that moves by ``(dx, dy)`` pixels an image."""

    x: float
    y: float
    dx: float
    dy: float
    seed: int
    width: int = 60
    height: int = 40

    def place(self, image: int) -> tuple[int, int]:
        return round(self.x + image * self.dx), round(self.y + image * self.dy)


class Scene:
    """Patches over a background that stands."""

    def __init__(self, *patches: Patch, seed: int = 1, scale: int = 1) -> None:
        self.patches, self.scale = patches, scale
        self.background = background(seed, WIDTH, HEIGHT)

    def image(self, number: int) -> Image:
        picture = self.background.copy()
        for patch in self.patches:
            x, y = patch.place(number)
            picture[y : y + patch.height, x : x + patch.width] = textures.patch(patch.seed, patch.width, patch.height)
        return np.ascontiguousarray(picture.repeat(self.scale, 0).repeat(self.scale, 1))

    def mask(self, number: int, index: int = 0) -> Mask:
        mask = np.zeros((HEIGHT, WIDTH), np.bool_)
        patch = self.patches[index]
        x, y = patch.place(number)
        mask[y : y + patch.height, x : x + patch.width] = True
        return np.asarray(mask.repeat(self.scale, 0).repeat(self.scale, 1))

    def answer(self, number: int, *hidden: int) -> FrameResult:
        """What a perfect network says of an image; objects are numbered from 1."""
        objects = []
        for index in range(len(self.patches)):
            mask = self.mask(number, index) & (index + 1 not in hidden)
            state = ObjectState.OCCLUDED if index + 1 in hidden else ObjectState.VISIBLE
            objects.append(ObjectResult(index + 1, CroppedMask.from_full(mask), state, 3.0, 0.9, 0.8, number == 0))
        return FrameResult(number, number * PERIOD, WIDTH * self.scale, HEIGHT * self.scale, tuple(objects))


def play(scene: Scene, images: int, answers: dict[int, int], into: MaskCarrier | None = None) -> MaskCarrier:
    """Adds images 0 … ``images`` - 1; ``answers`` gives the network's image that is answered after each."""
    played = into or MaskCarrier()
    for number in range(images):
        played.add_image(scene.image(number), number * PERIOD)
        if number in answers:
            played.update(scene.answer(answers[number]))
    return played


def newest(played: MaskCarrier) -> Carried:
    found = played.carried()
    assert found is not None
    return found


def test_nothing_is_carried_before_the_first_answer() -> None:
    assert MaskCarrier().carried() is None
    assert play(Scene(Patch(40, 60, 4, 1, 2)), 3, {}).carried() is None


def test_an_answer_for_the_newest_image_is_given_as_it_is() -> None:
    scene = Scene(Patch(40, 60, 4, 1, 2))
    found = newest(play(scene, 1, {0: 0}))
    assert (found.network_stamp, found.frames, found.confidence, found.too_late) == (0, 0, {1: 1.0}, False)
    (obj,) = found.result.objects
    assert obj.prompted and np.array_equal(obj.mask.full(), scene.mask(0))


@pytest.mark.parametrize("scale", [1, 5])
def test_a_late_answer_follows_the_object(scale: int) -> None:
    scene = Scene(Patch(40, 60, 5, 2, 2), scale=scale)
    found = newest(play(scene, 8, {5: 2}))
    (obj,) = found.result.objects
    assert (found.result.stamp, found.network_stamp, found.frames) == (7 * PERIOD, 2 * PERIOD, 5)
    assert (obj.mask.width, obj.mask.height) == (WIDTH * scale, HEIGHT * scale)
    stale = jaccard(scene.mask(2), scene.mask(7))
    assert stale < 0.4, "it has moved by 25 pixels of 60"
    assert jaccard(obj.mask.full(), scene.mask(7)) > 0.9
    assert 0.9 < found.confidence[1] <= 1
    assert not obj.prompted, "the prompt was on another image"
    assert (obj.state, obj.object_score, obj.predicted_iou) == (ObjectState.VISIBLE, 3.0, 0.8)


@pytest.mark.parametrize("speed", [32, 38])
def test_a_late_answer_tells_how_fast_an_object_is(speed: int) -> None:
    """It moves by more than itself between two images, in which the answers are one image apart."""
    scene = Scene(Patch(2, 60, speed, 0, 2, 30, 24))
    (obj,) = newest(play(scene, 5, {1: 0, 4: 1})).result.objects
    assert jaccard(obj.mask.full(), scene.mask(4)) > 0.9


def test_objects_that_cross_are_followed_each_on_its_own() -> None:
    scene = Scene(Patch(40, 40, 6, 0, 2), Patch(220, 140, -6, 0, 3), Patch(150, 100, 0, -3, 4, 30, 20))
    found = newest(play(scene, 7, {4: 1}))
    for index, obj in enumerate(found.result.objects):
        assert jaccard(obj.mask.full(), scene.mask(6, index)) > 0.85, index


def test_each_answer_takes_the_place_of_the_one_before() -> None:
    scene = Scene(Patch(40, 60, 4, 0, 2), Patch(200, 150, 0, 0, 3))
    played = play(scene, 6, {3: 0, 5: 3})
    assert newest(played).network_stamp == 3 * PERIOD
    played.update(FrameResult(3, 3 * PERIOD, WIDTH, HEIGHT, scene.answer(3).objects[:1]))
    assert [obj.object_id for obj in newest(played).result.objects] == [1], "the other one was removed"


def test_a_hidden_object_has_no_mask() -> None:
    scene = Scene(Patch(40, 60, 4, 0, 2), Patch(200, 150, 0, 0, 3))
    played = play(scene, 4, {})
    played.update(scene.answer(2, 2))
    seen, hidden = newest(played).result.objects
    assert seen.mask.area
    assert (hidden.state, hidden.mask.area) == (ObjectState.OCCLUDED, 0)
    assert newest(played).confidence[2] == 0


def test_after_a_cut_no_mask_of_the_old_scene_is_shown() -> None:
    old, new = Scene(Patch(40, 60, 4, 0, 2), seed=1), Scene(Patch(160, 90, 4, 0, 8), seed=7)
    played = play(old, 4, {2: 1})
    played.add_image(new.image(4), 4 * PERIOD)
    assert [obj.mask.area for obj in newest(played).result.objects] == [0]
    played.update(old.answer(3))
    assert [obj.mask.area for obj in newest(played).result.objects] == [0], "the answer is of the old scene"
    assert newest(played).network_stamp == 3 * PERIOD, "but ids and states are its"
    played.add_image(new.image(5), 5 * PERIOD)
    played.update(new.answer(4))
    (obj,) = newest(played).result.objects
    assert jaccard(obj.mask.full(), new.mask(5)) > 0.9


def test_another_size_and_a_jump_back_are_new_scenes() -> None:
    scene = Scene(Patch(40, 60, 4, 0, 2))
    played = play(scene, 4, {2: 1})
    played.add_image(np.ascontiguousarray(scene.image(4)[:200]), 4 * PERIOD)
    (obj,) = newest(played).result.objects
    assert (obj.mask.area, obj.mask.width, obj.mask.height) == (0, WIDTH, 200)
    played = play(scene, 4, {2: 1})
    played.add_image(scene.image(1), 1 * PERIOD)
    assert newest(played).result.objects[0].mask.area == 0


def test_a_mask_is_not_carried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "KEPT_SECONDS", 0.2)
    scene = Scene(Patch(40, 60, 0, 0, 2))
    played = play(scene, 10, {1: 0})
    assert newest(played).result.objects[0].mask.area == 0, "0.297 s"
    assert newest(play(scene, 7, {1: 0})).result.objects[0].mask.area, "0.198 s"


@pytest.mark.parametrize(("later", "carried"), [(200_000_000, True), (200_000_001, False)])
def test_a_mask_is_carried_for_so_long_exactly(later: int, carried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "KEPT_SECONDS", 0.2)
    scene = Scene(Patch(40, 60, 0, 0, 2))
    played, asked = play(scene, 1, {0: 0}), play(scene, 1, {})
    asked.ask(scene.answer(0).objects[0], 0)
    for each in (played, asked):
        each.add_image(scene.image(1), later)
        assert bool(newest(each).result.objects[0].mask.area) == carried


def test_a_stamp_that_comes_twice_is_a_new_scene() -> None:
    scene = Scene(Patch(40, 60, 4, 1, 2))
    played = play(scene, 4, {2: 1})
    played.add_image(scene.image(4), 3 * PERIOD)
    assert newest(played).result.objects[0].mask.area == 0


def test_the_mask_of_a_prompt_has_the_images_size_and_a_kept_stamp() -> None:
    scene, large = Scene(Patch(40, 60, 4, 1, 2)), Scene(Patch(40, 60, 4, 1, 2), scale=2)
    played = play(scene, 2, {})
    (obj,), (other,) = scene.answer(0).objects, large.answer(0).objects
    for wrong, stamp in ((other, 0), (obj, 5), (replace(obj, mask=CroppedMask.empty(WIDTH, HEIGHT + 1)), 0)):
        played.ask(wrong, stamp)
        assert played.carried() is None
    played.ask(obj, 0)
    assert newest(played).frames == 1 and newest(played).network_stamp == 0


@pytest.mark.parametrize(
    ("width", "height", "factor"), [(1000, 1000, 1), (1001, 1000, 2), (2000, 2000, 2), (2001, 2000, 3)]
)
def test_images_are_reduced_by_the_least_whole_factor(width: int, height: int, factor: int) -> None:
    """To a million pixels."""
    played = MaskCarrier()
    played.add_image(np.zeros((height, width, 3), np.uint8), 0)
    (step,) = played._steps.values()
    assert step.image.shape[:2] == (height // factor, width // factor)


@pytest.mark.parametrize(("width", "height", "factor"), [(6, 4, 2), (9, 7, 2), (9, 7, 3), (11, 10, 3), (8, 8, 4)])
def test_a_reduced_image_has_every_nth_pixel(width: int, height: int, factor: int) -> None:
    """Of a whole array and of one whose rows lie further apart; what is left over at the edges is left out."""
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    padded = np.full((height, width + 5, 3), 255, np.uint8)
    padded[:, :width] = image
    rows, columns = height // factor * factor, width // factor * factor
    for given in (image, padded[:, :width]):
        np.testing.assert_array_equal(carrier.reduced_image(given, factor), image[:rows:factor, :columns:factor])
    assert carrier.reduced_image(image, factor)[1, 1].tolist() == [3 * factor * (width + 1) + n for n in range(3)]


@pytest.mark.parametrize(("scale", "kept"), [(1, 61), (8, 46)])  # 2 s; 96 MiB
def test_images_are_kept_within_bounds(scale: int, kept: int) -> None:
    played = MaskCarrier()
    scene = Scene(Patch(40, 60, 1, 0, 2), scale=scale)
    for number in range(70):
        played.add_image(scene.image(number % 3), number * PERIOD)
    steps = list(played._steps.values())
    assert len(steps) == kept
    assert max(step.image.shape[0] * step.image.shape[1] for step in steps) <= carrier.WORK_PIXELS


def test_an_answer_for_an_image_that_is_no_longer_kept_is_called_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "KEPT_BYTES", 4 * WIDTH * HEIGHT * 4)
    scene = Scene(Patch(40, 60, 1, 0, 2))
    late = newest(play(scene, 8, {7: 3}))
    assert late.too_late and not late.result.objects[0].mask.area
    kept = newest(play(scene, 8, {7: 4}))
    assert not kept.too_late and kept.result.objects[0].mask.area


def test_an_answer_of_another_size_is_not_called_too_late() -> None:
    """Its image is kept, though the answer is not of use."""
    played = play(Scene(Patch(40, 60, 4, 1, 2)), 2, {})
    played.update(Scene(Patch(40, 60, 4, 1, 2), scale=2).answer(0))
    found = newest(played)
    assert not found.too_late and not found.result.objects[0].mask.area


def test_the_flow_of_an_object_costs_the_less_the_less_surrounds_it() -> None:
    """Its own box has 10,000 samples at most, and its margins as many to an area."""
    step = Step(1, 1, Pyramid(texture(1, 640, 480)), Pyramid(texture(1, 640, 480)))
    large, small = (140, 90, 540, 390), (300, 200, 360, 240)  # grown to 520 x 390 and 108 x 88
    motion = ImageMotion()
    motion.measure(step, [(large, np.zeros(2, np.float32))], 20_000)
    motion.measure(step, [(small, np.zeros(2, np.float32))], 20_000)
    most, few = (4 * window.width * window.height for window, _ in step.flows)
    assert most == pytest.approx(10_000 * 520 * 390 / (400 * 300), rel=0.02)
    assert few == pytest.approx(108 * 88, rel=0.05), "one for each pixel"


def test_the_flow_costs_the_same_for_any_image_and_number_of_objects() -> None:
    patches = [Patch(20 + 70 * (n % 4), 10 + 55 * (n // 4), 1, 0, n, 30, 20) for n in range(16)]
    for scene in (Scene(patches[0]), Scene(*patches), Scene(*patches, scale=6)):
        played = play(scene, 3, {1: 0})
        step = list(played._steps.values())[-1]
        assert 0 < sum(4 * window.width * window.height for window, _ in step.flows) < 1.2 * carrier.FLOW_SAMPLES


@pytest.mark.parametrize(("width", "height", "box"), [(161, 121, (0, 0, 161, 121)), (640, 479, (7, 3, 640, 479))])
def test_a_window_of_any_box_shows_what_lies_there(width: int, height: int, box: flow_window.Box) -> None:
    """A ramp: what a sample shows tells where it lies, also at the edge of an image of odd sides."""
    ramp = np.linspace(0, 255, width)[None, :, None] + np.zeros((height, 1, 3))
    window = flow_window.FlowWindow.of(box, 3_000)
    assert window.level >= 1 and flow_window.contains(window.box, box)
    seen = window.sample(flow_window.Pyramid(ramp.round().astype(np.uint8)))[..., 0]
    expected = np.clip(window.points[..., 0] * 255 / (width - 1), 0, 255)
    assert np.abs(seen - expected)[1:-1, 1:-1].max() < 2
    moved = window.shifted(-1e4, 1e4, (height, width))
    assert moved.box[0] == 0 and moved.box[3] >= height > moved.box[1]


def test_the_flow_is_exact_to_a_part_of_a_pixel() -> None:
    smooth = cv2.GaussianBlur(background(3, WIDTH, HEIGHT), (0, 0), 2)
    shift = np.array([[1, 0, 3.125], [0, 1, 0]])
    moved = cv2.warpAffine(smooth, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    step = Step(1, 1, Pyramid(moved), Pyramid(smooth))
    found = ImageMotion().around(step, (100, 80, 220, 160), np.zeros(2, np.float32), 20_000)
    assert found is not None
    inside = found[1][8:-8, 8:-8]
    assert np.abs(np.median(inside, axis=(0, 1)) - (-3.125, 0)).max() < 0.07


@pytest.mark.parametrize("box", [(0, 0, 97, 71), (3, 5, 93, 80), (40, 20, 100, 75)])
@pytest.mark.parametrize("factor", [1, 3])
def test_a_mask_is_enlarged_where_it_is_as_the_whole_window_would_be(box: flow_window.Box, factor: int) -> None:
    """Blobs of any size and place, also at the edges of the window; it may reach over the image by a few pixels."""
    width, height = 98 * factor + 1, 77 * factor + 2
    given = CroppedMask.from_full(np.ones((height, width), np.bool_))
    obj = CarriedObject.of(given, Pyramid(np.zeros((77, 98, 3), np.uint8)), factor, 2_000)
    assert obj is not None
    window = flow_window.FlowWindow.of(box, 2_000)
    x0, y0, x1, y1 = (factor * edge for edge in window.box)
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(0, 1, (window.height, window.width)).astype(np.float32)
        level = cv2.GaussianBlur(noise, (0, 0), 1 + seed / 2) * np.float32(2 + seed) - np.float32(0.3)
        signs = (np.clip(level, -1, 1) * 127 + 128).astype(np.uint8)
        large = cv2.resize(signs, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) > 128
        expected = np.zeros((height, width), np.bool_)
        part = large[: height - y0, : width - x0]
        expected[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
        found = obj._in_camera_pixels(level, window)
        np.testing.assert_array_equal(found.full(), expected)
        assert found.area and found.box == CroppedMask.from_full(expected).box
    assert not obj._in_camera_pixels(np.full_like(level, -0.5), window).area


def test_samples_lie_at_an_even_pitch() -> None:
    points = flow_window.grid(3, 2, (1.5, 2.0), (10.0, -1.0))
    assert points.tolist() == [[[10, -1], [11.5, -1], [13, -1]], [[10, 1], [11.5, 1], [13, 1]]]
    assert flow_window.grid(130, 2)[1, 129].tolist() == [129, 1]
    window = flow_window.FlowWindow((10, 20, 40, 60), 20, 10, 0)  # a sample is 1.5 x 4 pixels
    assert window.points[0, 0].tolist() == [10.25, 21.5]  # cv2 counts pixels from their centres: 10 + 1.5 / 2 - 0.5
    assert window.points[9, 19].tolist() == [10.25 + 19 * 1.5, 21.5 + 9 * 4]


def test_a_colour_counts_for_its_neighbours_too() -> None:
    """A cell is 16 levels of each channel; smoothed with 1 2 1 along each, at the edge with the cell itself."""
    pixels = np.array([[[255, 16, 128], [0, 15, 31]]], np.uint8)
    assert colour_model._cells(pixels).tolist() == [[15 << 8 | 1 << 4 | 8, 1]]
    histogram = np.zeros((16, 16, 16))
    histogram[5, 0, 7] = 64
    smooth = colour_model._smooth(histogram.ravel()).reshape(16, 16, 16)
    assert smooth[5, 0, 7] == 64 * 0.5 * 0.75 * 0.5
    assert smooth[4, 0, 7] == smooth[6, 0, 7] == smooth[5, 0, 8] == 64 * 0.25 * 0.75 * 0.5
    assert smooth[5, 1, 7] == 64 * 0.5 * 0.25 * 0.5 and smooth[5, 2, 7] == 0
    assert smooth.sum() == 64


def test_colours_bring_back_what_the_flow_missed() -> None:
    """Between two images the object grows, which no motion of it explains."""
    red = np.full((120, 160, 3), (40, 40, 200), np.uint8)
    small, large = red.copy(), red.copy()
    small[40:80, 60:100] = large[36:84, 56:104] = (200, 40, 40)
    mask = np.zeros((120, 160), np.bool_)
    mask[40:80, 60:100] = True
    played = MaskCarrier()
    played.add_image(small, 0)
    played.update(
        FrameResult(0, 0, 160, 120, (ObjectResult(1, CroppedMask.from_full(mask), ObjectState.VISIBLE, 1, 1, 1, True),))
    )
    played.add_image(large, PERIOD)
    grown = np.zeros_like(mask)
    grown[36:84, 56:104] = True
    assert jaccard(newest(played).result.objects[0].mask.full(), grown) > 0.97 > jaccard(mask, grown)


def test_colours_that_tell_nothing_have_no_weight() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[20:40, 30:50] = True
    plain = np.full((60, 80, 3), 90, np.uint8)
    model = ColourModel.of(plain, mask)
    assert model is not None and model.weight == 0
    two = plain.copy()
    two[mask] = (200, 30, 30)
    model = ColourModel.of(two, mask)
    assert model is not None and model.weight > 0.8
    evidence = model.evidence(two)
    assert evidence[30, 40] > 1 and evidence[5, 5] < -1
    assert ColourModel.of(plain, np.zeros_like(mask)) is None
    assert ColourModel.of(plain, np.ones_like(mask)) is None


def test_the_mask_of_a_prompt_is_carried_until_the_network_answers() -> None:
    scene = Scene(Patch(40, 60, 4, 0, 2), Patch(200, 150, -3, 0, 3))
    first, second = scene.answer(0).objects
    played = play(scene, 1, {})
    played.ask(first, 0)
    assert np.array_equal(newest(played).result.objects[0].mask.full(), scene.mask(0))
    played.add_image(scene.image(1), PERIOD)
    played.add_image(scene.image(2), 2 * PERIOD)
    found = newest(played)
    assert (found.network_stamp, found.frames) == (0, 2)
    assert jaccard(found.result.objects[0].mask.full(), scene.mask(2)) > 0.9
    played.ask(replace(second, mask=scene.answer(1).objects[1].mask), PERIOD)  # in an image that has passed
    played.update(FrameResult(0, 0, WIDTH, HEIGHT, (first,)))
    for index, obj in enumerate(newest(played).result.objects):
        assert jaccard(obj.mask.full(), scene.mask(2, index)) > 0.85, "the answer is older than the second prompt"
    played.update(FrameResult(1, PERIOD, WIDTH, HEIGHT, scene.answer(1).objects[:1]))
    assert [obj.object_id for obj in newest(played).result.objects] == [1], "the network has refused it"
    played.ask(second, 3 * PERIOD)
    assert len(newest(played).result.objects) == 1, "no such image"


def test_the_mask_of_a_prompt_ages_from_its_own_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does it stay without an answer, nor does it go with an old one."""
    monkeypatch.setattr(carrier, "KEPT_SECONDS", 0.2)
    scene = Scene(Patch(40, 60, 0, 0, 2), Patch(200, 150, 0, 0, 3))
    first, second = scene.answer(0).objects
    played = play(scene, 1, {})
    played.ask(first, 0)
    for number in range(1, 10):
        played.add_image(scene.image(number), number * PERIOD)
    assert newest(played).result.objects[0].mask.area == 0, "0.297 s"

    played = play(scene, 1, {})
    played.update(FrameResult(0, 0, WIDTH, HEIGHT, (first,)))
    for number in range(1, 10):
        played.add_image(scene.image(number), number * PERIOD)
        if number == 5:
            played.ask(second, number * PERIOD)
    old, asked = newest(played).result.objects
    assert old.mask.area == 0 and jaccard(asked.mask.full(), scene.mask(9, 1)) > 0.9


def test_an_answer_may_come_before_its_image() -> None:
    """A fast engine answers while the image still waits here."""
    scene = Scene(Patch(40, 60, 4, 1, 2))
    played = play(scene, 3, {1: 0})
    played.update(scene.answer(4))
    played.add_image(scene.image(3), 3 * PERIOD)
    found = newest(played)
    assert (found.network_stamp, found.frames) == (0, 3), "the answer before is carried on meanwhile"
    assert jaccard(found.result.objects[0].mask.full(), scene.mask(3)) > 0.9
    played.add_image(scene.image(4), 4 * PERIOD)
    found = newest(played)
    assert (found.network_stamp, found.frames) == (4 * PERIOD, 0)
    assert np.array_equal(found.result.objects[0].mask.full(), scene.mask(4))
    first = MaskCarrier()
    first.update(scene.answer(0))
    first.add_image(scene.image(0), 0)
    assert newest(first).frames == 0 and newest(first).result.objects[0].mask.area, "also the first one of all"
    first.update(scene.answer(1))
    assert newest(first).result.stamp == 0, "it is not taken for one of the image that is here"


def test_the_image_of_an_answer_may_be_left_out() -> None:
    """The masks of the answer before are carried on, but ids and states are those of the newest."""
    scene = Scene(Patch(40, 60, 4, 1, 2), Patch(200, 150, 0, 0, 3))
    played = play(scene, 3, {1: 0})
    played.add_image(scene.image(4), 4 * PERIOD)
    played.update(scene.answer(3, 2))
    seen, hidden = newest(played).result.objects
    assert newest(played).network_stamp == 0
    assert jaccard(seen.mask.full(), scene.mask(4)) > 0.85
    assert (hidden.state, hidden.mask.area) == (ObjectState.OCCLUDED, 0)


def test_a_command_moves_no_mask_however_old_the_answer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "KEPT_BYTES", 8 * WIDTH * HEIGHT * 4)
    scene = Scene(Patch(40, 60, 1, 0, 2), Patch(200, 150, 0, 0, 3))
    images = 18
    played = play(scene, images, {1: 0})
    before = newest(played)
    assert before.frames == images - 1, "also of images that are no longer kept"
    played.update(FrameResult(0, 0, WIDTH, HEIGHT, scene.answer(0).objects[:1]))
    (obj,) = newest(played).result.objects
    assert np.array_equal(obj.mask.full(), before.result.objects[0].mask.full())
    assert jaccard(obj.mask.full(), scene.mask(images - 1)) > 0.85
    assert newest(played).confidence == {1: before.confidence[1]}
    assert not newest(played).too_late, "its image was there when the network answered for it first"


def test_an_answer_of_another_size_than_its_image_carries_nothing() -> None:
    """Where stamps stand still, an answer may find another image of its stamp."""
    played = MaskCarrier()
    scene = Scene(Patch(40, 60, 4, 0, 2))
    played.add_image(scene.image(0)[:100, :100].copy(), 0)
    played.update(scene.answer(0))
    (obj,) = newest(played).result.objects
    assert (obj.mask.area, obj.mask.width, obj.mask.height) == (0, 100, 100)


@pytest.mark.parametrize(("width", "height"), [(1, 200), (200, 1), (1, 1), (3, 2)])
def test_the_smallest_images_are_carried_too(width: int, height: int) -> None:
    played = MaskCarrier()
    image = texture(1, 200, 200)[:height, :width].copy()
    mask = CroppedMask.from_full(np.ones((height, width), np.bool_))
    obj = ObjectResult(1, mask, ObjectState.VISIBLE, 3.0, 0.9, 0.8, False)
    for stamp in range(3):
        played.add_image(image, stamp)
        if stamp == 1:
            played.update(FrameResult(0, 0, width, height, (obj,)))
    (carried,) = newest(played).result.objects
    assert (carried.mask.width, carried.mask.height) == (width, height)
    assert carried.mask.area > 0
