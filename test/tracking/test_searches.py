"""Where things are looked for by their looks, and what counts as found: each rule on grids of 8 x 8 cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_tracker import small_model

from sam2_ros.model.appearance import Appearance, color_shares
from sam2_ros.model.network import EVIDENCE, ChosenMask, DecodedMasks, ImageFeatures, Reference
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import View
from sam2_ros.tracking.recognition import (
    box_around,
    likeliest_boxes,
    look_in,
    look_of,
    looks_for_things,
    recognise,
    recognises,
)
from sam2_ros.tracking.windows import Window

SIDE, CELL = 8, 16  # of the cells of an image of 128 x 128 pixels
IMAGE = Window(0, 0, 128, 128)
BLUE, RED = (0.2, 0.35, 0.8), (0.8, 0.2, 0.2)
Logits = NDArray[np.float32]


def cells(*blocks: tuple[int, int, int, int, float], rest: float = -8.0) -> Logits:
    """Matches of 8 x 8 cells: blocks of left, upper, right and lower edge, and their value."""
    made = np.full((SIDE, SIDE), rest, np.float32)
    for x0, y0, x1, y1, value in blocks:
        made[y0:y1, x0:x1] = value
    return made


def features_of(matches: Logits, color: tuple[float, ...] = BLUE) -> ImageFeatures:
    """An image in one colour whose cells match :func:`reference` by so much."""
    # Two directions: one like the object's cell, one like that beside it. 24 is twice the metric's sharpness.
    angle = np.arccos(np.clip(matches / 24 / math.sqrt(2), -1, 1)).reshape(-1) - math.pi / 4
    looks = torch.from_numpy(np.stack((np.cos(angle), np.sin(angle)), axis=1)[None].astype(np.float32))
    grid, picture = matches.shape[0], torch.tensor(color)[None, :, None, None]
    nothing = torch.zeros(1, small_model().config.hidden_dim, grid, grid)  # no map but these is looked at
    return ImageFeatures(nothing, nothing, nothing, picture.expand(1, 3, 4 * grid, 4 * grid), looks)


def reference(color: tuple[float, ...] = BLUE) -> Reference:
    """A thing of one cell, with another cell beside it."""
    colors = color_shares(torch.tensor(color)[None, :, None, None].expand(1, 3, 4, 4), torch.ones(1, 4, 4))
    return Reference(torch.eye(2)[None], torch.tensor([[1.0, 0.0]]), colors[:, None])


def seen_in(matches: Logits, window: Window = IMAGE, color: tuple[float, ...] = BLUE) -> View:
    return View(0, 0, 200, 200, window, small_model(), features_of(matches, color))


@pytest.fixture
def trained() -> Iterator[Sam2Model]:
    """The small network with a metric of its own, whose judgements are the decoder's object score, or a number."""
    model = small_model()
    appearance = Appearance(32, 256, 4, 2).eval().requires_grad_(False)
    for judge in (appearance.tracked, appearance.found):
        judge.weight.zero_()
        judge.bias.zero_()
    appearance.tracked.weight[0, EVIDENCE.index("object score")] = 1
    model.appearance = appearance
    yield model
    model.appearance = None


def masks(*boxes: tuple[int, int, int, int], count: int = 1, score: float = 3.0) -> DecodedMasks:
    """Four masks of 32 x 32, the boxes one after the other, for each of ``count`` objects; the rest are empty."""
    logits = torch.full((count, 4, 4 * SIDE, 4 * SIDE), -5.0)
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        logits[:, index, y0:y1, x0:x1] = 5.0
    ious = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(count, 4)
    tokens = torch.arange(4.0)[None, :, None].expand(count, 4, 256)
    return DecodedMasks(logits, ious, tokens, torch.full((count, 1), score))


def test_who_looks_for_things_and_who_judges_masks(trained: Sam2Model) -> None:
    plain = small_model().at(64)
    plain.appearance = None
    for config, looks in (
        (TrackerConfig(), True),
        (TrackerConfig(recognition=False), False),
        (TrackerConfig(reference_policy=True), False),
    ):
        assert looks_for_things(config) is recognises(trained, config) is looks and not recognises(plain, config)


