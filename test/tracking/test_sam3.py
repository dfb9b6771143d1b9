"""SAM 3's tracker tracks as ``transformers``' does, frame by frame, by the engine that tracks with SAM 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sam3_reference
import torch
from sam2_reference import SCORE_BIAS
from sam3_reference import SIZE, WINDOW, build_drawn, mask_side, resized_mask
from torch import Tensor
from video_reference import (
    EVENTS,
    GAIN,
    SCORE_SHIFT,
    SHIFTS,
    Pair,
    Rgb,
    assert_tracks_as,
    back_and_forth,
    clicks,
    config_for,
    points_of,
    rectangle,
    run_tracker,
)

from sam2_ros.bench import weights
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.config import SAM3, RotaryViTConfig
from sam2_ros.tracking import PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.image_segmenter import ImageSegmenter
from sam2_ros.tracking.shared_model import SharedModel

FRAMES = 14


class Sam3Pair(Pair):
    def score_bias(self, shift: float) -> Any:
        bias = self.ours.get_parameter(SCORE_BIAS)
        return sam3_reference.score_bias(self.reference, self.ours, bias + shift)


@contextmanager
def as_the_authors_do(reference: Any) -> Iterator[None]:
    """The memory encoder resizes scaled probabilities; ``transformers`` resizes the logits before."""
    downsampler, side = reference.memory_encoder.mask_downsampler, mask_side(reference)
    forward = downsampler.forward
    with (
        mock.patch.object(downsampler, "forward", lambda mask: forward(resized_mask(mask, side))),
        mock.patch.object(reference.prompt_encoder, "mask_input_size", (SIZE / 4, SIZE / 4)),  # so that nothing is left
    ):
        yield


@torch.no_grad()
def run_reference(pair: Sam3Pair, frames: list[Rgb]) -> dict[tuple[int, int], Tensor]:
    """Low-resolution logits by frame and object. Each object has a session of its own: in a shared one, a prompt for
    one of them makes the masks of all binary."""
    from transformers import Sam3TrackerVideoInferenceSession

    height, width = frames[0].shape[:2]
    found: dict[tuple[int, int], Tensor] = {}
    for event in EVENTS:
        session = Sam3TrackerVideoInferenceSession(video_height=height, video_width=width, dtype=torch.float32)
        index = session.obj_id_to_idx(event.object_id)
        points, labels = points_of(event.prompt, SIZE, width, height)
        prompted = {"point_coords": points[None, None], "point_labels": labels[None, None]}
        session.add_point_inputs(index, event.frame, prompted)
        session.obj_with_new_inputs.append(event.object_id)
        for frame in range(event.frame, len(frames)):
            image = pair.ours.preprocess(torch.from_numpy(frames[frame]))
            with pair.score_bias(SHIFTS.get(frame, 0.0)):
                found[frame, event.object_id] = pair.reference(session, frame_idx=frame, frame=image).pred_masks[0]
    return found


def test_a_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Memories fill up, the older prompt stays, and one object comes late."""
    reference = build_drawn(seed=1, gain=GAIN)
    path = tmp_path_factory.mktemp("weights") / "tracker.pt"
    torch.save(reference.state_dict(), path)
    pair, frames = Sam3Pair(reference, load_model(path)), back_and_forth(FRAMES)
    with pair.score_bias(SCORE_SHIFT):
        with as_the_authors_do(reference):
            expected = run_reference(pair, frames)
        ours = run_tracker(pair, frames, EVENTS, config_for(post=True, hole_area=0), SHIFTS)
    assert_tracks_as(ours, expected)


@pytest.fixture(scope="module")
def drawn() -> Sam2Model:
    """A network that sees every object, whatever it is."""
    model = Sam2Model(replace(SAM3, rotary_vit=RotaryViTConfig(128, 8, 592, WINDOW), image_size=SIZE))
    weights.draw(model)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "settings",
    [{}, {"window": "on"}, {"deadline": 1e-6}, {"window": "on", "deadline": 1e-6}],
    ids=["plain", "windows", "load", "windows under load"],
)
def test_given_masks_and_corrections(drawn: Sam2Model, settings: dict[str, Any]) -> None:
    """Windows and a smaller input under load resize maps that have no side of a multiple of 16 pixels."""
    tracker = Tracker(drawn, TrackerConfig(**settings))
    given = rectangle(15, 60, 40, 100)
    for index, rgb in enumerate(back_and_forth(20)):
        result = tracker.step(rgb, index)
        if index == 1:
            (answer,) = tracker.add([PromptRequest(given)])
            assert answer.success and answer.result is not None and given.mask is not None
            shown = answer.result.mask.full()
            assert np.count_nonzero(shown & given.mask) >= 0.9 * np.count_nonzero(shown | given.mask)
        if index > 1:
            assert [obj.object_id for obj in result.objects] == [1]
            logits = tracker._objects[1].logits
            assert logits is not None and logits.shape[-1] in (48, 32)  # of 168 and 112 pixels
        if index == 5:
            (answer,) = tracker.add([PromptRequest(clicks((20, 70, 1)), 1)])
            assert answer.success, answer.message
    assert result.objects[0].mask.full().any()
    assert (tracker._load_shedder.level == 3) == ("deadline" in settings)


def test_single_images(drawn: Sam2Model) -> None:
    """A mask as prompt, and the answer as what a click corrects."""
    segmenter = ImageSegmenter(SharedModel(drawn))
    image = segmenter.encode(back_and_forth(1)[0])
    (first,) = segmenter.segment(image, [rectangle(15, 60, 40, 100)])
    (second,) = segmenter.segment(image, [clicks((20, 70, 1))], [first.so_far])
    assert first.logits.shape == second.logits.shape == (4, 48, 48)
    assert np.isfinite(second.logits).all() and not np.array_equal(first.logits, second.logits)
