"""Single images: the segmenter agrees with the reference's image predictor, prompt by prompt."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from image_reference import image_predictor
from numpy.typing import NDArray
from parity_stages import Pair, build_pair
from small_tracker import HEIGHT, WIDTH, scene, small_model

from sam2_ros.model.choice import STABILITY_DELTA, STABILITY_THRESHOLD
from sam2_ros.tracking import Prompt, PromptError, PromptRequest, Tracker
from sam2_ros.tracking.image_segmenter import BATCH, ImageSegmenter
from sam2_ros.tracking.segmentation import MAX_WORK, Segmentation
from sam2_ros.tracking.shared_model import SharedModel

MODELS = [("tiny", "2.1"), ("tiny", "2.0"), ("small", "2.1"), ("base_plus", "2.1"), ("large", "2.1")]
TOLERANCE = 1e-3  # of logits, times max(1, max |reference|)


def clicks(*points: tuple[float, float, int], box: tuple[float, ...] | None = None, **more: Any) -> Prompt:
    places, labels = np.array([point[:2] for point in points], np.float32), np.array([p[2] for p in points], np.int32)
    edges = None if box is None else np.array(box, np.float32)
    return Prompt(points=places if points else None, labels=labels if points else None, box=edges, **more)


PROMPTS = {
    "click": clicks((30, 80, 1)),
    "two clicks": clicks((30, 80, 1), (100, 20, 0)),
    "box": clicks(box=(15, 60, 40.5, 100)),
    "box and clicks": clicks((30, 80, 1), (20, 70, 0), box=(15, 60, 40, 100)),
}


@lru_cache(maxsize=1)
def pair_of(size: str, version: str) -> Pair:
    return build_pair(size, version, 128)


def arguments(prompt: Prompt) -> dict[str, Any]:
    return {"point_coords": prompt.points, "point_labels": prompt.labels, "box": prompt.box}


def assert_same(answer: Segmentation, reference: Any, **prompt: Any) -> NDArray[np.float32]:
    """Three candidates and the single answer, in the size of the image; returns the reference's low-resolution logits
    of the answer."""
    lows = {}
    for multimask in (True, False):
        full, ious, low = reference.predict(**prompt, multimask_output=multimask, return_logits=True)
        rows = slice(1, 4) if multimask else slice(0, 1)
        scale = max(1.0, float(np.abs(low).max()))
        if multimask:
            np.testing.assert_allclose([c.predicted_iou for c in answer.candidates], ious, atol=1e-4)
            np.testing.assert_allclose(answer.logits[rows], low, atol=TOLERANCE * scale)
            for candidate, expected in zip(answer.candidates, full, strict=True):
                sure = np.abs(expected) > TOLERANCE * scale
                assert np.array_equal(candidate.mask.full()[sure], (expected > 0)[sure])
        lows[multimask] = low
    if answer.index == 0:
        np.testing.assert_allclose(answer.so_far, lows[False][0], atol=TOLERANCE * scale)
    return np.asarray(lows[False][0] if answer.index == 0 else lows[True][answer.index - 1])


@pytest.mark.parametrize(("size", "version"), MODELS)
def test_agrees_with_the_reference(size: str, version: str) -> None:
    """Every kind of prompt in one call, then a correction of each mask."""
    pair = pair_of(size, version)
    image = scene(3)
    reference, ours = image_predictor(pair.reference), ImageSegmenter(SharedModel(pair.model))
    reference.set_image(image)
    decoder = pair.reference.sam_mask_decoder
    with (
        mock.patch.object(decoder, "dynamic_multimask_via_stability", True),
        mock.patch.object(decoder, "dynamic_multimask_stability_delta", STABILITY_DELTA),
        mock.patch.object(decoder, "dynamic_multimask_stability_thresh", STABILITY_THRESHOLD),
    ):
        encoded = ours.encode(image)
        answers = ours.segment(encoded, list(PROMPTS.values()))
        before = [
            assert_same(answer, reference, **arguments(prompt))
            for answer, prompt in zip(answers, PROMPTS.values(), strict=True)
        ]
        assert answers[0].index > 0
        further = [clicks((30, 80, 1), (60, 60, 0)), clicks((90, 90, 0), box=(10, 10, 100, 110))]
        corrected = ours.segment(encoded, further, [answers[0].so_far, answers[2].so_far])
        for answer, prompt, low in zip(corrected, further, (before[0], before[2]), strict=True):
            assert_same(answer, reference, **arguments(prompt), mask_input=low[None])
            plain = ours.segment(encoded, [prompt])[0]
            assert not np.array_equal(answer.logits, plain.logits)


def test_stability_and_the_choice_of_a_candidate() -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))
    encoded = segmenter.encode(scene(0))
    (free,) = segmenter.segment(encoded, [clicks((30, 80, 1))])
    assert free.index == 1 + int(np.argmax([candidate.predicted_iou for candidate in free.candidates]))
    for index in (1, 2, 3):
        (chosen,) = segmenter.segment(encoded, [clicks((30, 80, 1), candidate=index)])
        expected = free.candidates[index - 1]
        assert chosen.index == index and np.array_equal(chosen.mask.full(), expected.mask.full())
        assert chosen.stability == expected.stability and chosen.predicted_iou == expected.predicted_iou
        low = free.logits[index]
        inner, outer = (low > STABILITY_DELTA).sum(), (low > -STABILITY_DELTA).sum()
        assert expected.stability == pytest.approx(inner / outer)


def test_many_prompts_and_images_give_what_each_gives_alone() -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))
    images = [scene(0), np.ascontiguousarray(scene(5)[:90, :100]), scene(9)]
    batch = segmenter.encode_batch(images)
    prompts = [clicks((x, 50, 1)) for x in range(2, 2 + BATCH + 3)]
    prompts[3] = clicks(box=(15, 60, 40, 85))
    for image, encoded in zip(images, batch, strict=True):
        alone = segmenter.encode(image)
        assert (alone.width, alone.height) == (encoded.width, encoded.height) == (image.shape[1], image.shape[0])
        together = segmenter.segment(encoded, prompts)
        for index in (0, 3, len(prompts) - 1):
            (single,) = segmenter.segment(alone, [prompts[index]])
            np.testing.assert_allclose(together[index].logits, single.logits, atol=1e-3)


def test_a_mask_is_a_prompt_and_may_be_corrected() -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))
    encoded = segmenter.encode(scene(0))
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[60:100, 15:40] = True
    plain, clicked, removed = segmenter.segment(
        encoded, [Prompt(mask=mask), clicks((30, 80, 1), mask=mask), clicks((90, 20, 0), mask=mask)]
    )
    assert len({answer.logits.tobytes() for answer in (plain, clicked, removed)}) == 3
    other = np.roll(mask, 40, axis=1)
    (moved,) = segmenter.segment(encoded, [Prompt(mask=other)])
    assert not np.array_equal(moved.logits, plain.logits)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (clicks((500, 80, 1)), "lies outside the image"),
        (clicks((30, 80, 0)), "only negative points"),
        (Prompt(), "the prompt is empty"),
        (Prompt(mask=np.ones((4, 4), np.bool_)), "the mask is 4 x 4 pixels"),
        (Prompt(candidate=2), "a candidate is chosen for an existing object"),
        (Prompt(like=np.zeros((8, 8, 3), np.uint8), box=np.array([1, 1, 6, 6])), "is looked for in a stream"),
    ],
)
def test_refuses_what_it_cannot_use(prompt: Prompt, reason: str) -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))
    encoded = segmenter.encode(scene(0))
    with pytest.raises(PromptError, match=reason):
        segmenter.segment(encoded, [clicks((30, 80, 1)), prompt])


def test_limits() -> None:
    segmenter = ImageSegmenter(SharedModel(small_model()))
    with pytest.raises(ValueError, match="an image is uint8"):
        segmenter.encode(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="accepted: up to"):
        segmenter.encode(np.broadcast_to(np.uint8(0), (1 << 14, 1 << 13, 3)))
    encoded = segmenter.encode(scene(0))
    with pytest.raises(ValueError, match="from `so_far`"):
        segmenter.segment(encoded, [clicks((30, 80, 1))], [np.zeros((4, 4), np.float32)])
    with mock.patch("sam2_ros.tracking.segmentation.MAX_WORK", 2 * WIDTH * HEIGHT), pytest.raises(PromptError) as error:
        segmenter.segment(encoded, [clicks((30, 80, 1))] * 3)
    assert "accepted: up to 2 at this size" in str(error.value)
    assert MAX_WORK // (WIDTH * HEIGHT) > 1024


def test_in_slices_beside_a_tracker() -> None:
    """A refusal is one result; the tracker of the same network tracks between the slices as if nothing were there."""
    shared = SharedModel(small_model())
    alone, beside = (Tracker(small_model(), shared=each) for each in (SharedModel(small_model()), shared))
    for tracker in (alone, beside):
        tracker.step(scene(0), 0)
        tracker.add([PromptRequest(clicks(box=(15, 60, 40, 100)))])
    requests = [PromptRequest(clicks((x, 80, 1)), name=f"n{x}", label="cup") for x in range(20, 32)]
    requests[4] = PromptRequest(clicks((-40, 80, 1)), name="outside")
    slices = ImageSegmenter(shared).segment_in_slices(scene(7), requests)
    shares, results, frame = [], None, 0
    while results is None:
        frame += 1
        try:
            shares.append(next(slices))
        except StopIteration as end:
            results = end.value
        masks = [tracker.step(scene(frame), frame).objects[0].mask.full() for tracker in (alone, beside)]
        assert np.array_equal(masks[0], masks[1])
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) > 2
    assert [result.success for result in results] == [index != 4 for index in range(12)]
    assert "lies outside" in results[4].message and results[4].name == "outside"
    first = results[0].result
    assert first is not None and (first.name, first.label) == ("n20", "cup") and len(results[0].candidates) == 3
    (expected,) = ImageSegmenter(shared).segment(ImageSegmenter(shared).encode(scene(7)), [requests[0].prompt])
    assert np.array_equal(first.mask.full(), expected.mask.full()) and torch.is_inference_mode_enabled() is False
