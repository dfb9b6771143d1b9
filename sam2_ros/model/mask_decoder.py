"""SAM 2's mask decoder: a two-way transformer between a few tokens and the image, then masks, IoU and object score."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model import dispatch
from sam2_ros.model.dispatch import uses_triton
from sam2_ros.model.layers import Attention, Conv2d, LayerNorm, LayerNorm2d, Mlp, with_position
from sam2_ros.model.network import DecodedMasks


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, feed-forward, image to tokens; post-norm."""

    def __init__(self, dim: int, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, hidden, dim)
        self.norm3 = LayerNorm(dim)
        self.norm4 = LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, dim // 2)

    def forward(self, tokens: Tensor, image: Tensor, tokens_pos: Tensor, image_pos: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            # The tokens are their own position code here, so neither the code nor a residual is added.
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            query = tokens + tokens_pos
            tokens = self.norm1.of_sum(tokens, self.self_attn(query, query, tokens))
        value, key = with_position(image, image_pos)
        tokens = self.norm2.of_sum(tokens, self.cross_attn_token_to_image(tokens + tokens_pos, key, value))
        tokens = self.norm3.of_sum(tokens, self.mlp(tokens))
        image = self.norm4.of_sum(image, self.cross_attn_image_to_token(key, tokens + tokens_pos, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two :class:`TwoWayBlock`, then attention of the tokens to the image."""

    def __init__(self, dim: int, heads: int = 8, hidden: int = 2048, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, heads, hidden, first=index == 0) for index in range(depth))
        self.final_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.norm_final_attn = LayerNorm(dim)

    def forward(self, image: Tensor, image_pos: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``image`` ``[B, HW, C]`` and ``tokens`` ``[B, N, C]`` → tokens and image after attention."""
        out = tokens
        for layer in self.layers:
            out, image = layer(out, image, tokens, image_pos)
        value, key = with_position(image, image_pos)
        return self.norm_final_attn.of_sum(out, self.final_attn_token_to_image(out + tokens, key, value)), image


class MaskDecoder(nn.Module):
    """Image features and prompt tokens → :class:`DecodedMasks`."""

    def __init__(self, dim: int, high_res_channels: tuple[int, int], num_masks: int = 4) -> None:
        super().__init__()
        self.num_masks = num_masks
        self.transformer = TwoWayTransformer(dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        if all(high_res_channels):  # applied once per image, right after the image encoder
            self.conv_s0 = Conv2d(high_res_channels[0], dim // 8, 1)
            self.conv_s1 = Conv2d(high_res_channels[1], dim // 4, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(dim, dim, dim, dim // 8) for _ in range(num_masks))
        self.iou_prediction_head = Mlp(dim, dim, dim, num_masks, sigmoid=True)
        self.pred_obj_score_head = Mlp(dim, dim, dim, 1)

    def forward(
        self, image: Tensor, image_pos: Tensor, prompt_tokens: Tensor, dense: Tensor, stride_8: Tensor, stride_4: Tensor
    ) -> DecodedMasks:
        """Decodes ``prompt_tokens`` ``[B, N, C]`` on ``image``, the features conditioned on memory (``[B, C, h, w]``).

        Its code ``image_pos`` is ``[1, C, h, w]``. ``dense`` is broadcastable to it. The finer maps are
        ``[1 or B, C / 4, 2h, 2w]`` and ``[1 or B, C / 8, 4h, 4w]``.
        """
        tokens, source = self.attend(image, image_pos, prompt_tokens, dense)
        score = self.pred_obj_score_head(tokens[:, 0])
        logits = self.draw(tokens, source, stride_8, stride_4)
        return DecodedMasks(logits, self.ious(tokens), self.mask_part(tokens), score)

    def attend(self, image: Tensor, image_pos: Tensor, prompt_tokens: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """The first half of :meth:`forward`, from which :meth:`ious` and :meth:`draw` go on: the tokens ``[B, n, C]``
        and the image ``[B, hw, C]`` after attention."""
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(len(prompt_tokens), -1, -1), prompt_tokens), dim=1)
        source = (image + dense).flatten(2).transpose(1, 2)
        attended: tuple[Tensor, Tensor] = self.transformer(source, image_pos.flatten(2).transpose(1, 2), tokens)
        return attended

    def ious(self, tokens: Tensor) -> Tensor:
        """Predicted IoU of the four masks, ``[B, 4]``."""
        ious: Tensor = self.iou_prediction_head(tokens[:, 1])
        return ious

    def mask_part(self, tokens: Tensor) -> Tensor:
        """The tokens of the four masks, ``[B, 4, C]``."""
        return tokens[:, 2 : 2 + self.num_masks]

    def draw(self, tokens: Tensor, source: Tensor, stride_8: Tensor, stride_4: Tensor) -> Tensor:
        """Logits of the four masks, ``[B, 4, 4h, 4w]``."""
        height, width = stride_8.shape[-2] // 2, stride_8.shape[-1] // 2
        feature = self._upscaled(source.transpose(1, 2).unflatten(2, (height, width)), stride_8, stride_4)
        pairs = zip(self.output_hypernetworks_mlps, self.mask_part(tokens).unbind(1), strict=True)
        weights = torch.stack([mlp(token) for mlp, token in pairs], dim=1)
        return (weights @ feature.flatten(2)).unflatten(2, feature.shape[2:])

    def _upscaled(self, feature: Tensor, stride_8: Tensor, stride_4: Tensor) -> Tensor:
        """``feature`` scaled up to stride 4, with the finer maps added on the way."""
        layers: list[Any] = list(self.output_upscaling)
        up1, norm, _, up2, act2 = layers
        if not uses_triton(feature):
            feature = norm.gelu(up1(feature) + stride_8)
            upscaled: Tensor = act2(up2(feature) + stride_4)
            return upscaled
        from sam2_ros.model.gpu.norm_kernels import add_gelu, add_norm

        def rows(up: Any, x: Tensor, finer: Tensor) -> tuple[Tensor, Tensor]:
            # A convolution would add its bias in a pass of its own. Here the finer map gets it, once for all objects.
            maps = finer + up.bias[:, None, None], F.conv_transpose2d(x, up.weight, None, stride=2)
            return maps[0].permute(0, 2, 3, 1).contiguous(), maps[1].permute(0, 2, 3, 1).contiguous()

        x = add_norm(*rows(up1, feature, stride_8), norm, dispatch.TRITON_DTYPE, keep=False, gelu=True)[1]
        return add_gelu(*rows(up2, x.permute(0, 3, 1, 2), stride_4)).permute(0, 3, 1, 2)
