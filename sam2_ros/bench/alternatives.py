"""Rearrangements that are not made, or not everywhere: each part of a frame as it is and as it could be.

All of them are exact but for rounding. They touch a few products each, too little to be told from a whole frame's
noise, so the part alone is measured, at the shapes of one object whose memory is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from sam2_ros.bench.contestants import synchronise
from sam2_ros.model import Sam2Model
from sam2_ros.model.kernels import Merged
from sam2_ros.model.layers import Mlp
from sam2_ros.model.mask_decoder import TwoWayBlock
from sam2_ros.model.memory_attention import MemoryAttentionLayer
from sam2_ros.model.position import as_turns, rotate, rotate_
from sam2_ros.tracking import TrackerConfig
from sam2_ros.tracking.propagation import autocast

FRAMES, POINTERS = 7, 16  # that a full memory of one prompted frame holds
ROUNDS = 40


@dataclass(frozen=True)
class Alternative:
    """``now`` and ``otherwise`` give the same numbers."""

    name: str
    now: Callable[[], Tensor]
    otherwise: Callable[[], Tensor]
    calls: int  # a frame and object
    kept_bytes: int = 0  # more memory an object


def alternatives(model: Sam2Model, dtype: torch.dtype) -> list[Alternative]:
    """Those of ``model``; to be called and run within autocast to ``dtype``."""
    return [
        _stored_keys(model, dtype),
        _merged_values(model, dtype),
        _one_mask(model, dtype),
        _constant_position(model, dtype),
        _constant_prompt(model),
    ]


def _drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _first_layer(model: Sam2Model) -> MemoryAttentionLayer:
    return cast(MemoryAttentionLayer, model.memory_attention.layers[0])


def _stored_keys(model: Sam2Model, dtype: torch.dtype) -> Alternative:
    """Keys of every stored frame, projected and turned, are kept; each age's code is added when they are read."""
    attention, table = _first_layer(model).cross_attn_image, model.memory_attention.memory_table
    cells, split = model.config.memory_grid**2, model.config.hidden_dim // model.config.memory_dim
    device, channels = model.device, model.config.memory_dim
    turns = as_turns(table) if device.type == "cpu" else table
    memory = _drawn(1, FRAMES * cells, channels).to(device)
    ages = model.maskmem_tpos_enc[:FRAMES, 0]  # [F, 1, C]
    codes = (model.memory_code + ages).flatten(0, 1)[None]
    pointers = _drawn(1, POINTERS * split, channels).to(device)

    def turned(tokens: Tensor) -> Tensor:
        frames = attention.k_proj(tokens).unflatten(1, (-1, cells))
        return rotate(frames, table)

    def now() -> Tensor:
        keys = attention.k_proj(torch.cat((memory + codes, pointers), dim=1))
        rotate_(keys[:, : FRAMES * cells].unflatten(1, (-1, cells)), turns)
        return keys

    bias = torch.zeros_like(attention.k_proj.weight[:, 0]) if attention.k_proj.bias is None else attention.k_proj.bias
    place = model.memory_code.repeat(FRAMES, 1)[None]
    stored = turned(memory + place).to(dtype)[0]  # [F, cells, width]
    added = rotate((ages.float() @ attention.k_proj.weight.float().T).expand(-1, cells, -1), table).to(dtype)
    slots = torch.arange(FRAMES, device=device)
    config = TrackerConfig()
    frames = config.prompted_slots + config.recent_slots + config.history + 1  # that the bank keeps of an object
    kept = frames * stored[0].numel() * stored.element_size() * len(model.memory_attention.layers)

    def otherwise() -> Tensor:
        keys = bias.new_empty(1, FRAMES * cells + POINTERS * split, stored.shape[2], dtype=dtype)
        torch.add(stored[slots], added, out=keys[0, : FRAMES * cells].view(FRAMES, cells, -1))
        keys[:, FRAMES * cells :] = attention.k_proj(pointers)
        return keys

    return Alternative(
        "memory keys projected and turned once, when stored",
        now, otherwise, len(model.memory_attention.layers), kept,
    )  # fmt: skip


