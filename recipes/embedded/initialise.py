"""The embedded model before its training: MobileSAM's encoder and decoder, and a memory that already matches features.

At step 0 the first memory-attention layer is feature matching. A memory token contains whitened principal components of
the image feature, and the covered share of the cell. Queries and keys are these components, so the softmax over the
memory is a sharp match. The value adds what MobileSAM's mask prompt would add for a foreground or background mask, in
proportion to the matched coverage. Everything else starts at zero or small.

The rotary embedding hardly turns slow pairs of channels over the image, so the components use those. A few faster pairs
contain a constant, whose product falls with distance. So near matches count more in recent frames, but not in prompted
ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.embedded import mobilesam
from recipes.embedded.mobilesam import StateDict
from sam2_ros.model.config import ModelConfig
from sam2_ros.model.layers import Mlp
from sam2_ros.model.memory_attention import MemoryAttentionLayer
from sam2_ros.model.memory_encoder import ConvNextBlock
from sam2_ros.model.network import MASK_BIAS, MASK_SCALE
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.model.tinyvit import HIGH_RES_CHANNELS

# The sine code of keys varies strongly over the image in the first 12 channels of each half. The others are almost
# constant and have room for content.
CONTENT = [*range(12, 31), *range(44, 64)]
RECENCY = 31  # constant in the sine code
COVERAGE = 0
LOCAL_PAIRS = range(8, 19)  # rotary frequencies of 0.32 to 0.07 rad per cell


@dataclass(frozen=True)
class Matching:
    """Strengths of the initial feature matching."""

    sharpness: float = 18.0  # softmax logit of a perfect match
    whitening: float = 0.5  # 0: principal components as they are, 1: all of the same variance
    locality: float = 1.5  # logit that a match in the same cell of the last frame has over a distant one
    gain: float = 1.5  # of the matched coverage around its threshold
    threshold: float = 0.4  # matched coverage where foreground and background balance


def embedded_config(image_size: int = 448) -> ModelConfig:
    """The sizes of the embedded model."""
    return ModelConfig(
        name="sam2_ros_embedded",
        trunk="tinyvit",
        image_size=image_size,
        memory_layers=1,
        memory_ffn=512,
        memory_pool=2,
        fuser_layers=0,
        high_res_channels=HIGH_RES_CHANNELS,
        remember_absence=False,
        image_code_scale=0.1,  # MobileSAM's features have a tenth of the spread of SAM 2's
    )


def initial_model(config: ModelConfig, mobile: StateDict, features: Tensor, matching: Matching) -> Sam2Model:
    """Builds the model.

    Args:
        config: its sizes.
        mobile: MobileSAM's checkpoint.
        features: vision features to draw the statistics from, ``[N, C, h, w]``.
        matching: strengths of the initial matching.
    """
    torch.manual_seed(0)
    model = Sam2Model(config)
    model.image_encoder.load_state_dict(mobilesam.image_encoder_state(mobile))
    model.sam_prompt_encoder.load_state_dict(mobilesam.prompt_encoder_state(mobile))
    with torch.no_grad():
        _initialise_decoder(model, mobilesam.mask_decoder_state(mobile))
        components = _principal_components(features, matching.whitening)
        _initialise_memory_encoder(model, components)
        _initialise_memory_attention(model, components, features, matching)
        _initialise_pointers(model)
    return model


def _set_zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _last(mlp: Mlp) -> nn.Linear:
    return cast(nn.Linear, mlp.layers[-1])


def _initialise_decoder(model: Sam2Model, state: StateDict) -> None:
    decoder = model.sam_mask_decoder
    missing, unexpected = decoder.load_state_dict(state, strict=False)
    new = ("obj_score_token", "conv_s0", "conv_s1", "pred_obj_score_head")
    if unexpected or any(not name.startswith(new) for name in missing):
        raise ValueError(f"the decoder's weights do not fit: missing {missing}, unexpected {unexpected}")
    for conv in (decoder.conv_s0, decoder.conv_s1):
        _set_zero(conv)
    # MobileSAM's IoU head is linear, ours ends in a sigmoid: 4 (x - 0.5) has its value and slope at one half.
    last = _last(decoder.iou_prediction_head)
    last.weight.mul_(4)
    last.bias.sub_(0.5).mul_(4)
    score_from_iou(model)


@torch.no_grad()
def score_from_iou(model: Sam2Model) -> None:
    """Starts the object score as twice the mean predicted-IoU logit of the candidates, zero at an IoU of 0.4.

    The predicted IoU of a covered object is low without any training; a random score would learn that slowly.
    """
    decoder = model.sam_mask_decoder
    decoder.obj_score_token.weight.copy_(decoder.iou_token.weight)
    score, iou = decoder.pred_obj_score_head.layers, decoder.iou_prediction_head.layers
    for index in range(len(iou) - 1):
        score[index].load_state_dict(iou[index].state_dict())
    cast(nn.Linear, score[-1]).weight.copy_(2 * cast(nn.Linear, iou[-1]).weight[1:].mean(0, keepdim=True))
    cast(nn.Linear, score[-1]).bias.copy_(2 * (cast(nn.Linear, iou[-1]).bias[1:].mean() + 0.4)[None])


@torch.no_grad()
def deepened(model: Sam2Model, layers: int) -> Sam2Model:
    """``model`` with more layers of memory attention, which at first change nothing.

    A new layer is a copy of the last one whose three branches end in zero: it attends to the same tokens, and learns
    how to use them.

    Raises:
        ValueError: ``layers`` is less than the model has.
    """
    count = model.config.memory_layers
    if layers < count:
        raise ValueError(f"the model has {count} layers of memory attention; accepted: {count} or more, not {layers}")
    deeper = Sam2Model(replace(model.config, memory_layers=layers))
    state = dict(model.state_dict())
    last = f"memory_attention.layers.{count - 1}."
    for key, value in model.state_dict().items():
        if not key.startswith(last):
            continue
        ends_branch = key.removeprefix(last).startswith(("self_attn.out_proj", "cross_attn_image.out_proj", "linear2"))
        for index in range(count, layers):
            copied = torch.zeros_like(value) if ends_branch else value.clone()
            state[f"memory_attention.layers.{index}.{key.removeprefix(last)}"] = copied
    deeper.load_state_dict(state)
    return deeper


def _principal_components(features: Tensor, whitening: float) -> tuple[Tensor, Tensor]:
    """``[len(CONTENT), C]`` directions, scaled so that projections of centred features have unit mean square norm, and
    the features' mean ``[C]``."""
    tokens = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = tokens.mean(0)
    _, singular, directions = torch.linalg.svd((tokens - mean)[:: max(1, len(tokens) // 20000)], full_matrices=False)
    count = len(CONTENT)
    directions = directions[:count] * (singular[:count, None] / singular[0]) ** -whitening
    scale = ((tokens - mean) @ directions.T).square().sum(1).mean().rsqrt()
    return (directions * scale).float(), mean.float()


def _initialise_memory_encoder(model: Sam2Model, components: tuple[Tensor, Tensor]) -> None:
    """Content and coverage side by side: the two are summed in channels that do not overlap."""
    encoder = model.memory_encoder
    assert encoder.pix_feat_proj.bias is not None and encoder.out_proj.bias is not None
    directions, mean = components
    scale = len(CONTENT) ** 0.5  # unit variance per channel on average
    projection = torch.zeros_like(encoder.pix_feat_proj.weight[:, :, 0, 0])
    projection[CONTENT] = directions * scale
    encoder.pix_feat_proj.weight.copy_(projection[:, :, None, None])
    encoder.pix_feat_proj.bias.copy_(-projection @ mean)

    # The last convolution of the mask branch is fitted by ridge regression to the covered share of each cell.
    *body, convolution = encoder.mask_downsampler.encoder
    last = cast(nn.Conv2d, convolution)
    assert last.bias is not None
    side = model.config.image_size
    noise = F.interpolate(torch.randn(24, 1, 9, 9), (side, side), mode="bicubic")
    masks = torch.cat((noise > 0, noise > 0.8)).float()
    hidden = nn.Sequential(*body)(masks * MASK_SCALE + MASK_BIAS).permute(0, 2, 3, 1).flatten(0, 2).double()
    target = F.avg_pool2d(masks, 16).flatten().double()
    hidden = torch.cat((hidden, torch.ones_like(hidden[:, :1])), dim=1)
    normal = hidden.T @ hidden + 1e-3 * len(hidden) * torch.eye(hidden.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(normal, hidden.T @ target).float()
    last.weight.zero_()
    last.bias.zero_()
    last.weight[COVERAGE, :, 0, 0] = solution[:-1]
    last.bias[COVERAGE] = solution[-1]
    # Channels beyond the memory's width are free for the training.
    spare = slice(model.config.memory_dim, None)
    nn.init.xavier_uniform_(last.weight[spare])
    nn.init.xavier_uniform_(encoder.pix_feat_proj.weight[spare])

    encoder.out_proj.weight.zero_()
    encoder.out_proj.bias.zero_()
    for channel in range(model.config.memory_dim):
        encoder.out_proj.weight[channel, channel] = 1
    for block in encoder.fuser.layers:
        nn.init.constant_(cast(ConvNextBlock, block).gamma, 1e-3)


def _initialise_memory_attention(
    model: Sam2Model, components: tuple[Tensor, Tensor], features: Tensor, matching: Matching
) -> None:
    attention = model.memory_attention
    tokens = features.permute(0, 2, 3, 1).flatten(0, 2)
    centre, spread = float(tokens.mean()), float(tokens.std(dim=1).mean())
    # The normalisations divide by each token's spread; this undoes it on average.
    nn.init.constant_(attention.norm.weight, spread)
    nn.init.constant_(attention.norm.bias, centre)
    layers = [cast(MemoryAttentionLayer, layer) for layer in attention.layers]
    for layer in layers:
        for out in (layer.self_attn.out_proj, layer.linear2, layer.cross_attn_image.out_proj):
            _set_zero(out)
        nn.init.constant_(layer.norm2.weight, spread)
        nn.init.constant_(layer.norm2.bias, centre)
        _initialise_matching(layer, components, matching)

    first = layers[0].cross_attn_image
    encoder = model.sam_prompt_encoder
    side = 4 * model.config.grid
    background, foreground = (
        encoder.mask_downscaling(torch.full((1, 1, side, side), value)).mean(dim=(0, 2, 3))
        - encoder.no_mask_embed.weight[0]
        for value in (-8.0, 8.0)
    )
    half = 0.5 * (foreground - background)
    effect = torch.zeros(model.config.hidden_dim, model.config.memory_dim)
    effect[:, COVERAGE] = 2 * matching.gain * half
    first.out_proj.weight.copy_(effect @ torch.linalg.pinv(first.v_proj.weight))
    first.out_proj.bias.copy_(background + half - 2 * matching.gain * matching.threshold * half)
    first.out_proj.bias.sub_(first.out_proj.weight @ first.v_proj.bias)

    steps = len(model.maskmem_tpos_enc) - 1
    nn.init.normal_(model.maskmem_tpos_enc, std=0.02)
    model.maskmem_tpos_enc[..., RECENCY] = 0
    for age in range(steps):  # the last row is for prompted frames
        model.maskmem_tpos_enc[age, ..., RECENCY] = 1 / (1 + 0.5 * age) ** 0.5


def _initialise_matching(layer: MemoryAttentionLayer, components: tuple[Tensor, Tensor], matching: Matching) -> None:
    """Queries and keys; rows 2j and 2j + 1 of a projection are the rotary pair j: x in the first half, then y."""
    attention = layer.cross_attn_image
    directions, mean = components
    dim = attention.q_proj.out_features
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.mul_(0.05)
        nn.init.zeros_(projection.bias)
    strength = (matching.sharpness * dim**0.5) ** 0.5
    half = dim // 2
    for index, channel in enumerate(CONTENT):
        row = half - 1 - index // 2 if index % 2 == 0 else dim - 1 - index // 2  # from the slowest on, x and y in turn
        attention.q_proj.weight[row] = strength * directions[index]
        attention.q_proj.bias[row] = -strength * (directions[index] @ mean)
        attention.k_proj.weight[row] = 0
        attention.k_proj.weight[row, channel] = strength / len(CONTENT) ** 0.5
    local = (matching.locality * dim**0.5 / (2 * len(LOCAL_PAIRS))) ** 0.5
    for pair in LOCAL_PAIRS:
        for row in (2 * pair, half + 2 * pair):
            attention.q_proj.weight[row] = 0
            attention.q_proj.bias[row] = local
            attention.k_proj.weight[row] = 0
            attention.k_proj.weight[row, RECENCY] = local
            attention.k_proj.bias[row] = -local  # the sine code is 1 there


def _initialise_pointers(model: Sam2Model) -> None:
    nn.init.normal_(model.no_obj_ptr, std=0.02)
    nn.init.normal_(model.no_obj_embed_spatial, std=0.02)
    model.no_obj_embed_spatial[:, COVERAGE] = 0
    last = _last(model.obj_ptr_proj)
    last.weight.mul_(0.1)
    nn.init.zeros_(last.bias)
    model.obj_ptr_tpos_proj.weight.mul_(0.1)
    nn.init.zeros_(model.obj_ptr_tpos_proj.bias)
    # Maps the binary mask to the logits of MobileSAM's mask prompt.
    assert model.mask_downsample.bias is not None
    nn.init.constant_(model.mask_downsample.weight, 16.0 / 16)
    nn.init.constant_(model.mask_downsample.bias, -8.0)
