"""The composites with twins: exact, and the same for the same seed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "twins.py"


@pytest.fixture(scope="module")
def twins() -> ModuleType:
    spec = importlib.util.spec_from_file_location("twins", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["twins"] = module
    spec.loader.exec_module(module)
    return module


def test_equal_seeds_give_equal_clips(twins: ModuleType) -> None:
    first, again, other = (list(twins.clip(seed, 5, 160, 120)) for seed in (3, 3, 4))
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].rgb, other[0].rgb)


def test_twins_cross_and_part(twins: ModuleType) -> None:
    frames = list(twins.clip(0, 9, 160, 120))
    left = [[float(np.nonzero(mask)[1].mean()) for mask in frame.masks] for frame in frames]
    assert left[0][0] < left[0][1] and left[-1][0] > left[-1][1]
    assert frames[0].shown == frames[-1].shown == (1.0, 1.0)
    assert not any((frame.masks[0] & frame.masks[1]).any() for frame in frames)


def test_the_table_has_a_row_for_each_policy(twins: ModuleType) -> None:
    score = twins.Score(objects=2, switches=1, ended_on_twin=1, wrong_frames=3, frames=10, overlap=[0.5, 0.7])
    assert twins.table({"recent": score}).endswith("| `recent` | 1 | 1 of 2 objects | 30.0 % | 0.600 |")
