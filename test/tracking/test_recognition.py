"""Recognition by appearance: the tracker hides masks that drifted, and finds hidden objects again."""

from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.network import ImageFeatures
from sam2_ros.tracking import ObjectState, Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.recognition import look_for

SIDE = 448
SIZE = 100


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return load_model("embedded")


KINDS = {"blue": ((50, 90, 210), 8), "grey": ((120, 120, 60), 30)}  # colour, grains along a side


def mottled(color: tuple[int, ...], size: int, grain: int, seed: int) -> NDArray[np.float64]:
    """A patch whose brightness wavers."""
    coarse = np.random.default_rng(seed).uniform(0.5, 1.5, (grain, grain))
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None] * np.array(color, np.float64)


def frame(*things: tuple[str, int, int]) -> NDArray[np.uint8]:
    """A mottled ground with things on it: a blue square or a finer grey disc, and its left and upper edge."""
    picture = mottled((140, 135, 125), SIDE, 24, 0)
    for kind, left, top in things:
        color, grain = KINDS[kind]
        shape = np.ones((SIZE, SIZE), np.bool_)
        if kind == "grey":
            y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
            shape = x**2 + y**2 < (0.48 * SIZE) ** 2
        picture[top : top + SIZE, left : left + SIZE][shape] = mottled(color, SIZE, grain, 3)[shape]
    return picture.clip(0, 255).astype(np.uint8)


def region(left: int, top: int) -> NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[top : top + SIZE, left : left + SIZE] = True
    return mask


def looking(model: Sam2Model, value: float) -> ImageFeatures:
    """Features of which only the appearance counts."""
    grid, nothing = model.config.grid, torch.empty(0)
    look = torch.full((1, grid**2, model.config.appearance_dim), value)
    return ImageFeatures(nothing, nothing, nothing, torch.zeros(1, 3, 4 * grid, 4 * grid), look)


def started(model: Sam2Model, config: TrackerConfig) -> tuple[Tracker, int]:
    """A tracker that has seen the blue square for four frames, and its id."""
    tracker = Tracker(model, config)
    tracker.step(frame(("blue", 60, 60)), 0)
    (answer,) = tracker.add([PromptRequest(Prompt(mask=region(60, 60)))])
    for t in range(1, 4):
        tracker.step(frame(("blue", 60, 60)), t)
    return tracker, answer.object_id


def test_an_object_that_is_gone_is_not_seen_in_the_ground(model: Sam2Model) -> None:
    tracker, one = started(model, TrackerConfig(window="off", max_objects=1))
    for t in range(4, 12):
        result = tracker.step(frame(), t).object(one)
        assert result.state is ObjectState.OCCLUDED and result.visibility < 0.5
        assert result.mask.area == 0


def test_something_unlike_it_in_its_place_is_not_the_object(model: Sam2Model) -> None:
    tracker, one = started(model, TrackerConfig(window="off", max_objects=1))
    for t in range(4, 12):
        assert tracker.step(frame(("grey", 60, 60)), t).object(one).state is ObjectState.OCCLUDED


def test_an_object_that_comes_back_elsewhere_is_found(model: Sam2Model) -> None:
    tracker, one = started(model, TrackerConfig(window="off", max_objects=1))
    for t in range(4, 10):
        assert tracker.step(frame(), t).object(one).state is ObjectState.OCCLUDED
    for t in range(10, 13):
        result = tracker.step(frame(("blue", 300, 290)), t).object(one)
    assert result.state is ObjectState.VISIBLE
    assert jaccard(result.mask.full(), region(300, 290)) > 0.7


def test_a_hidden_object_is_searched_for_by_a_box_as_a_user_gives_it(model: Sam2Model) -> None:
    """Its upper left corner is prompted as such, around where the image looks like the object."""
    tracker, _ = started(model, TrackerConfig(window="off", max_objects=1))
    tracker.step(frame(("blue", 300, 290)), 4)
    newest, reference = tracker.history.newest, tracker.bank.references([0], 5)
    assert newest is not None
    (features,) = newest.features.values()
    assert features.appearance is not None and model.appearance is not None
    with torch.inference_mode(), mock.patch.object(model, "decode", wraps=model.decode) as decode:
        match = model.appearance.match(features.appearance, reference)
        found, scores, _ = look_for(model, features, match, torch.tensor([0]))
    _, _, corners, labels, _ = decode.call_args.args
    (x0, y0), (x1, y1) = (corners[0, labels[0].tolist().index(kind)].tolist() for kind in (2, 3))
    scale = model.config.image_size / SIDE
    assert x0 < 350 * scale < x1 and y0 < 340 * scale < y1
    mask = cv2.resize((found.logits[0, 0] > 0).numpy().astype(np.uint8), (SIDE, SIDE)) > 0
    assert float(scores[0]) > 0 and jaccard(mask, region(300, 290)) > 0.7


