"""With ``reference_policy`` the tracker gives what the official video predictor gives, frame by frame."""

from __future__ import annotations

import gc
from functools import lru_cache

import numpy as np
import pytest
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
    rectangle,
    run_reference,
    run_tracker,
    worst_difference,
)

BOX = np.array([15, 60, 40, 100], np.float32)
FRAMES = 20
SEEDS = {"tiny": 0, "large": 1}  # of random weights whose masks are neither empty nor full
# Object 1 from a box, object 2 from a mask, object 3 at frame 8 from a click and, on the same frame, a second one;
# corrections of tracked frames by clicks, a box with a click, and a mask.
EVENTS = (
    Event(0, 1, Prompt(box=BOX)),
    Event(0, 2, rectangle(60, 15, 90, 45)),
    Event(8, 3, clicks((100, 60, 1))),
    Event(8, 3, clicks((20, 20, 0))),
    Event(11, 1, clicks((40, 80, 1), (80, 30, 0))),
    Event(12, 2, clicks((70, 35, 1))),
    Event(12, 2, clicks((30, 90, 0))),
    Event(13, 3, Prompt(box=np.array([90, 40, 120, 80], np.float32), points=np.array([[100, 60]], np.float32),
                        labels=np.array([1], np.int32))),
    Event(14, 1, rectangle(20, 60, 60, 100)),
)  # fmt: skip
# Every object disappears through its score and comes back.
SHIFTS = dict.fromkeys(range(16, 19), -3.0)


_pair: dict[tuple[str, str, int], Pair] = {}


def pair_of(size: str, version: str, image_size: int = 128) -> Pair:
    """Built once for tests that follow each other; one at a time, since two networks of the large size take 2 GB."""
    key = (size, version, image_size)
    if key not in _pair:
        _pair.clear()
        gc.collect()
        _pair[key] = build_pair(*key, seed=SEEDS[size])
    return _pair[key]


@lru_cache(maxsize=2)
def reference_of(size: str, version: str, post: bool) -> Stream:
    return run_reference(pair_of(size, version), back_and_forth(FRAMES), EVENTS, post, SHIFTS)


def assert_telling(stream: Stream, absent: int) -> None:
    """The masks are neither empty nor full, and ``absent`` of the outputs say that the object is not there."""
    fractions = [float((output.mask > 0).mean()) for output in stream.values() if output.score > 0]
    assert 0.05 < np.median(fractions) < 0.95, fractions
    assert sum(output.score <= 0 for output in stream.values()) == absent


@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("size", ["large", "tiny"])
def test_three_objects(size: str, version: str, post: bool) -> None:
    """Prompts of every kind, a late object, corrections, disappearance and return."""
    reference = reference_of(size, version, post)
    assert_telling(reference, absent=3 * len(SHIFTS))
    ours = run_tracker(pair_of(size, version), back_and_forth(FRAMES), EVENTS, config_for(post), SHIFTS)
    assert worst_difference(ours, reference) <= TOLERANCE


def test_postprocessing_takes_effect() -> None:
    """Holes are filled and unstable masks replaced in the streams compared above, or they would show nothing."""
    plain, post = (reference_of("tiny", "2.1", on) for on in (False, True))
    assert sum(int((output.logits == 0.1).sum()) for output in post.values()) > 0
    assert worst_difference(plain, post) > TOLERANCE
    first = (0, 1, 1)
    assert (plain[first].mask > 0).mean() != pytest.approx((post[first].mask > 0).mean(), rel=0.1)


PROMPTS = {
    "box": Prompt(box=BOX),
    "click": clicks((30, 80, 1)),
    "clicks": clicks((30, 80, 1), (35, 85, 1), (100, 20, 0)),
    "box and clicks": Prompt(box=BOX, points=np.array([[30, 80], [80, 80]], np.float32), labels=np.array([1, 0])),
    "mask": rectangle(15, 60, 40, 100),
    "absent": rectangle(0, 0, 0, 0),
}


@pytest.mark.parametrize(
    ("kind", "post"),
    [
        ("box", False), ("click", True), ("clicks", False), ("clicks", True), ("box and clicks", False),
        ("box and clicks", True), ("mask", False), ("absent", True),
    ],
)  # fmt: skip
def test_one_object(kind: str, post: bool) -> None:
    """Each kind of prompt alone, followed for 20 frames of a video that is not square."""
    pair = pair_of("tiny", "2.1")
    frames, events = back_and_forth(20), [Event(0, 1, PROMPTS[kind])]
    reference = run_reference(pair, frames, events, post)
    assert_telling(reference, absent=int(kind == "absent"))
    assert worst_difference(run_tracker(pair, frames, events, config_for(post)), reference) <= TOLERANCE


@pytest.mark.parametrize("version", ["2.1", "2.0"])
def test_an_object_that_is_absent_in_every_tracked_frame(version: str) -> None:
    """All masks empty, all pointers "no object", the occlusion embedding (2.1) in every memory."""
    pair = pair_of("tiny", version)
    frames, events = back_and_forth(20), [Event(0, 1, Prompt(box=BOX)), Event(9, 1, clicks((30, 80, 1)))]
    shifts = dict.fromkeys(range(1, 20), -3.0)
    reference = run_reference(pair, frames, events, post=True, shifts=shifts)
    assert sum(output.score <= 0 for output in reference.values()) == 20  # 19 tracked frames and the correction
    ours = run_tracker(pair, frames, events, config_for(post=True), shifts)
    assert worst_difference(ours, reference) <= TOLERANCE
    assert not any(output.mask.any() for (frame, _, _), output in ours.items() if frame > 0)


def test_at_256_pixels() -> None:
    """The same at another size of the network's input: one object, corrected once."""
    pair = pair_of("tiny", "2.1", 256)
    frames, events = back_and_forth(20), [Event(0, 1, Prompt(box=BOX)), Event(10, 1, clicks((40, 80, 1)))]
    reference = run_reference(pair, frames, events, post=True)
    assert_telling(reference, absent=0)
    assert worst_difference(run_tracker(pair, frames, events, config_for(post=True)), reference) <= TOLERANCE
