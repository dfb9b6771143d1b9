"""The prompt encoder of SAM (Kirillov et al., "Segment Anything", 2023, section A): points, box corners, masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2_ros.model.dispatch import autocast_dtype
from sam2_ros.model.layers import Conv2d, LayerNorm2d, shallow_copy
from sam2_ros.model.position import RandomFourierCode
from sam2_ros.model.weight_cache import cache_of


class PromptEncoder(nn.Module):
    """Turns prompts into tokens for the mask decoder, and masks into a map that is added to the image features."""

    def __init__(self, dim: int, image_size: int, grid: int, mask_channels: int = 16) -> None:
        super().__init__()
        self.image_size, self.grid = image_size, grid
        self.pe_layer = RandomFourierCode(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.no_mask_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            Conv2d(mask_channels, dim, 1),
        )

    def at(self, image_size: int, grid: int) -> PromptEncoder:
        """The same encoder, with the same weights in memory, for another size of image."""
        other = shallow_copy(self)
        other.image_size, other.grid = image_size, grid
        return other

    def tokens(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points and box corners as tokens, then one padding token, as in the official video predictor.

        ``points`` ``[B, N, 2]`` are x, y in pixels of the network's input; ``labels`` ``[B, N]`` are 1 positive, 0
        negative, 2 and 3 corners of a box, -1 padding. The result is ``[B, N + 1, C]``.
        """
        table = torch.cat([embedding.get_parameter("weight") for embedding in self.point_embeddings])
        padding = self.not_a_point_embed.weight
        code = self.pe_layer((points.float() + 0.5) / self.image_size) + table[labels.long().clamp(min=0)]
        code = torch.where((labels < 0).unsqueeze(-1), padding, code)
        return torch.cat((code, padding.expand(len(code), 1, -1)), dim=1)

    def dense(self, mask_logits: Tensor | None) -> Tensor:
        """The map that a mask prompt (``[B, 1, 4 grid, 4 grid]`` logits) or none adds to ``[B, C, grid, grid]``."""
        if mask_logits is None:
            return self.no_mask_embed.weight[:, :, None, None]
        return self.mask_downscaling(mask_logits)

    def image_position(self) -> Tensor:
        """Position code of the image features, ``[1, C, grid, grid]``."""
        if torch.is_grad_enabled():
            return self.pe_layer.grid(self.grid)
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        return cache_of(self).get(autocast_dtype(matrix.device), (matrix,), lambda _: self.pe_layer.grid(self.grid))