def _merged_values(model: Sam2Model, dtype: torch.dtype) -> Alternative:
    """Two products in place of one with ``out_proj @ v_proj``; the latter is what is done on CPUs."""
    attention, merged = _first_layer(model).cross_attn_image, Merged()
    mean = _drawn(1, model.config.grid**2, model.config.memory_dim, dtype=dtype).to(model.device)
    out, inner = attention.out_proj, attention.v_proj
    return Alternative(
        "out_proj and v_proj not merged",
        lambda: merged(mean, inner, out), lambda: out(inner(mean)), len(model.memory_attention.layers),
    )  # fmt: skip


def _one_mask(model: Sam2Model, dtype: torch.dtype) -> Alternative:
    """The candidate is chosen by its predicted IoU before the masks are multiplied out."""
    decoder, side = model.sam_mask_decoder, 4 * model.config.grid
    tokens = _drawn(1, decoder.num_masks, model.config.hidden_dim, dtype=dtype).to(model.device)
    feature = _drawn(1, model.config.hidden_dim // 8, side * side, dtype=dtype).to(model.device)
    heads = [cast(Mlp, head) for head in decoder.output_hypernetworks_mlps]

    def now() -> Tensor:
        weights = torch.stack([head(tokens[:, index]) for index, head in enumerate(heads)], dim=1)
        return (weights @ feature)[:, 1:2]

    return Alternative("decoder: one mask multiplied out, not four", now, lambda: heads[1](tokens[:, 1:2]) @ feature, 1)


def _constant_position(model: Sam2Model, dtype: torch.dtype) -> Alternative:
    """What the position code adds to the decoder's projections of the image is a constant."""
    block = cast(TwoWayBlock, model.sam_mask_decoder.transformer.layers[0])
    project = block.cross_attn_token_to_image.k_proj
    image = _drawn(1, model.config.grid**2, model.config.hidden_dim).to(model.device)
    position = model.sam_prompt_encoder.image_position().flatten(2).transpose(1, 2).contiguous()
    constant = (position @ project.weight.T).to(dtype)
    calls = 2 * len(model.sam_mask_decoder.transformer.layers) + 1
    return Alternative(
        "decoder: the position code's share of keys kept",
        lambda: project(image + position), lambda: project(image) + constant, calls,
    )  # fmt: skip


def _constant_prompt(model: Sam2Model) -> Alternative:
    """Tracking has no prompt, always the same one."""
    encoder, prompt = model.sam_prompt_encoder, model.no_prompt(1)
    tokens = encoder.tokens(*prompt)
    return Alternative("the empty prompt's tokens kept", lambda: encoder.tokens(*model.no_prompt(1)), tokens.clone, 1)


@torch.inference_mode()
def run(model: Sam2Model, dtypes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Times both ways of each in turn; the least of :data:`ROUNDS`, of the processor's time on a CPU.

    ``ms_saved`` is that of a frame and object; ``difference`` the greatest, as a share of the greatest number.
    """
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter

    def took(one: Callable[[], Tensor]) -> float:
        synchronise(model.device)
        before = clock()
        one()
        synchronise(model.device)
        return (clock() - before) * 1e3

    rows: list[dict[str, Any]] = []
    for name in dtypes:
        with autocast(model, name):
            for one in alternatives(model, getattr(torch, name)):
                now, otherwise = one.now().float(), one.otherwise().float()
                pairs = [(took(one.now), took(one.otherwise)) for _ in range(ROUNDS)]
                ms_now, ms_otherwise = (min(values) for values in zip(*pairs, strict=True))
                rows.append(
                    {
                        "dtype": name,
                        "alternative": one.name,
                        "calls": one.calls,
                        "ms_now": round(ms_now, 3),
                        "ms_otherwise": round(ms_otherwise, 3),
                        "ms_saved": round(one.calls * (ms_now - ms_otherwise), 2),
                        "mib_an_object": round(one.kept_bytes / 2**20, 1),
                        "difference": float(f"{float((now - otherwise).abs().max() / now.abs().max()):.1e}"),
                    }
                )
    return rows
