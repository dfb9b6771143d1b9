"""The comparison with the official video predictor notices mistakes: each of these makes it fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sam2_reference import changed
from torch import Tensor
from video_reference import (
    TOLERANCE,
    Event,
    Pair,
    Prompt,
    Stream,
    back_and_forth,
    build_pair,
    clicks,
    config_for,
    run_reference,
    run_tracker,
    worst_difference,
)

from sam2_ros.model import ImageFeatures
from sam2_ros.tracking import Tracker, bank, prompt_decoder

FRAMES = back_and_forth(18)
EVENTS = (Event(0, 1, clicks((30, 80, 1))), Event(0, 1, clicks((90, 30, 0))), Event(6, 1, clicks((40, 80, 1))))
SHIFTS = {9: -3.0, 10: -3.0}
Mistake = Callable[[Pair], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build_pair("tiny", "2.1", 128)


@pytest.fixture(scope="module")
def reference(pair: Pair) -> Stream:
    return run_reference(pair, FRAMES, EVENTS, post=True, shifts=SHIFTS)


def ours(pair: Pair, **options: Any) -> Stream:
    change = options.pop("change", None)
    return run_tracker(pair, FRAMES, EVENTS, config_for(True, **options), SHIFTS, change)


def test_it_agrees_without_a_mistake(pair: Pair, reference: Stream) -> None:
    assert worst_difference(ours(pair), reference) <= TOLERANCE


def wrong_temporal_code(pair: Pair) -> AbstractContextManager[None]:
    """The fifth and sixth recent frames have each other's code."""
    codes = pair.ours.maskmem_tpos_enc
    return changed((pair.ours,), {"maskmem_tpos_enc": codes[[0, 1, 2, 3, 5, 4, 6]].clone()})


def ages_off_by_one(pair: Pair) -> AbstractContextManager[Any]:
    code = pair.ours.pointer_code
    return mock.patch.object(pair.ours, "pointer_code", lambda ages: code(ages + 1))


def pointers_before_frames(pair: Pair) -> AbstractContextManager[Any]:
    """The rotary code goes to the wrong tokens."""
    attend = pair.ours.with_memory

    def shuffled(features: ImageFeatures, memory: Tensor, codes: Tensor, pointers: int, mask: Tensor | None) -> Tensor:
        return attend(features, memory.roll(pointers, 1), codes.roll(pointers, 1), pointers, mask)

    return mock.patch.object(pair.ours, "with_memory", shuffled)


def one_pointer_less(pair: Pair) -> AbstractContextManager[Any]:
    return mock.patch.object(bank, "POINTER_FRAMES", 14)


def no_occlusion_embedding(pair: Pair) -> AbstractContextManager[None]:
    return changed((pair.ours,), {"no_obj_embed_spatial": torch.zeros(1, 64)})


def pointer_in_spite_of_absence(pair: Pair) -> AbstractContextManager[Any]:
    pointer = pair.ours.pointer
    return mock.patch.object(pair.ours, "pointer", lambda token, there: pointer(token, torch.ones_like(there)))


def no_previous_logits(pair: Pair) -> AbstractContextManager[Any]:
    return mock.patch.object(prompt_decoder, "PREVIOUS_LOGIT_LIMIT", 0.0)


@contextmanager
def correction_without_memory(pair: Pair) -> Iterator[None]:
    with mock.patch.object(prompt_decoder.PromptDecoder, "_is_correction", lambda *_: False):
        yield


@pytest.mark.parametrize(
    "mistake",
    [
        wrong_temporal_code,
        ages_off_by_one,
        pointers_before_frames,
        one_pointer_less,
        no_occlusion_embedding,
        pointer_in_spite_of_absence,
        no_previous_logits,
        correction_without_memory,
    ],
)
def test_a_mistake_shows(pair: Pair, reference: Stream, mistake: Mistake) -> None:
    with mistake(pair):
        assert worst_difference(ours(pair), reference) > TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"recent_slots": 5},
        {"hole_area": 0},
        {"stability_fallback": False},
        {"binarize_prompted_memory": False},
        {"reference_policy": False},
    ],
    ids=str,
)
def test_another_setting_shows(pair: Pair, reference: Stream, options: dict[str, Any]) -> None:
    assert worst_difference(ours(pair, **options), reference) > TOLERANCE


def test_another_precision_of_the_memory_shows(pair: Pair, reference: Stream) -> None:
    """The reference stores its memory in bfloat16, whatever it computes in; float32 is close, but shows."""

    def widen(tracker: Tracker) -> None:
        tracker.bank.spatial = tracker.bank.spatial.float()

    agreement = worst_difference(ours(pair), reference)
    assert worst_difference(ours(pair, change=widen), reference) > 10 * agreement


def test_forgotten_clicks_show(pair: Pair, reference: Stream) -> None:
    """A second click on the same frame that replaces the first one."""
    first, second, correction = EVENTS
    assert second.prompt.points is not None
    alone = Prompt(points=np.copy(second.prompt.points), labels=np.array([0]), replace=True)
    stream = run_tracker(pair, FRAMES, (first, Event(0, 1, alone), correction), config_for(True), SHIFTS)
    assert worst_difference(stream, reference) > TOLERANCE
