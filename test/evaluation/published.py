"""The published evaluator that ours is compared with: vos-benchmark 0.1.0 (MIT; SA-V's is derived from it)."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def disk(radius: float) -> np.ndarray:
    """The pixels no farther than ``radius`` from the middle: scikit-image's structuring element of this name."""
    side = np.arange(-int(radius), int(radius) + 1)
    return np.asarray(side[:, None] ** 2 + side[None] ** 2 <= radius**2, np.uint8)


def load() -> Any:
    """The module ``vos_benchmark.benchmark``.

    The evaluator takes one function from scikit-image, the disk that boundaries are widened with. Where scikit-image
    is not installed (with what it needs, 70 MB), that function comes from here.
    """
    pytest.importorskip("vos_benchmark", reason="needs vos-benchmark, which make setup installs")
    if importlib.util.find_spec("skimage") is not None:
        return importlib.import_module("vos_benchmark.benchmark")
    package, morphology = ModuleType("skimage"), ModuleType("skimage.morphology")
    morphology.disk = disk  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:  # nobody else is to take this for scikit-image
        patch.setitem(sys.modules, "skimage", package)
        patch.setitem(sys.modules, "skimage.morphology", morphology)
        return importlib.import_module("vos_benchmark.benchmark")


def evaluate(truth: Path, predicted: Path, name: str) -> dict[int, tuple[float, float]]:
    """J and F of each object of a sequence, in [0, 1], as the published evaluator reads them from PNG files."""
    with contextlib.redirect_stdout(io.StringIO()):
        _, j, f = load().VideoEvaluator(str(truth), str(predicted))(name)
    return {one: (j[one] / 100, f[one] / 100) for one in j}
