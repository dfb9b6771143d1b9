"""The tracker's settings, its precisions, and the backend that runs it in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import numpy as np
import pytest
import torch
from small_tracker import box, click, logits, rectangle, run, scene, small_model, stepped

from sam2_ros.inference import make_backend
from sam2_ros.inference.backend import BackendInfo
from sam2_ros.inference.local import LocalBackend, load_shared_model
from sam2_ros.model import HIERA, ModelConfig, Sam2Model
from sam2_ros.model.checkpoint import read_checkpoint
from sam2_ros.model.weight_files import EMBEDDED
from sam2_ros.tracking import PromptError, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.bank import MemoryBank


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("max_objects", 1, 1024),
        ("prompted_slots", 1, 64),
        ("recent_slots", 1, 6),
        ("max_pointer_age", 1, 15),
        ("lost_after", 1, 1_000_000),
        ("visible_after", 1, 100),
        ("occluded_after", 1, 100),
        ("search_every", 1, 1000),
        ("drop_after", 0, 1_000_000),
        ("explosion_factor", 0, 1000),
        ("explosion_iou", 0, 1),
        ("explosion_frames", 1, 100),
        ("max_area", 0, 1),
        ("history", 0, 256),
        ("history_tolerance", 0, 60),
        ("hole_area", 0, 4096),
        ("deadline", 0, 60),
    ],
)
def test_settings_have_ranges(name: str, low: int, high: int) -> None:
    for value in (low, high):
        config = TrackerConfig(**{name: value})  # type: ignore[arg-type]
        assert getattr(config, name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"^{name} is {value}; accepted: {low} to {high}$"):
            TrackerConfig(**{name: value})  # type: ignore[arg-type]


def test_settings_are_fixed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrackerConfig().max_objects = 3  # type: ignore[misc]


# -- memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "slots", "pointers"),
    [
        ({}, 4 + 6 + 9, 4 + 15 + 9),
        ({"prompted_slots": 2, "recent_slots": 3}, 2 + 3 + 9, 2 + 15 + 9),
        ({"max_objects": 5}, 19, 28),
        ({"history": 0}, 4 + 6 + 1, 4 + 15 + 1),
    ],
)
def test_bytes_of_the_bank_follow_from_the_settings(options: dict[str, int], slots: int, pointers: int) -> None:
    """max_objects * (slots * tokens * 64 channels * 2 bytes + pointers * 256 * 4 bytes)."""
    config = TrackerConfig(**options)  # type: ignore[arg-type]
    bank = MemoryBank(small_model(), config)
    assert bank.nbytes == config.max_objects * (slots * 8 * 8 * 64 * 2 + pointers * 256 * 4)


@pytest.mark.parametrize(
    ("name", "one", "sixteen"), [("embedded", "993 KiB", "15.5 MiB"), ("tiny", "9.5 MiB", "152.4 MiB")]
)
def test_bytes_are_those_of_the_documentation(name: str, one: str, sixteen: str) -> None:
    config = read_checkpoint(EMBEDDED)[1] if name == "embedded" else ModelConfig("tiny", hiera=HIERA["tiny"])
    with torch.device("meta"):  # shapes only
        model = Sam2Model(config)
    banks = [MemoryBank(model, TrackerConfig(max_objects=count)).nbytes for count in (1, 16)]
    said = [f"{n / 2**20:.1f} MiB" if n > 2**20 else f"{n / 2**10:.0f} KiB" for n in banks]
    assert said == [one, sixteen]
    page = Path(__file__).parents[2] / "docs" / "explanation" / "tracking.md"
    assert f"| {one} | {sixteen} |" in page.read_text(encoding="utf-8")


def test_a_longer_history_adds_slots() -> None:
    none, three = (MemoryBank(small_model(), TrackerConfig(max_objects=1, history=n)) for n in (0, 3))
    assert three.nbytes - none.nbytes == 3 * (8 * 8 * 64 * 2 + 256 * 4)
    assert (three.ring, three.pointer_ring) == (10, 19)


def test_fewer_recent_slots_look_at_fewer_frames() -> None:
    """Two frames back instead of six; the pointers stay."""
    tracker = Tracker(small_model(), TrackerConfig(max_objects=1, recent_slots=2))
    stepped(tracker, [box()])
    run(tracker, 1, 9)
    memories = tracker.bank.gather([0], 10)
    assert memories.tokens.shape == (1, (1 + 2) * 64 + (1 + 9) * 4, 64)
    assert memories.num_pointers == 10 * 4 and memories.mask is None


# -- precision -----------------------------------------------------------------------------------------------


def test_bfloat16_is_close_to_float32() -> None:
    """Autocast with float32 weights; what comes out, and what is remembered, is float32 and bfloat16 as ever."""
    trackers = [Tracker(small_model(), TrackerConfig(max_objects=2), dtype) for dtype in ("float32", "bfloat16")]
    for tracker in trackers:
        stepped(tracker, [box(), rectangle(60, 15, 90, 45)])
        run(tracker, 1, 8)
        tracker.refine(PromptRequest(click(60, 60), 1))
        run(tracker, 9, 10)
    exact, fast = trackers
    for object_id in (1, 2):
        assert logits(fast, object_id).dtype == torch.float32
        apart = (logits(fast, object_id) - logits(exact, object_id)).abs()
        # Where objects meet, rounding may give a pixel to the other one, and its logit is another then.
        assert 0 < apart.mean() < 0.1 and (apart > 0.2).float().mean() < 0.005
        one, other = exact._objects[object_id], fast._objects[object_id]
        assert other.object_score == pytest.approx(one.object_score, abs=0.05)
        assert one.mask is not None and other.mask is not None
        first, second = one.mask.full(), other.mask.full()
        assert np.count_nonzero(first & second) / np.count_nonzero(first | second) > 0.9
    assert fast.bank.spatial.dtype == torch.bfloat16 and fast.bank.pointers.dtype == torch.float32


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype is 'float16'; accepted: 'float32', 'bfloat16'"):
        Tracker(small_model(), dtype="float16")


# -- the backend in this process -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as one of our checkpoints."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save({"model": small_model().state_dict(), "config": small_model().config.to_dict()}, path)
    return path


Engine: TypeAlias = LocalBackend | Tracker


def session(backend: Engine, order: Callable[[Engine], Any]) -> list[Any]:
    """What an engine gives for a little session; ``order`` is done in its middle."""
    found: list[Any] = [backend.objects()]
    backend.step(scene(0), 10)
    found.append(backend.add([PromptRequest(box(), name="ball"), PromptRequest(click(-9, 0))], 10)[0].result)
    found.append(backend.step(scene(1), 11).object(1))
    found.append(backend.refine(PromptRequest(click(60, 60), 1)).candidates[0].mask)
    found.append(order(backend))
    found.append(backend.step(scene(2), 12).objects)
    newest = backend.objects()
    assert newest is not None
    found += [newest.objects, [(change.event, change.reason) for change in backend.take_changes()]]
    return found


@pytest.mark.parametrize(
    "order", [lambda b: b.remove(1), lambda b: b.reset(), lambda b: b.rename(1, "cup", "dish"), lambda b: b.remove(7)]
)
def test_the_local_backend_is_the_tracker(checkpoint: Path, order: Callable[[Engine], Any]) -> None:
    config = TrackerConfig(max_objects=2)
    backend = LocalBackend(load_shared_model(str(checkpoint), "cpu", "float32"), config)
    results = [repr(session(engine, order)) for engine in (backend, Tracker(small_model(), config))]
    assert results[0] == results[1]
    assert backend.info == BackendInfo("small", "cpu", "float32", 128, backend.bank.nbytes, 2, backend.history_bytes)


def test_the_local_backend_after_its_end(checkpoint: Path) -> None:
    backend = LocalBackend(load_shared_model(str(checkpoint), "cpu"))
    backend.step(scene(0), 0)
    backend.add([PromptRequest(box())])
    backend.close()
    backend.close()
    assert backend.take_changes() == []
    with pytest.raises(RuntimeError, match="the backend was closed; make a new one"):
        backend.step(scene(1), 1)


def test_the_local_backend_takes_the_image_size_of_its_choice(checkpoint: Path) -> None:
    backend = LocalBackend(load_shared_model(str(checkpoint), "cpu", image_size=64))
    assert backend.info.image_size == 64
    backend.step(scene(0), 0)
    (answer,) = backend.add([PromptRequest(box())])
    assert answer.success


def test_without_torch_the_local_backend_says_what_is_missing() -> None:
    with mock.patch.dict("sys.modules", {"torch": None}), pytest.raises(ImportError, match="needs PyTorch"):
        make_backend("embedded", runtime="torch")


def test_the_local_backend_raises_what_the_tracker_raises(checkpoint: Path) -> None:
    backend = LocalBackend(load_shared_model(str(checkpoint), "cpu"))
    with pytest.raises(PromptError, match="there is no object 5; living objects: none"):
        backend.rename(5, "cup", "")
