"""Whether a runtime computes a graph as PyTorch does: inputs that are drawn alike everywhere, and errors of outputs.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sam2_ros.model.graph_shapes import ANY, Shape, Shapes
from sam2_ros.model.runtimes import Array

MAX_ERROR = 0.1  # share; bfloat16 comes to 0.05
SAMPLES = 256  # most numbers of an output that an exported network holds
_DRAWN = 3  # of ANY in drawn inputs


def drawn_inputs(graph: Shapes) -> dict[str, Array]:
    """Numbers such as the inputs of ``graph`` get, by their names."""
    return {name: _drawn(name, shape) for name, shape in graph.inputs.items()}


def sampled(outputs: Iterable[Array]) -> Array:
    """Some numbers of each output, float32 ``[N, SAMPLES]``; of smaller outputs all, repeated."""
    rows = [each.ravel() for each in outputs]
    return np.stack([row[np.linspace(0, len(row) - 1, SAMPLES).astype(np.int64)] for row in rows]).astype(np.float32)


def worst_error(found: Iterable[Array], wanted: Iterable[Array]) -> float:
    """How far ``found`` is from ``wanted``, as a share of its size; the worst of both lists of arrays, NaN if one
    has NaN."""
    pairs = zip(found, wanted, strict=True)
    return float(np.max([np.linalg.norm(mine - exact) / np.linalg.norm(exact) for mine, exact in pairs]))


def _drawn(name: str, shape: Shape) -> Array:
    shape = tuple(_DRAWN if size == ANY else size for size in shape)
    count = int(np.prod(shape))
    random = np.random.RandomState(sum(shape))  # whose numbers are the same in every version of NumPy
    if name in ("labels", "ages"):
        return np.arange(count).reshape(shape)
    if name == "coverage":
        return np.linspace(0, 1, count, dtype=np.float32).reshape(shape)
    if name in ("picture", "mask", "colors", "present", "sharpness"):
        return random.random_sample(shape).astype(np.float32)
    normal = random.standard_normal(shape)
    if name in ("looks", "known", "prototype"):
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return ({"points": 30, "logits": 4}.get(name, 1) * normal).astype(np.float32)
