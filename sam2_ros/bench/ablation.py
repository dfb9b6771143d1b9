"""What each rearrangement is worth: the engine with all of them, and without one at a time, in turn on the same frames.

Each entry puts the plain formula back in the place of the fast one. Those that change the network's modules alone are
exact but for rounding; the tests of parity hold for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sam2_ros.bench.contestants import Ours, Rgb, Task
from sam2_ros.bench.measure import FILL, Series, measure, ratio
from sam2_ros.bench.scene import MovingScene
from sam2_ros.model import ImageFeatures, Sam2Model, hiera, image_encoder, kernels, layers, memory_attention, tinyvit
from sam2_ros.model.mask_decoder import ChosenMask, DecodedMasks, choose
from sam2_ros.model.prompt_encoder import PromptEncoder
from sam2_ros.tracking import propagation

Without = Callable[[Sam2Model], Any]  # a context in which the plain formula is used


def _product_by_addmm(x: Tensor, weight: Tensor, bias: Tensor | None, after: str = "") -> Tensor:
    return kernels._then(after, F.linear(x, weight, bias))


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _rotate_by_parts(x: Tensor, table: Tensor) -> Tensor:
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = (table.real, table.imag) if table.is_complex() else (table[0], table[1])
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


def _attend_wide(self: layers.Attention, q: Tensor, k: Tensor, kv: Tensor, mask: Tensor | None = None) -> Tensor:
    return self.attend(q, k, self.split_heads(self.v_proj(kv)), mask)


def _rotate_by_parts_in_place(x: Tensor, table: Tensor) -> None:
    x.copy_(_rotate_by_parts(x, table))


@contextmanager
def _rotary_by_parts(_: Sam2Model) -> Iterator[None]:
    with ExitStack() as stack:
        for name, plain in (("rotate", _rotate_by_parts), ("rotate_", _rotate_by_parts_in_place)):
            stack.enter_context(mock.patch.object(memory_attention, name, plain))
        yield


@contextmanager
def _fine_maps_made_wide(model: Sam2Model) -> Iterator[None]:
    forward = image_encoder.FpnNeck.forward

    def wide(self: image_encoder.FpnNeck, maps: list[Tensor], after: tuple[nn.Module, nn.Module]) -> Any:
        stride_4, stride_8, stride_16 = forward(self, maps)
        return after[0](stride_4), after[1](stride_8), stride_16

    with mock.patch.object(image_encoder.FpnNeck, "forward", wide):
        yield


@contextmanager
def _attention_of_torch(_: Sam2Model) -> Iterator[None]:
    with ExitStack() as stack:
        for module in (hiera, layers, tinyvit):
            stack.enter_context(mock.patch.object(module, "attention", _fused_attention))
        yield


@contextmanager
def _gelu_apart(_: Sam2Model) -> Iterator[None]:
    with ExitStack() as stack:
        for kind in (kernels.Linear, kernels.Conv2d):
            stack.enter_context(mock.patch.object(kind, "gelu", lambda module, x: F.gelu(module(x))))
        yield


@contextmanager
def _first_layer_per_object(model: Sam2Model) -> Iterator[None]:
    shared = model.with_memory

    def repeated(features: ImageFeatures, memory: Tensor, *others: Any) -> Tensor:
        each = features.stride_16.expand(len(memory), -1, -1, -1)
        return shared(ImageFeatures(each, features.stride_8, features.stride_4), memory, *others)

    with mock.patch.object(model, "with_memory", repeated):
        yield


@contextmanager
def _image_projected_per_object(model: Sam2Model) -> Iterator[None]:
    shared = model.encode_low_memory

    def repeated(features: ImageFeatures, logits: Tensor, *others: Any) -> Tensor:
        each = features.stride_16.expand(len(logits), -1, -1, -1)
        return shared(ImageFeatures(each, features.stride_8, features.stride_4), logits, *others)

    with mock.patch.object(model, "encode_low_memory", repeated):
        yield


@contextmanager
def _every_candidate_upsampled(model: Sam2Model) -> Iterator[None]:
    size = model.config.image_size

    def upsampled(decoded: DecodedMasks, *others: Any, **named: Any) -> ChosenMask:
        # The chosen one follows where it always does.
        F.interpolate(decoded.logits[:, 2:].float(), (size, size), mode="bilinear", align_corners=False)
        return choose(decoded, *others, **named)

    with mock.patch.object(propagation, "choose", upsampled):
        yield


@contextmanager
def _values_projected_twice(model: Sam2Model) -> Iterator[None]:
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, layers.Attention):
                plain = lambda x, first, second: second(first(x))  # noqa: E731
                stack.enter_context(mock.patch.object(module, "out_of_values", plain))
        yield


@contextmanager
def _weights_rounded_in_every_frame(_: Sam2Model) -> Iterator[None]:
    def rounded(module: nn.Linear | nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        dtype = kernels.autocast_dtype(x.device) or x.dtype
        return x.to(dtype), module.weight.to(dtype), None if module.bias is None else module.bias.to(dtype)

    with mock.patch.object(kernels, "_as_computed", rounded):
        yield


VARIANTS: dict[str, Without] = {
    "matrix products by oneDNN": lambda _: mock.patch.object(kernels, "linear", _product_by_addmm),
    "attention by matrix products": _attention_of_torch,
    "values attended at their own width": lambda _: mock.patch.object(layers.Attention, "attend_narrow", _attend_wide),
    "rotary code as a complex product": _rotary_by_parts,
    "GELU within the product": _gelu_apart,
    "first layer once for all objects": _first_layer_per_object,
    "memory encoder's image projection once for all objects": _image_projected_per_object,
    "one object after the other through the memory": lambda _: mock.patch.object(
        memory_attention.MemoryAttention, "_in_turn", lambda *_: False
    ),
    "best mask chosen before up-sampling": _every_candidate_upsampled,
    "out_proj and v_proj merged": _values_projected_twice,
    "lateral and high-resolution convolutions merged": _fine_maps_made_wide,
    "decoder's position code kept": lambda _: mock.patch.object(
        PromptEncoder, "image_position", lambda self: self.pe_layer.grid(self.grid)
    ),
    "rounded weights kept": _weights_rounded_in_every_frame,
}


class _Without(Ours):
    """Our engine without one rearrangement. It goes on with the stream of the one that has all of them, whose results
    are the same, so that memory need not be filled anew for each."""

    def __init__(self, whole: Ours, variant: str) -> None:
        super().__init__(whole.task, whole.dtype, compiled=False)
        self.name = f"without: {variant}"
        self._whole = whole
        self._context = VARIANTS[variant]

    def begin(self, frame: Rgb, boxes: NDArray[np.float32]) -> None:
        self.tracker = self._whole.tracker

    def step(self, frame: Rgb) -> int:
        with self._context(self.task.model):
            return super().step(frame)


def run(
    task: Task, scene: MovingScene, dtypes: Sequence[str], frames: int, tell: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """For each dtype and rearrangement: how many times as long a frame takes without it."""
    found = []
    for dtype in dtypes:
        names = [name for name in VARIANTS if dtype != "float32" or name != "rounded weights kept"]
        whole = Ours(task, dtype, compiled=False, replays=False)  # a recording would go on as it was recorded
        entered = [whole, *(_Without(whole, name) for name in names)]
        fills = [FILL, *(1 for _ in names)]
        ours, *others = measure(entered, scene, task.model.device, frames, tell=tell, fills=fills)
        found += [_row(dtype, name, ours, other) for name, other in zip(names, others, strict=True)]
    return found


def _row(dtype: str, name: str, ours: Series, other: Series) -> dict[str, Any]:
    if other.failure:
        return {"dtype": dtype, "rearrangement": name, "failure": other.failure}
    return {
        "dtype": dtype,
        "rearrangement": name,
        "ms_with": round(ours.p50, 1),
        "ms_without": round(other.p50, 1),
        **ratio(ours, other),
    }
