"""Parts of masks, how well a mask fits its box, and what a mask's object looks like: by numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam2_ros.model.network import DecodedMasks, ImageFeatures
from sam2_ros.tracking.look_alikes import Division
from sam2_ros.tracking.mask_parts import agreements, likenesses_of, masks_of, masks_within, own_masks
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.trail import Trail

SIDE = 20
Block = tuple[int, int, int, int]


def drawn(*blocks: Block, value: float = 4.0) -> torch.Tensor:
    made = torch.full((1, 1, SIDE, SIDE), -3.0)
    for x0, y0, x1, y1 in blocks:
        made[0, 0, y0:y1, x0:x1] = value
    return made


def objects(count: int = 1) -> list[LiveObject]:
    """That were at 0.1 to 0.3 of the frame, down and across."""
    made = [LiveObject(number, number, "", "", 0.0, 0) for number in range(count)]
    for each in made:
        each.trail = Trail().seen(0, (0.1, 0.1, 0.3, 0.3), 0.04)
    return made


@pytest.mark.parametrize(("high", "right"), [(2, 0.3), (4, 0.9)])
def test_small_parts_do_not_count_for_the_box_but_for_the_area(high: int, right: float) -> None:
    """16 pixels, and 2 or 4: an eighth or a fourth."""
    logits = drawn((2, 2, 6, 6), (17, 12, 18, 12 + high))
    own = own_masks(logits, objects(), 1, masks_of(logits), rejects_strays=False)
    assert own.boxes[0] == pytest.approx([0.1, 0.1, right, 0.3 if high == 2 else 0.8])
    assert own.areas.tolist() == pytest.approx([(16 + high) / 400])
    assert not own.changed.any() and not own.met.any() and not own.undecided.any() and own.logits is logits


def test_a_part_of_a_fifth_of_the_largest_counts() -> None:
    for extra, bottom in ((5, 0.95), (4, 0.35)):
        logits = drawn((2, 2, 7, 7), (17, 19 - extra, 18, 19))  # 25 pixels, and 5 or 4
        own = own_masks(logits, objects(), 1, masks_of(logits), rejects_strays=False)
        assert own.boxes[0, 3] == pytest.approx(bottom)


def test_strays_are_taken_out_of_their_own_mask_alone() -> None:
    first, second = drawn((2, 2, 6, 6), (15, 15, 19, 19)), drawn((2, 2, 6, 6))
    logits = torch.cat((first, second, drawn()))
    before = logits.clone()
    own = own_masks(logits, objects(3), 1, masks_of(logits))
    assert own.changed.tolist() == [True, False, False] and torch.equal(logits, before)
    assert own.areas.tolist() == pytest.approx([0.04, 0.04, 0]) and (own.boxes[2] == 0).all()
    assert (own.logits[0, 0, 15:19, 15:19] == -10).all() and int((own.logits == -10).sum()) == 16
    assert torch.equal(own.logits[1:], before[1:])


def test_in_a_window_parts_are_measured_in_shares_of_the_frame() -> None:
    """The right half and the lower quarter of it: what was at 0.6 to 0.7 lies at 0.2 to 0.4 there."""
    window, logits = (0.5, 0.75, 0.5, 0.25), drawn((4, 8, 8, 12), (14, 8, 18, 12))
    (one,) = objects()
    one.trail = Trail().seen(0, (0.6, 0.85, 0.7, 0.9), 0.005)
    own = own_masks(logits, [one], 1, masks_of(logits), window)
    assert own.boxes[0] == pytest.approx([0.6, 0.85, 0.7, 0.9]) and own.changed.all()
    assert own.areas.tolist() == pytest.approx([16 / 400 / 8])
    assert (own.logits[0, 0, 8:12, 14:18] == -10).all() and (own.logits[0, 0, 8:12, 4:8] == 4).all()


def test_what_a_division_gives_is_no_stray() -> None:
    logits = torch.cat([drawn((2, 2, 6, 6))] * 3)
    wanted = (drawn((15, 15, 19, 19))[0, 0] > 0).numpy()
    own = own_masks(logits, objects(3), 1, masks_of(logits), division=Division({1: wanted}, frozenset({1})))
    assert own.changed.tolist() == own.met.tolist() == own.undecided.tolist() == [False, True, False]
    assert own.boxes[1] == pytest.approx([0.75, 0.75, 0.95, 0.95]) and own.boxes[0] == pytest.approx(
        [0.1, 0.1, 0.3, 0.3]
    )
    assert (own.logits[1, 0] > 0).numpy().tolist() == wanted.tolist()
    assert torch.equal(own.logits[[0, 2]], logits[[0, 2]])


def test_what_an_object_gets_of_a_look_alike_is_just_above_nothing_if_nobody_had_it() -> None:
    logits = torch.cat((drawn((2, 2, 6, 6), value=4.0), drawn((8, 2, 12, 6), value=6.0)))
    wanted = {0: (drawn((8, 2, 12, 7))[0, 0] > 0).numpy(), 1: (drawn((2, 2, 6, 6))[0, 0] > 0).numpy()}
    own = own_masks(logits, objects(2), 1, masks_of(logits), division=Division(wanted, frozenset()))
    assert (own.logits[0, 0, 2:6, 8:12] == 6).all() and own.logits[0, 0, 6, 8:12].tolist() == pytest.approx([0.1] * 4)
    assert (own.logits[1, 0, 2:6, 2:6] == 4).all() and (own.logits[0, 0, 2:6, 2:6] == -10).all()
    assert own.logits[0, 0, 19, 19] == -10 and not own.undecided.any() and own.met.all()


def test_a_logit_of_zero_is_no_mask() -> None:
    (found,) = masks_of(torch.zeros(1, 1, 4, 4))
    assert not found.area and masks_of(torch.full((1, 1, 4, 4), 1e-3))[0].area == 16


def decoded(*masks: torch.Tensor, scores: tuple[float, ...]) -> DecodedMasks:
    """The single masks; the candidates are full."""
    single = torch.cat(masks)
    return DecodedMasks(
        torch.cat((single, torch.full((len(masks), 3, SIDE, SIDE), 9.0)), dim=1),
        torch.ones(len(masks), 4),
        torch.zeros(len(masks), 4, 1),
        torch.tensor(scores)[:, None],
    )


def test_how_well_a_mask_fits_the_box_that_prompted_it() -> None:
    """A part beside the box does not count; who is absent fits nothing, and without a box nobody is asked."""
    box = np.array([0.1, 0.1, 0.3, 0.3])
    half, beside = drawn((2, 2, 6, 4)), drawn((2, 2, 6, 6), (15, 15, 19, 19))
    found = agreements(
        decoded(half, beside, beside, beside, drawn(), scores=(1, 1, 0, -1, 1)), [box, box, box, None, box]
    )
    assert found.tolist() == pytest.approx([0.5, 1, 0, 1, 0])
    window = (0.5, 0.0, 0.5, 0.5)
    there = np.array([0.55, 0.05, 0.65, 0.15])
    assert agreements(decoded(half, scores=(0.1,)), [there], window).tolist() == pytest.approx([0.5])


def test_of_a_mask_in_a_window_what_lies_in_the_box_stays() -> None:
    logits = torch.cat([drawn((2, 2, 6, 6), (12, 12, 16, 16))] * 2)
    own = masks_within(logits, [np.array([0.8, 0.3, 0.9, 0.4]), None], (0.5, 0.0, 0.5, 0.5))
    assert own.changed.tolist() == [True, False] and own.boxes[0] == pytest.approx([0.8, 0.3, 0.9, 0.4])
    assert (own.logits[0] > 0).sum() == 16 and (own.logits[1] > 0).sum() == 32


def maps(*levels: np.ndarray) -> ImageFeatures:
    return ImageFeatures(*(torch.from_numpy(level.astype(np.float32))[None] for level in levels))


def test_a_look_is_what_differs_from_the_rest_of_the_image() -> None:
    """Worked anew in NumPy, for maps of 2, 4 and 8 cells a side; brightness and contrast of a channel do not count."""
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(channels, side, side)) for channels, side in ((3, 2), (2, 4), (2, 8))]
    mask = np.zeros((16, 16), np.bool_)
    mask[2:9, 4:15] = True
    parts = []
    for level in levels:
        side = level.shape[1]
        share = mask.reshape(side, 16 // side, side, 16 // side).mean(axis=(1, 3))
        inside = (level * share).sum(axis=(1, 2)) / share.sum()
        difference = (inside - level.mean(axis=(1, 2))) / level.reshape(len(level), -1).std(axis=1, ddof=1)
        parts.append(difference / np.linalg.norm(difference))
    expected = np.concatenate(parts) / np.sqrt(3)
    logits = torch.where(torch.from_numpy(mask), 2.0, -2.0)[None, None]
    logits = torch.cat((logits, torch.full_like(logits, -1.0), torch.where(logits > 0, 7.0, 0.0)))
    found = likenesses_of(maps(*levels), logits)
    assert found.shape == (3, 7) and found[0].numpy() == pytest.approx(expected, abs=1e-5)
    assert torch.linalg.norm(found[0]) == pytest.approx(1, abs=1e-5)
    assert (found[1] == 0).all(), "of nothing"
    assert torch.equal(found[2], found[0]), "a logit of 0 lies beside it"
    brighter = [level * 3 + np.arange(len(level))[:, None, None] for level in levels]
    assert likenesses_of(maps(*brighter), logits).numpy() == pytest.approx(found.numpy(), abs=1e-4)
    flat = [np.zeros_like(level) for level in levels]
    assert likenesses_of(maps(*flat), logits).abs().max() == 0, "where everything looks the same"
