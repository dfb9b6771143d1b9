"""Exports the parts of the network that other runtimes can run as ONNX files (:mod:`.graph_shapes`)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sam2_ros.model import graph_shapes as shapes
from sam2_ros.model.appearance import color_shares, coverage_of
from sam2_ros.model.graph_checks import drawn_inputs
from sam2_ros.model.graph_shapes import ANY, Shapes, shapes_of
from sam2_ros.model.network import Match, Reference

if TYPE_CHECKING:
    from sam2_ros.model.sam2 import Sam2Model

OPSET = 17  # the first one with layer normalisation

Run = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Graph:
    """One graph, and drawn inputs of its shapes."""

    name: str  # also of its file
    shapes: Shapes
    inputs: dict[str, Tensor]
    run: Run

    def __call__(self) -> tuple[Tensor, ...]:
        """Its outputs for the drawn inputs, by PyTorch."""
        return self.run(*self.inputs.values())


def build(model: Sam2Model, name: str) -> Graph:
    """The graph ``name`` of :func:`.graph_shapes.shapes_of`."""
    own = shapes_of(model.config)[name]
    drawn = {each: torch.from_numpy(numbers) for each, numbers in drawn_inputs(own).items()}
    return Graph(name, own, drawn, _runs(model, name))


def _runs(model: Sam2Model, name: str) -> Run:
    """The graph's inputs → its outputs, by PyTorch."""
    encoder, metric = model.sam_prompt_encoder, model.metric

    def decode(source: Tensor, points: Tensor, labels: Tensor, *fine: Tensor) -> tuple[Tensor, ...]:
        tokens, position = encoder.tokens(points, labels), encoder.image_position()
        decoded = model.sam_mask_decoder(source, position, tokens, torch.zeros(()), *fine)
        return decoded.logits, decoded.ious, decoded.tokens, decoded.object_score

    def match(looks: Tensor, known: Tensor, coverage: Tensor) -> tuple[Tensor, ...]:
        found = metric.match(looks, Reference(known, coverage, torch.zeros(1, 1, 1)))
        return found.logits, found.prototype

    def evidence(
        match: Tensor, looks: Tensor, prototype: Tensor, colors: Tensor, picture: Tensor, *mask: Tensor
    ) -> tuple[Tensor]:
        return (metric.evidence(Match(match, looks, prototype, colors), picture, *mask),)

    def look(picture: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        return coverage_of(logits, model.config.grid), color_shares(picture, logits)

    runs: dict[str, Run] = {
        shapes.IMAGE: lambda images: tuple(model.image_maps(images)),
        shapes.ATTEND_IMAGE: lambda stride_16: (model.attend_image(stride_16),),
        shapes.ATTEND_MEMORY: lambda *inputs: (model.attend_memory(*inputs),),
        shapes.DECODE_POINT: decode,
        shapes.DECODE: decode,
        shapes.PROMPT_MASK: lambda logits: (encoder.dense(logits),),
        shapes.GIVEN_MASK: lambda mask: (encoder.dense(model.mask_downsample(mask)),),
        shapes.MEMORY: lambda *inputs: (model.memory_of(*inputs),),
        shapes.POINTER: lambda token: (model.obj_ptr_proj(token),),
        shapes.POINTER_CODE: lambda ages: (model.pointer_code(ages),),
        shapes.LOOKS: lambda stride_16: (metric.embed(stride_16, stride_16),),  # a plain metric reads one map
        shapes.MATCH: match,
        shapes.JUDGE: evidence,
        shapes.LOOK: look,
    }
    return runs[name]


def constants(model: Sam2Model) -> dict[str, Tensor]:
    """The arrays of :func:`.graph_shapes.constants_of`."""
    found = {
        "no_memory": model.no_mem_embed.flatten(), "no_mask": model.sam_prompt_encoder.no_mask_embed.weight.flatten(),
        "no_pointer": model.no_obj_ptr.flatten(), "memory_code": model.memory_code,
        "time_codes": model.maskmem_tpos_enc, "found": _weights(model.metric.found),
    }  # fmt: skip
    return found if model.appearance is None else found | {"tracked": _weights(model.appearance.tracked)}


def _weights(judge: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights and bias of a linear judgement of evidence, ``[MEASURES + 1]``."""
    bias = judge(torch.zeros(1, shapes.MEASURES))
    return torch.cat((judge(torch.eye(shapes.MEASURES)) - bias, bias))[:, 0]


def export(graph: Graph, path: Path) -> None:
    """Writes ``graph`` as an ONNX file, float32. Other threads must not use the network's CPU kernels meanwhile."""

    class Module(nn.Module):
        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            return graph.run(*inputs)

    sides = graph.shapes.inputs | graph.shapes.outputs
    free = {
        name: {axis: f"any_{name}" for axis, size in enumerate(shape) if size == ANY}
        for name, shape in sides.items()
        if ANY in shape
    }
    options: dict[str, Any] = {"opset_version": OPSET, "do_constant_folding": True, "dynamic_axes": free}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # the other exporter needs packages of its own
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes become constants, as they should
        graph()  # fills the caches of weights, which would else be computed in the graph
        torch.onnx.export(
            Module(), tuple(graph.inputs.values()), str(path), input_names=list(graph.inputs),
            output_names=list(graph.shapes.outputs), **options,
        )  # fmt: skip
