"""Finds the weights of SAM 3's tracker in a file of the whole model, and gives them our names.

Layouts: the authors' file (``sam3.pt``), Hugging Face's of the whole model (``facebook/sam3``), and the state dict of
``transformers``' ``Sam3TrackerVideoModel``. All have the image encoder with a neck for the tracker, and the tracker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sam2_ros.text import printable

_THEIRS = "detector.backbone.vision_backbone."
_SHARED = "shared_image_embedding.positional_embedding"
_POINTS = "sam_prompt_encoder.point_embeddings."

# Patterns and what they become, in this order. The first ones say which layout it is.
_AUTHORS = (
    (r"^detector\.backbone\.vision_backbone\.trunk\.", "image_encoder.trunk."),
    (r"^detector\.backbone\.vision_backbone\.sam2_convs\.", "image_encoder.neck.convs."),
    (r"^tracker\.transformer\.encoder\.", "memory_attention."),
    (r"^tracker\.maskmem_backbone\.", "memory_encoder."),
    (r"^tracker\.", ""),
    (r"\.mlp\.(?:fc|lin)1\.", ".mlp.layers.0."),
    (r"\.mlp\.(?:fc|lin)2\.", ".mlp.layers.1."),
)
_WHOLE_MODEL = (
    (r"^detector_model\.vision_encoder\.backbone\.", "vision_encoder.backbone."),
    (r"^tracker_neck\.", "vision_encoder.neck."),
    (r"^tracker_model\.", ""),
)
_TRACKER = (
    # the image encoder
    (r"^vision_encoder\.backbone\.embeddings\.position_embeddings$", "image_encoder.trunk.pos_embed"),
    (r"^vision_encoder\.backbone\.embeddings\.patch_embeddings\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.layer_norm\.", "image_encoder.trunk.ln_pre."),
    (r"^vision_encoder\.backbone\.layers\.", "image_encoder.trunk.blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.mlp\.fc1\.", ".mlp.layers.0."),
    (r"\.mlp\.fc2\.", ".mlp.layers.1."),
    (r"^vision_encoder\.neck\.fpn_layers\.", "image_encoder.neck.convs."),
    (r"convs\.0\.scale_layers\.0\.", "convs.0.dconv_2x2_0."),
    (r"convs\.0\.scale_layers\.2\.", "convs.0.dconv_2x2_1."),
    (r"convs\.1\.scale_layers\.0\.", "convs.1.dconv_2x2."),
    (r"\.proj1\.", ".conv_1x1."),
    (r"\.proj2\.", ".conv_3x3."),
    # the tracker's parts
    (r"^prompt_encoder\.", "sam_prompt_encoder."),
    (r"shared_embedding\.positional_embedding$", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    (r"^mask_decoder\.", "sam_mask_decoder."),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
    (r"(transformer\.layers\.\d\.mlp)\.proj_in\.", r"\1.layers.0."),
    (r"(transformer\.layers\.\d\.mlp)\.proj_out\.", r"\1.layers.1."),
    (r"(mlps\.\d|_head|^object_pointer_proj)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|_head|^object_pointer_proj)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|_head|^object_pointer_proj)\.proj_out\.", r"\1.layers.2."),
    (r"mask_downsampler\.final_conv\.", "mask_downsampler.encoder.12."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"^memory_encoder\.memory_fuser\.", "memory_encoder.fuser."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv", ".pwconv"),
    (r"(fuser\.layers\.\d)\.scale$", r"\1.gamma"),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    # its own weights
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
)


def is_sam3(state: Iterable[str]) -> bool:
    """Whether the names are those of SAM 3, with or without its tracker."""
    return any(
        name.startswith((_THEIRS, "detector_model.", "tracker_neck.", "vision_encoder.backbone.embeddings."))
        for name in state
    )


def tracker_names(state: Iterable[str]) -> dict[str, str]:
    """Their names of the tracker's weights, and our names of these. What the tracker does not read is left out: the
    detector, the text encoder, and some maps."""
    names = list(state)
    authors = is_authors(names)
    found = {theirs: _renamed(theirs, _AUTHORS) if authors else _hugging_face(theirs) for theirs in names}
    return {
        theirs: name
        for theirs, name in found.items()
        # What is left of the detector; a map at half of the trunk's resolution; tables that are computed.
        if not name.startswith(("detector", "image_encoder.neck.convs.3.")) and not name.endswith(".freqs_cis")
    }


def is_authors(state: Iterable[str]) -> bool:
    """Whether names of SAM 3 are those of the authors' file."""
    return any(name.startswith(_THEIRS) for name in state)


def joined(found: Mapping[str, Tensor], authors: bool) -> dict[str, Tensor]:
    """The tracker's weights, which have our names, as our modules have them. ``authors``: they are of such a file.

    Raises:
        ValueError: there is no tracker, what has to be equal differs, or tensors do not fit each other.
    """
    found = dict(found)
    if "maskmem_tpos_enc" not in found:
        raise ValueError("a file of SAM 3 without its tracker; accepted: sam3.pt, or facebook/sam3's model.safetensors")
    try:
        if authors:
            _without_class_token(found)
        else:
            _join(found)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"tensors that belong together have sizes that do not fit ({printable(error, 200)})"
        ) from error
    return found


def _hugging_face(name: str) -> str:
    name = _renamed(_renamed(name, _WHOLE_MODEL), _TRACKER)
    if name.startswith("memory_encoder.mask_downsampler.layers."):
        _, level, part, leaf = name.rsplit(".", 3)
        return f"memory_encoder.mask_downsampler.encoder.{3 * int(level) + (part == 'layer_norm')}.{leaf}"
    return re.sub(r"\.layer_norm(\d?)\.", r".norm\1.", name)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _without_class_token(found: dict[str, Tensor]) -> None:
    """Drops the position of the class token, which the trunk has not, in place."""
    name = "image_encoder.trunk.pos_embed"
    if name in found and found[name].ndim == 3:
        found[name] = found[name][:, 1:]


def _join(found: dict[str, Tensor]) -> None:
    """Joins and divides tensors as our modules have them, in place.

    Raises:
        ValueError: two copies of one tensor differ.
    """
    shared, matrix = found.pop(_SHARED, None), "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    if shared is not None and not torch.equal(shared, found.setdefault(matrix, shared)):
        raise ValueError(f"'{_SHARED}' and the prompt encoder's own differ; accepted: equal ones")
    points = found.pop("sam_prompt_encoder.point_embed.weight", None)
    if points is not None:
        found |= {f"{_POINTS}{index}.weight": row[None] for index, row in enumerate(points)}
    for query in [name for name in found if ".attention.q_proj." in name]:
        names = [query.replace(".q_proj.", f".{each}_proj.") for each in "qkv"]
        if all(name in found for name in names):
            found[query.replace(".attention.q_proj.", ".attn.qkv.")] = torch.cat([found.pop(name) for name in names])
