"""The graphs that run a network without PyTorch: their names and shapes. Each works on one image or one object."""

from __future__ import annotations

from dataclasses import dataclass, field

from sam2_ros.model.config import ModelConfig
from sam2_ros.model.network import BINS, EVIDENCE

ANY = -1  # as a size in a shape: any from 1 on
IMAGE, ATTEND_IMAGE, ATTEND_MEMORY, MEMORY = "image_encoder", "image_attention", "memory_attention", "memory_encoder"
DECODE_POINT, DECODE = "mask_decoder_1", "mask_decoder"  # of one point, which is every tracked frame; of any number
PROMPT_MASK, GIVEN_MASK = "prompt_mask", "given_mask"
POINTER, POINTER_CODE = "pointer", "pointer_code"
LOOKS, MATCH, JUDGE, LOOK = "looks", "match", "evidence", "look"
ROUNDED = (IMAGE, ATTEND_IMAGE, ATTEND_MEMORY, MEMORY)
"""Graphs that may run in bfloat16. Not the decoder: fused by OpenVINO 2026.4, the attention of its few tokens is wrong
in bfloat16; not fused, it saves 3 % of a frame and costs exact masks."""
MEASURES = len(EVIDENCE)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """Of one graph's inputs and outputs. All are float32 but :attr:`whole`."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    whole: tuple[str, ...] = field(default=())  # inputs of int64


def is_rounded(name: str) -> bool:
    """Whether the graph ``name`` may run in bfloat16."""
    return name.startswith(ROUNDED)


def shapes_of(config: ModelConfig) -> dict[str, Shapes]:
    """Every graph of a network, by name."""
    side, dim, narrow = config.grid, config.hidden_dim, config.memory_dim
    cells, looks = side**2, config.appearance_dim or dim
    stride_16, stride_8, stride_4 = (1, dim, side, side), (1, dim // 4, 2 * side, 2 * side), _fine(dim // 8, side)
    low, picture, colors = _fine(1, side), _fine(3, side), BINS**2 + BINS
    frames = (1, ANY, config.memory_tokens, narrow)
    found = {
        IMAGE: Shapes(
            {"images": (1, 3, config.image_size, config.image_size)},
            {"stride_16": stride_16, "stride_8": stride_8, "stride_4": stride_4}
            | ({"appearance": (1, cells, looks)} if config.appearance_dim else {}),
        ),
        ATTEND_IMAGE: Shapes({"stride_16": stride_16}, {"tokens": (1, cells, dim)}),
        ATTEND_MEMORY: Shapes(
            {"tokens": (1, cells, dim), "frames": frames, "frame_codes": frames}
            | {"pointers": (1, ANY, narrow), "pointer_codes": (1, ANY, narrow)},
            {"conditioned": stride_16},
        ),
    }
    for name, points in ((DECODE_POINT, 1), (DECODE, ANY)):
        found[name] = Shapes(
            {"source": stride_16, "points": (1, points, 2), "labels": (1, points)}
            | {"stride_8": stride_8, "stride_4": stride_4},
            {"logits": _fine(4, side), "ious": (1, 4), "tokens": (1, 4, dim), "object_score": (1, 1)},
            whole=("labels",),
        )
    found |= {
        PROMPT_MASK: Shapes({"logits": low}, {"prompt": stride_16}),
        GIVEN_MASK: Shapes({"mask": (1, 1, config.mask_size, config.mask_size)}, {"prompt": stride_16}),
        MEMORY: Shapes(
            {"stride_16": stride_16, "logits": low, "sharpness": (1,)}
            | ({"present": (1,)} if config.occlusion_embedding else {}),
            {"memory": (1, config.memory_tokens, narrow)},
        ),
        POINTER: Shapes({"token": (1, dim)}, {"pointer": (1, dim)}),
        MATCH: Shapes(
            {"looks": (1, cells, looks), "known": (1, ANY, looks), "coverage": (1, ANY)},
            {"logits": (1, side, side), "prototype": (1, looks)},
        ),
        JUDGE: Shapes(
            {"match": (1, side, side), "looks": (1, cells, looks), "prototype": (1, looks), "colors": (1, ANY, colors)}
            | {"picture": picture, "logits": low[1:], "score": (1,), "iou": (1,)},
            {"evidence": (1, MEASURES)},
        ),
        LOOK: Shapes({"picture": picture, "logits": low[1:]}, {"coverage": (1, cells), "colors": (1, colors)}),
    }
    if config.pointer_time_code:
        found[POINTER_CODE] = Shapes({"ages": (1, ANY)}, {"codes": (1, ANY, narrow)}, whole=("ages",))
    if not config.appearance_dim:
        found[LOOKS] = Shapes({"stride_16": stride_16}, {"looks": (1, cells, looks)})
    return found


def check_name(graph: str) -> str:
    """The name of the array with PyTorch's outputs of ``graph``, see :func:`.graph_checks.sampled`."""
    return f"{graph}_check"


def constants_of(config: ModelConfig) -> dict[str, Shape]:
    """The arrays that a network needs beside its graphs, float32."""
    dim, narrow = config.hidden_dim, config.memory_dim
    found = {
        "no_memory": (dim,), "no_mask": (dim,), "no_pointer": (dim,), "memory_code": (config.memory_tokens, narrow),
        "time_codes": (config.num_memory_frames, 1, 1, narrow), "found": (MEASURES + 1,),
    }  # fmt: skip
    return found | ({"tracked": (MEASURES + 1,)} if config.appearance_dim else {})


def _fine(channels: int, side: int) -> Shape:
    """Of a map of stride 4."""
    return 1, channels, 4 * side, 4 * side
