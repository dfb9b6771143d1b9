"""The parts of the network, and their learning rates."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn

from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.optimise import Group

UNUSED = ("no_mem_pos_enc",)  # in every checkpoint, but the network does not use it
_BLOCK = re.compile(r"image_encoder\.trunk\.(?:stages\.\d+\.)?(?:\w+)(?:\.\d+)?")


def part_of(name: str) -> str:
    """The part that a parameter belongs to: encoder, prompts (SAM's prompt encoder), decoder, or memory."""
    if name.startswith("image_encoder."):
        return "encoder"
    if name.startswith("sam_prompt_encoder."):
        return "prompts"
    return "decoder" if name.startswith("sam_mask_decoder.") else "memory"


def encoder_depths(model: Sam2Model) -> dict[str, int]:
    """Distance of each parameter of the image encoder from its output, in blocks; 0 is the neck."""
    block_of: dict[str, str] = {}
    for name, _ in model.named_parameters():
        if name.startswith("image_encoder."):
            match = _BLOCK.match(name)
            # Position embeddings and patches come first, wherever they are registered.
            block_of[name] = "neck" if match is None else "first" if "embed" in match[0] else match[0]
    blocks = ["first", *dict.fromkeys(block for block in block_of.values() if block not in ("first", "neck")), "neck"]
    return {name: len(blocks) - 1 - blocks.index(block) for name, block in block_of.items()}


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to biases, norms and embeddings."""
    single = ("_enc", "_embed", "_token.weight", "_tokens.weight", "no_obj_ptr", "pos_embed_window", "attention_biases")
    return parameter.ndim > 1 and not name.endswith(single) and "_embed." not in name and "embeddings." not in name


def trainable_groups(
    model: Sam2Model, frozen: Collection[str], rate: float, encoder_rate: float, layer_decay: float, weight_decay: float
) -> list[Group]:
    """Sets which parameters require gradients, and groups them for the optimizer.

    Args:
        model: every part that is not in ``frozen`` is trained.
        frozen: names of parts.
        rate: learning rate outside of the image encoder.
        encoder_rate: of the image encoder's neck; each block before it has ``layer_decay`` times that of the next
            (Bao et al., "BEiT", 2022).
        layer_decay: 1 gives every block the same rate.
        weight_decay: of weights, see :func:`decays`.
    """
    depths = encoder_depths(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part not in frozen and name not in UNUSED)
        if parameter.requires_grad:
            speed = encoder_rate * layer_decay ** depths[name] if part == "encoder" else rate
            key = (speed, weight_decay if decays(name, parameter) else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr": rate, "rate": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