def test_what_was_not_recognised_is_not_remembered(model: Sam2Model) -> None:
    tracker, one = started(model, TrackerConfig(window="off", max_objects=1))
    before = tracker.bank.recent_frames.copy()
    for t in range(4, 8):
        tracker.step(frame(("grey", 60, 60)), t)
    assert np.array_equal(tracker.bank.recent_frames, before)
    tracker.step(frame(("blue", 60, 60)), 8)
    assert tracker.objects().object(one).state is ObjectState.VISIBLE  # type: ignore[union-attr]
    assert not np.array_equal(tracker.bank.recent_frames, before)


def test_without_recognition_the_decoder_s_score_counts(model: Sam2Model) -> None:
    frames = [frame(("blue", 60 + 5 * t, 60)) for t in range(5)]
    scores = []
    for recognition in (True, False):
        tracker = Tracker(model, TrackerConfig(window="off", max_objects=1, recognition=recognition), "float32")
        tracker.step(frames[0], 0)
        tracker.add([PromptRequest(Prompt(mask=region(60, 60)))])
        scores.append(tracker.step(frames[1], 1).objects[0].object_score)
    assert model.appearance is not None and scores[0] != scores[1]
    with torch.inference_mode():  # the same, by the network alone
        tracker = Tracker(model, TrackerConfig(window="off", max_objects=1, reference_policy=True), "float32")
        tracker.step(frames[0], 0)
        tracker.add([PromptRequest(Prompt(mask=region(60, 60)))])
        assert tracker.step(frames[1], 1).objects[0].object_score == pytest.approx(scores[1], abs=1e-4)


def test_objects_are_recognised_together_as_alone(model: Sam2Model) -> None:
    things = [("blue", 40, 60), ("grey", 280, 250)]

    def scores(which: list[int]) -> list[float]:
        tracker = Tracker(model, TrackerConfig(window="off", max_objects=2), "float32")
        tracker.step(frame(*things), 0)
        tracker.add([PromptRequest(Prompt(mask=region(*things[i][1:]))) for i in which])
        tracker.step(frame(*things), 1)
        return [one.object_score for one in tracker.step(frame(things[0]), 2).objects]  # one is gone

    together = scores([0, 1])
    assert together[0] > 0 > together[1]
    assert together == pytest.approx([*scores([0]), *scores([1])], abs=2e-2)


def test_bank_keeps_what_each_prompted_frame_looked_like(model: Sam2Model) -> None:
    config = TrackerConfig(window="off", max_objects=2, prompted_slots=2)
    bank = MemoryBank(model, config)
    cells, dim = model.config.grid**2, model.config.appearance_dim
    memory, pointer = torch.zeros(model.config.memory_grid**2, model.config.memory_dim), torch.zeros(256)
    looks = [looking(model, float(i)) for i in range(3)]
    logits = torch.full((4 * model.config.grid, 4 * model.config.grid), -1.0)
    logits[:4, :4] = 1
    for index, at in enumerate((0, 5)):
        bank.store_prompted(1, at, memory, pointer, looks[index], logits)
    early, late = bank.references([1], 5), bank.references([1], 6)
    assert early.tokens.shape == (1, cells, dim) and late.tokens.shape == (1, 2 * cells, dim)
    assert late.coverage[0, 0] == late.coverage[0, cells] == 1 and float(late.coverage.sum()) == 2
    assert late.tokens[0, cells, 0] == 1
    backup = bank.save(1)
    bank.store_prompted(1, 9, memory, pointer, looks[2], logits)  # takes the second slot
    assert bank.references([1], 10).tokens[0, cells, 0] == 2
    bank.restore(1, backup)
    assert bank.references([1], 10).tokens[0, cells, 0] == 1


def test_the_newest_sure_frame_is_compared_with_until_it_is_corrected(model: Sam2Model) -> None:
    bank = MemoryBank(model, TrackerConfig(max_objects=1, prompted_slots=1))
    cells, side = model.config.grid**2, 4 * model.config.grid
    memory, pointer = torch.zeros(model.config.memory_grid**2, model.config.memory_dim), torch.zeros(256)
    logits = torch.ones(side, side)
    bank.store_prompted(0, 0, memory, pointer, looking(model, 0.0), logits)
    assert bank.references([0], 1).tokens.shape[1] == cells
    for at in (3, 7):
        bank.store_sure(0, at, looking(model, float(at)), logits)
    assert bank.references([0], 7).tokens.shape[1] == cells  # a frame that is worked on again has not seen it
    assert bank.references([0], 8).tokens[0, -1, 0] == 7
    bank.forget_from(0, 5)  # as a correction on frame 5 does
    assert bank.references([0], 9).tokens.shape[1] == cells
    size = bank.nbytes
    bank.clear(0)
    assert bank.nbytes == size and not bank.remembers(0, 9)