# -- places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matches", "corners"),
    [
        (cells((3, 1, 6, 3, 5.0)), [[3, 1], [6, 3]]),
        (cells((3, 1, 6, 3, 5.0), (6, 3, 7, 4, 0.1)), [[3, 1], [7, 4]]),  # joined at a corner
        (cells((3, 1, 6, 3, 5.0), (6, 2, 7, 3, 0.0)), [[3, 1], [6, 3]]),  # no match at all
        (cells((3, 1, 6, 3, 5.0), (7, 1, 8, 3, 5.0)), [[3, 1], [6, 3]]),  # another thing
        (cells((3, 1, 6, 3, 1.5), (6, 2, 7, 3, -0.4)), [[3, 1], [7, 3]]),  # 2 worse than the best one may be below 0
        (cells((3, 1, 6, 3, 1.5), (6, 2, 7, 3, -0.6)), [[3, 1], [6, 3]]),
        (cells((3, 1, 6, 3, 0.5), (6, 2, 7, 3, -0.9)), [[3, 1], [7, 3]]),  # but not below -1
        (cells((3, 1, 6, 3, 0.5), (6, 2, 7, 3, -1.1)), [[3, 1], [6, 3]]),
        (cells((3, 1, 6, 3, -3.0), (6, 2, 7, 3, -3.1)), [[3, 1], [6, 3]]),  # nothing matches: the best alone
        (cells((0, 5, 2, 8, 4.0)), [[0, 5], [2, 8]]),  # at the image's edge
    ],
)
def test_the_box_around_the_best_cells(matches: Logits, corners: list[list[int]]) -> None:
    assert box_around(matches).tolist() == corners


@pytest.mark.parametrize(("broad", "corners"), [(0.85, [[1, 1], [2, 2]]), (0.93, [[4, 4], [7, 7]])])
def test_the_best_cell_counts_as_much_as_its_surroundings(broad: float, corners: list[list[int]]) -> None:
    """A lone cell of 8 among -8: half of 8, and half of its surroundings' mean of -56 / 9, are 0.89."""
    found = box_around(cells((1, 1, 2, 2, 8.0), (4, 4, 7, 7, broad)))
    assert found.tolist() == corners


def test_the_likeliest_places_come_first() -> None:
    """In pixels of the frame, through a window of 128 x 80 in it: a cell has 16 x 10."""
    view = seen_in(cells((1, 2, 4, 4, 7.0), (5, 5, 7, 8, 4.0)), Window(16, 24, 144, 104))
    first, second = [32, 44, 80, 64], [96, 74, 128, 104]
    for most, found in ((0, []), (1, [first]), (2, [first, second]), (5, [first, second])):
        assert likeliest_boxes(view, reference(), most) == found


@pytest.mark.parametrize(
    ("third", "found"),
    [(-8.0, False), (-3.9, True), (-4.1, False)],  # the three best cells: their mean is above 0
)
def test_three_cells_make_a_place(third: float, found: bool) -> None:
    view = seen_in(cells((1, 1, 2, 2, 6.0), (5, 5, 6, 6, -2.0), (7, 7, 8, 8, third)))
    assert bool(likeliest_boxes(view, reference(), 3)) == found


# -- looking there -------------------------------------------------------------------------------------------

PLACE = (5, 2, 7, 4)  # of the thing, in cells
THING = (20, 8, 28, 16)  # and in pixels of the masks


def looked(
    view: View, box: tuple[float, ...], decoded: DecodedMasks, color: tuple[float, ...] = BLUE
) -> tuple[tuple[ChosenMask, float] | None, Any]:
    """What is found there, and what the decoder was given."""
    with torch.inference_mode(), mock.patch.object(Sam2Model, "decode", return_value=decoded) as decode:
        found = look_in(view, box, reference(color))
    return found, decode.call_args.args


