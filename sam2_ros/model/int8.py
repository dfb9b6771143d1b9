"""Products of int8 numbers in a graph: a layer's inputs and weights are rounded to 8 bits. Free of torch.

The inputs of a layer are rounded to 256 steps between two limits, which were measured on pictures (``recipes/embedded
quantise``), and the weights of each output channel to 255 steps around 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sam2_ros.model.bfloat16 import cpu_flags

INT8 = "int8"
Limits = tuple[float, float] | None
"""Lowest and highest input of a layer; None: it stays as it is."""
STEPS = 255  # between the limits


def has_int8() -> bool:
    """Whether this processor has VNNI. Without it int8 is twice as far from float32, and on AVX2 slower than it."""
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni"})


def quantise(graph: Any, limits: Sequence[Limits]) -> None:
    """Rounds the inputs and weights of the first layers of ``graph`` (an ``openvino.Model``), in their order.

    A layer is a matrix product with weights, or a convolution that is not depthwise.

    Raises:
        ValueError: the graph has fewer layers than ``limits``.
    """
    from openvino import opset8

    layers = list(_layers(graph))
    if len(layers) < len(limits):
        raise ValueError(f"the graph has {len(layers)} layers; expected: {len(limits)} or more")
    for (layer, weights, axis), own in zip(layers, limits, strict=False):
        if own is None:
            continue
        step = (own[1] - own[0]) / STEPS
        low = -step * round(-own[0] / step)  # 0 is one of the steps
        inputs = layer.input(0)
        ends = np.float32(low), np.float32(low + STEPS * step)
        rounded = opset8.fake_quantize(inputs.get_source_output(), *ends, *ends, STEPS + 1)
        inputs.replace_source_output(rounded.output(0))
        values = np.abs(weights.data)
        most = values.max(axis=tuple(each for each in range(values.ndim) if each != axis), keepdims=True)
        most = np.maximum(most, np.float32(1e-9))  # of a channel without weights
        layer.input(1).replace_source_output(opset8.fake_quantize(weights, -most, most, -most, most, STEPS).output(0))


def _layers(graph: Any) -> Iterator[tuple[Any, Any, int]]:
    """Each layer, its weights, and their axis of output channels."""
    for node in graph.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "MatMul"):
            continue
        weights = node.input_value(1).get_node()
        if weights.get_type_name() == "Constant":
            flipped = kind == "Convolution" or node.get_attributes()["transpose_b"]
            yield node, weights, 0 if flipped else weights.get_output_partial_shape(0).rank.get_length() - 1
