"""The trunk of EdgeTAM's image encoder: the convolutional network RepViT-M1.

Sources: Wang et al., "RepViT: Revisiting Mobile CNN From ViT Perspective", CVPR 2024; Zhou et al., "EdgeTAM: On-Device
Track Anything Model", CVPR 2025. Each convolution contains the batch normalisation that follows it in the official
checkpoint, and each token mixer the branches beside it: :func:`fold` makes these weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.layers import Conv2d

WIDTHS = (48, 96, 192, 384)
DEPTHS = (2, 2, 14, 2)
NORM_EPS = 1e-5  # of the batch normalisation


class Mixer(nn.Module):
    """Two 1×1 convolutions (expansion 2) with GELU between, and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, 2 * channels, 1)
        self.conv2 = Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1.gelu(x))


class SqueezeExcite(nn.Module):
    """Scales each channel by what the image's mean says (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = -(-channels // 32) * 8  # a quarter, in eights
        self.fc1 = Conv2d(channels, hidden, 1)
        self.fc2 = Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class RepViTBlock(nn.Module):
    """Mixes neighbours, then channels."""

    def __init__(self, channels: int, excites: bool) -> None:
        super().__init__()
        self.token_mixer = Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.se = SqueezeExcite(channels) if excites else nn.Identity()
        self.channel_mixer = Mixer(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.channel_mixer(self.se(self.token_mixer(x)))
        return out


class Downsample(nn.Module):
    """To half the side and ``wider`` channels."""

    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        self.pre_block = RepViTBlock(channels, excites=False)
        self.spatial_downsample = Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
        self.channel_downsample = Conv2d(channels, wider, 1)
        self.ffn = Mixer(wider)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ffn(self.channel_downsample(self.spatial_downsample(self.pre_block(x))))
        return out


class Stage(nn.Module):
    """Blocks of one width."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.downsample = Downsample(WIDTHS[index - 1], WIDTHS[index]) if index else nn.Identity()
        self.blocks = nn.Sequential(*(RepViTBlock(WIDTHS[index], at % 2 == 0) for at in range(DEPTHS[index])))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.downsample(x))
        return out


class Stem(nn.Module):
    """Two strided convolutions: ``[B, 3, S, S]`` → ``[B, channels, S / 4, S / 4]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.conv2 = Conv2d(channels // 2, channels, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv2(self.conv1.gelu(images))


class RepViT(nn.Module):
    """``[B, 3, S, S]`` → four maps ``[B, C, H, W]`` at strides 4, 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"stem": Stem(WIDTHS[0])})
        for index in range(len(WIDTHS)):
            self.body[f"stages_{index}"] = Stage(index)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images.contiguous(memory_format=torch.channels_last)
        maps = []
        for part in self.body.values():
            x = part(x)
            maps.append(x)
        return maps[1:]


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official state dict of EdgeTAM with batch normalisation and parallel branches folded into convolutions.

    A tensor that is no part of such a convolution stays as it is. So does a convolution of which a part is missing
    or has another shape: the network has no tensor of that name.
    """
    folded = dict(state)
    for name in [name for name in folded if name.endswith(".c.weight")]:
        conv = name.removesuffix(".c.weight")
        parts = [f"{conv}.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if _are(folded, dict.fromkeys(parts, folded[name].shape[:1])) and folded[name].ndim == 4:
            gain, bias, mean, variance = (folded.pop(part).double() for part in parts)
            gain = gain / (variance + NORM_EPS).sqrt()
            folded[f"{conv}.weight"] = folded.pop(name).double() * gain[:, None, None, None]
            folded[f"{conv}.bias"] = bias - mean * gain
    for name in [name for name in folded if name.endswith(".token_mixer.conv.weight")]:
        mixer = name.removesuffix(".conv.weight")
        parts = [f"{mixer}.{part}" for part in ("conv.bias", "conv1.weight", "conv1.bias")]
        channels = folded[name].shape[0] if folded[name].ndim else 0
        shapes = dict(zip(parts, ((channels,), (channels, 1, 1, 1), (channels,)), strict=True))
        if _are(folded, {name: (channels, 1, 3, 3)} | shapes):
            # A 3×3 and a 1×1 depthwise convolution of the input, and the input itself: all in the middle of a 3×3 one.
            around = folded.pop(name).clone()
            bias, centre, bias_of_centre = (folded.pop(part) for part in parts)
            around[:, :, 1, 1] += centre[:, :, 0, 0] + 1
            folded[f"{mixer}.weight"], folded[f"{mixer}.bias"] = around, bias + bias_of_centre
    return {name: value.float() if value.dtype == torch.float64 else value for name, value in folded.items()}


def _are(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether all these tensors are there, of these shapes."""
    return all(name in state and tuple(state[name].shape) == tuple(shape) for name, shape in shapes.items())