def test_the_mask_that_looks_most_like_the_thing_is_found() -> None:
    view = seen_in(cells((*PLACE, 7.0)))
    decoded = masks((0, 0, 32, 32), (0, 0, 8, 8), THING, (20, 8, 32, 20))
    found, (_, _, corners, labels, prompt) = looked(view, (80, 32, 112, 64), decoded)
    assert found is not None
    chosen, score = found
    assert torch.equal(chosen.logits[0, 0], decoded.logits[0, 2]) and chosen.logits.shape == (1, 1, 32, 32)
    assert chosen.iou.tolist() == pytest.approx([0.3]) and chosen.token[0, 0] == 2
    assert score == pytest.approx(
        0.838 + 1 - 0.75 - 0.9, abs=1e-3
    )  # prototype (33°) and chroma, less what is asked for
    assert corners[0, labels[0].tolist().index(2)].tolist() == [5 * CELL, 2 * CELL]
    assert corners[0, labels[0].tolist().index(3)].tolist() == [7 * CELL, 4 * CELL]
    assert prompt.shape == (1, 1, 32, 32) and prompt[0, 0, 12, 24] == pytest.approx(7, abs=1e-2)


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((48, 48, 80, 80), [[2, 2], [6, 6]]),  # cells 3 and 4, and half as much on either side
        ((48, 48, 64, 64), [[3, 3], [4, 4]]),  # cell 3; the middles of its neighbours lie at the very edge
        ((47, 48, 65, 64), [[2, 3], [5, 4]]),
        ((48, 47, 64, 65), [[3, 2], [4, 5]]),
    ],
)
@pytest.mark.parametrize("window", [IMAGE, Window(10, 30, 138, 158), Window(40, 8, 104, 72)])
def test_it_is_looked_for_in_the_box_and_around_it(
    box: tuple[float, ...], corners: list[list[int]], window: Window
) -> None:
    """Everything matches; what lies elsewhere counts as -2."""
    size = window.width / 128
    edges = np.array(box) * size + [window.x0, window.y0] * 2
    found, (_, _, given, _, prompt) = looked(seen_in(cells(rest=6.0), window), tuple(edges.tolist()), masks())
    assert found is None and (given[0] / CELL).tolist() == corners
    assert prompt[0, 0, 0, 0] == -2 and prompt.max() > 4
    _, (*_, prompt) = looked(seen_in(cells(rest=-7.0), window), tuple(edges.tolist()), masks())
    assert prompt[0, 0, 0, 0] == pytest.approx(-7, abs=1e-2), "at most"


@pytest.mark.parametrize(
    ("matches", "mask", "color", "found"),
    [
        (cells((*PLACE, 7.0)), THING, BLUE, True),
        (cells((*PLACE, 7.0)), THING, RED, False),  # its chroma
        (cells((*PLACE, 7.0)), (0, 24, 8, 32), BLUE, False),  # what lies there is something else
        (cells((*PLACE, 7.0)), (0, 0, 0, 0), BLUE, False),
        (cells((*PLACE, 2.3)), THING, BLUE, True),  # 41.1 degrees from it: a cosine of 0.754
        (cells((*PLACE, 2.0)), THING, BLUE, False),  # 42 degrees: 0.743
        # The same cells, and others: 4 of 7 match by 8 * 1 / 7, 5 of 9 by 8 * 1 / 9; their directions by 0.8 and 0.78.
        (cells((0, 1, 4, 2, 24.0), rest=-24.0), (0, 4, 28, 8), BLUE, True),
        (cells((1, 1, 4, 2, 24.0), (1, 2, 3, 3, 24.0), rest=-24.0), (4, 4, 16, 16), BLUE, False),
    ],
)
def test_a_plain_metric_asks_for_a_match_in_every_way(
    matches: Logits, mask: tuple[int, int, int, int], color: tuple[float, ...], found: bool
) -> None:
    seen, _ = looked(seen_in(matches), (0, 0, 128, 128), masks((0, 0, 0, 0), mask), color)
    assert (seen is not None) == found


@pytest.mark.parametrize(("judgement", "found"), [(2.0, False), (2.1, True)])
def test_a_trained_metric_decides_by_its_judgement(trained: Sam2Model, judgement: float, found: bool) -> None:
    trained.metric.found.bias.fill_(judgement)
    view, decoded = seen_in(cells((*PLACE, 7.0))), masks((0, 0, 0, 0), THING)
    seen, _ = looked(view, (80, 32, 112, 64), decoded)
    assert (seen is not None) == found and (seen is None or seen[1] == pytest.approx(judgement))
    other, _ = looked(view, (80, 32, 112, 64), decoded, RED)
    assert other is None, "its colour is another one"


