"""The parts of the network that other runtimes can run, and their export as ONNX files of fixed shapes.

Each graph works on one image or one object. ``Sam2Model`` calls them through :class:`.graph_runner.GraphRunner`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sam2_ros.model.sam2 import Sam2Model

OPSET = 17  # the first one with layer normalisation
# Room for frames and pointers: one prompt under load, one prompt, up to four, up to ten
MEMORIES = ((3, 16), (7, 16), (10, 20), (16, 32))
PROMPT_TOKENS = (2, 3)  # no prompt or one click, a box; one token is padding
IMAGE, ATTEND_IMAGE, ATTEND_MEMORY, DECODE, MEMORY = (
    "image_encoder", "image_attention", "memory_attention", "mask_decoder", "memory_encoder",
)  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """One graph, and drawn inputs of its shapes."""

    name: str  # also of its file
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    run: Callable[..., tuple[Tensor, ...]]

    def __call__(self) -> tuple[Tensor, ...]:
        """Its outputs for the drawn inputs, by PyTorch."""
        return self.run(*self.inputs.values())


def image_encoder(model: Sam2Model, side: int) -> Graph:
    """Normalised image (``[1, 3, side, side]``) → maps of strides 16, 8 and 4 in the model's grid, and appearance."""
    outputs = ("stride_16", "stride_8", "stride_4", *(("appearance",) if model.appearance is not None else ()))
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    suffix = "" if side == model.config.image_size else f"_of_{side}"
    return Graph(f"{IMAGE}{suffix}", {"images": images}, outputs, lambda x: tuple(model.image_maps(x)))


def image_attention(model: Sam2Model) -> Graph:
    """Map of stride 16 → tokens ``[1, hw, C]`` after the first self-attention, which all objects share."""
    run = lambda stride_16: (model.attend_image(stride_16),)  # noqa: E731
    return Graph(ATTEND_IMAGE, {"stride_16": _drawn(1, *_image(model))}, ("tokens",), run)


def memory_attention(model: Sam2Model, frames: int, pointers: int) -> Graph:
    """Tokens of the image and an object's memory → the image conditioned on it (``[1, C, h, w]``).

    ``memory`` and ``keys`` (``[1, K, memory_dim]``; with position codes) hold whole frames, then pointers. ``bias``
    (``[1, K]``) is 0 for a token that counts, and -1e9 for one that does not.
    """
    config = model.config
    split = config.hidden_dim // config.memory_dim
    tokens = frames * config.memory_tokens + pointers * split
    bias = torch.zeros(1, tokens)
    bias[:, : config.memory_tokens] = -1e9

    def run(image: Tensor, memory: Tensor, keys: Tensor, bias: Tensor) -> tuple[Tensor]:
        return (model.attend_memory(image, memory, keys, pointers * split, bias),)

    inputs = {
        "tokens": _drawn(1, config.grid**2, config.hidden_dim), "memory": _drawn(1, tokens, config.memory_dim),
        "keys": _drawn(1, tokens, config.memory_dim), "bias": bias,
    }  # fmt: skip
    return Graph(f"{ATTEND_MEMORY}_{frames}_{pointers}", inputs, ("conditioned",), run)


def mask_decoder(model: Sam2Model, tokens: int) -> Graph:
    """Conditioned image, with the prompt's map added, and so many prompt tokens → masks.

    Outputs as in :class:`.mask_decoder.DecodedMasks`.
    """
    side, dim = model.config.grid, model.config.hidden_dim

    def run(source: Tensor, prompt: Tensor, stride_8: Tensor, stride_4: Tensor) -> tuple[Tensor, ...]:
        position = model.sam_prompt_encoder.image_position()
        decoded = model.sam_mask_decoder(source, position, prompt, torch.zeros(()), stride_8, stride_4)
        return decoded.logits, decoded.ious, decoded.tokens, decoded.object_score

    inputs = {
        "source": _drawn(1, *_image(model)), "prompt": _drawn(1, tokens, dim),
        "stride_8": _drawn(1, dim // 4, 2 * side, 2 * side), "stride_4": _drawn(1, dim // 8, 4 * side, 4 * side),
    }  # fmt: skip
    return Graph(f"{DECODE}_{tokens}", inputs, ("logits", "ious", "tokens", "object_score"), run)


def memory_encoder(model: Sam2Model) -> Graph:
    """Map of stride 16 and an object's low-resolution logits (``[1, 1, 4h, 4w]``) → maps of its memory."""
    side = 4 * model.config.grid
    inputs = {"stride_16": _drawn(1, *_image(model)), "logits": 4 * _drawn(1, 1, side, side)}
    return Graph(MEMORY, inputs, ("memory",), lambda image, logits: (model.memory_maps(image, logits),))


def usual_graphs(model: Sam2Model) -> list[Graph]:
    """Those that tracking with one prompt for each object uses."""
    return [
        image_encoder(model, model.config.image_size),
        image_attention(model),
        memory_attention(model, *MEMORIES[1]),
        *(mask_decoder(model, tokens) for tokens in PROMPT_TOKENS),
        memory_encoder(model),
    ]


def export(graph: Graph, path: Path) -> None:
    """Writes ``graph`` as an ONNX file, float32. Other threads must not use the network's CPU kernels meanwhile."""

    class Module(nn.Module):
        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            return graph.run(*inputs)

    options: dict[str, Any] = {"opset_version": OPSET, "do_constant_folding": True}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # the other exporter needs packages of its own
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes become constants, as they should
        graph()  # fills the caches of weights, which would else be computed in the graph
        torch.onnx.export(
            Module(), tuple(graph.inputs.values()), str(path), input_names=list(graph.inputs),
            output_names=list(graph.outputs), **options,
        )  # fmt: skip


def _image(model: Sam2Model) -> tuple[int, int, int]:
    return model.config.hidden_dim, model.config.grid, model.config.grid


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