# -- tracked masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("judgement", "is_found"), [(1.5, True), (0.0, False)])
def test_objects_that_are_not_seen_are_searched_for_where_the_image_resembles_them(
    trained: Sam2Model, judgement: float, is_found: bool
) -> None:
    """Of those that were seen once: one is there, one has left, one resembles nothing here; and one was never seen."""
    one = reference()
    unlike = replace(one, tokens=one.tokens * torch.tensor([[-1.0], [1.0]]))
    unknown = replace(one, coverage=torch.tensor([[-1.0, -1.0]]))
    several = [one, one, unlike, unknown, one]
    known = Reference(*(torch.cat([getattr(each, name) for each in several]) for name in vars(one)))
    network = [3.0, 0.0, -2.0, -4.0, -1.0]
    tracked = replace(masks(count=5), object_score=torch.tensor(network)[:, None])
    chosen = ChosenMask(
        tracked.logits[:, :1], tracked.ious[:, 0], tracked.tokens[:, 0], torch.zeros(5, dtype=torch.int64)
    )
    elsewhere = masks((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0), THING, count=2)
    trained.metric.found.bias.fill_(judgement)
    trained.metric.found.weight[0, EVIDENCE.index("chroma")] = 0.5 if is_found else 0.0
    features = features_of(cells((*PLACE, 7.0)))
    with torch.inference_mode(), mock.patch.object(Sam2Model, "decode", return_value=elsewhere) as decode:
        merged, scores = recognise(trained, known, features, tracked, chosen)
    assert len(decode.call_args.args[2]) == 2, "the second and the last one"
    wanted = [3.0, 2.0, -2.0, -4.0, 2.0] if is_found else network
    assert scores.tolist() == pytest.approx(wanted)
    found = [index for index in range(5) if (merged.logits[index] > 0).any()]
    assert found == ([1, 4] if is_found else [])
    assert merged.token[:, 0].tolist() == ([0, 3, 0, 0, 3] if is_found else [0] * 5)
    assert merged.index.tolist() == merged.token[:, 0].tolist()


@pytest.mark.parametrize(("color", "is_found"), [(BLUE, True), (RED, False)])
def test_what_has_another_colour_is_not_found(trained: Sam2Model, color: tuple[float, ...], is_found: bool) -> None:
    """However sure the judgement is."""
    tracked, elsewhere = masks(score=-1.0), masks((0, 0, 0, 0), THING)
    chosen = ChosenMask(tracked.logits[:, :1], tracked.ious[:, 0], tracked.tokens[:, 0], torch.zeros(1).long())
    trained.metric.found.bias.fill_(5.0)
    with torch.inference_mode(), mock.patch.object(Sam2Model, "decode", return_value=elsewhere):
        merged, scores = recognise(trained, reference(color), features_of(cells((*PLACE, 7.0))), tracked, chosen)
    assert scores.tolist() == pytest.approx([5.0 if is_found else -1.0])
    assert bool((merged.logits > 0).any()) == is_found


def test_without_anything_missing_nothing_is_searched_for(trained: Sam2Model) -> None:
    tracked = masks(THING, score=0.5)
    chosen = ChosenMask(tracked.logits[:, :1], tracked.ious[:, 0], tracked.tokens[:, 0], torch.zeros(1))
    with torch.inference_mode(), mock.patch.object(Sam2Model, "decode") as decode:
        same, scores = recognise(trained, reference(), features_of(cells((*PLACE, 7.0))), tracked, chosen)
    assert same is chosen and scores.tolist() == [0.5] and not decode.called


@pytest.mark.parametrize(
    ("side", "covered", "kept"),
    [
        (32, 10, 10 + 1014),  # all of 1024
        (40, 10, 10 + 398),  # every fourth of 1590 beside it
        (40, 0, 400),
        (40, 600, 300 + 500),  # every second
        (40, 1600, 400),
    ],
)
def test_of_many_cells_an_even_choice_is_compared_with(side: int, covered: int, kept: int) -> None:
    tokens = torch.arange(side**2, dtype=torch.float32)[None, :, None]
    model: Any = SimpleNamespace(looks=lambda _: tokens)
    model.look = lambda *shown: Sam2Model.look(model, *shown)
    logits = torch.where(torch.arange(side**2) < covered, 1.0, -1.0).reshape(1, side, side)
    features: Any = SimpleNamespace(picture=torch.zeros(1, 3, side, side))
    look = look_of(model, features, logits)
    assert look.tokens.shape == (1, kept, 1) and look.coverage.shape == (1, kept) and look.colors.shape == (1, 1, 72)
    chosen = look.tokens[0, :, 0].tolist()
    assert len(set(chosen)) == kept and [value < covered for value in chosen] == (look.coverage[0] == 1).tolist()
    if kept < side**2:
        gaps = np.diff([value for value in chosen if value >= covered])
        assert len(set(gaps.tolist())) <= 1
