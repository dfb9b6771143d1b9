"""Triton kernels for an image before and within the image encoder. Needs ``triton``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2_ros.model.gpu.triton_helpers import neighbours

TAPS, PADDED_TAPS = 49, 64  # a patch's 7 × 7 pixels, padded to a power of two


@triton.jit
def _resize(image_ptr, shape_ptr, mean_ptr, std_ptr, out_ptr, size, PIXELS: tl.constexpr):
    """Some pixels of one channel of the square."""
    height, width = tl.load(shape_ptr), tl.load(shape_ptr + 1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1)
    valid = pixel < size * size
    scale_y, scale_x = height.to(tl.float32) / size, width.to(tl.float32) / size
    low_y, next_y, part_y = neighbours(pixel // size, scale_y, height)
    low_x, next_x, part_x = neighbours(pixel % size, scale_x, width)
    upper_row, lower_row = image_ptr + low_y * width * 3 + channel, image_ptr + next_y * width * 3 + channel
    upper = tl.load(upper_row + low_x * 3, mask=valid, other=0).to(tl.float32) * (1 - part_x)
    upper += tl.load(upper_row + next_x * 3, mask=valid, other=0).to(tl.float32) * part_x
    lower = tl.load(lower_row + low_x * 3, mask=valid, other=0).to(tl.float32) * (1 - part_x)
    lower += tl.load(lower_row + next_x * 3, mask=valid, other=0).to(tl.float32) * part_x
    value = (upper * (1 - part_y) + lower * part_y) / 255
    value = (value - tl.load(mean_ptr + channel)) / tl.load(std_ptr + channel)
    tl.store(out_ptr + channel * size * size + pixel, value, mask=valid)


def resized(image: Tensor, shape: Tensor, mean: Tensor, std: Tensor, size: int) -> Tensor:
    """An RGB image that does not shrink → normalised ``float32 [1, 3, S, S]``, bilinear without antialiasing.

    The first ``H * W * 3`` numbers of ``image`` (``uint8``, contiguous) are the image. ``shape`` (H and W, int32) is on
    the device, so that one CUDA graph serves images of any size. ``mean`` and ``std`` are float32 ``[3, ...]``.
    """
    assert image.is_contiguous() and image.dtype == torch.uint8 and shape.dtype == torch.int32
    out, pixels = torch.empty(1, 3, size, size, device=image.device), 512
    _resize[(triton.cdiv(size * size, pixels), 3)](image, shape, mean, std, out, size, PIXELS=pixels, num_warps=4)
    return out


@triton.jit
def _embed(image_ptr, taps_ptr, bias_ptr, position_ptr, out_ptr, size, grid, channels,
           PIXELS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Some patches, all channels: a matrix product of 7 × 7 pixels (padded to 64) for each colour."""
    image = tl.program_id(1).to(tl.int64)
    patch = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = patch < grid * grid
    y, x = patch // grid, patch % grid
    tap, channel = tl.arange(0, 64), tl.arange(0, WIDTH)
    from_y = 4 * y[:, None] + (tap // 7 - 3)[None, :]
    from_x = 4 * x[:, None] + (tap % 7 - 3)[None, :]
    inside = valid[:, None] & (tap < 49)[None, :] & (from_y >= 0) & (from_x >= 0) & (from_y < size) & (from_x < size)
    offset = from_y * size + from_x
    acc = tl.zeros((PIXELS, WIDTH), tl.float32)
    for colour in tl.static_range(3):
        given = tl.load(image_ptr + (image * 3 + colour) * size * size + offset, mask=inside, other=0.0)
        taps = tl.load(taps_ptr + (colour * 64 + tap[:, None]) * WIDTH + channel[None, :])
        acc = tl.dot(given.to(taps.dtype), taps, acc)
    known = valid[:, None] & (channel < channels)[None, :]
    acc += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0)[None, :]
    offset = patch[:, None] * channels + channel[None, :]
    acc += tl.load(position_ptr + offset, mask=known, other=0.0)
    tl.store(out_ptr + image * grid * grid * channels + offset, acc, mask=known)


def pack_patch_taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights of a 7×7 convolution of three colours (``[C, 3, 7, 7]``) as :func:`embed` reads them."""
    channels = len(weight)
    taps = torch.zeros(3, PADDED_TAPS, triton.next_power_of_2(channels), dtype=dtype, device=weight.device)
    taps[:, :TAPS, :channels] = weight.flatten(2).permute(1, 2, 0).to(dtype)
    return taps.contiguous()


def embed(images: Tensor, taps: Tensor, bias: Tensor, position: Tensor) -> Tensor:
    """Embeds patches of ``[B, 3, S, S]`` at stride 4 and adds their ``position`` embedding, ``[B, S / 4, S / 4, C]``.

    All are float32 and contiguous but the ``taps`` by :func:`pack_patch_taps`, which are in the dtype of the products.
    """
    batch, size, grid, channels = len(images), images.shape[3], position.shape[1], position.shape[3]
    assert images.is_contiguous() and images.shape[1:] == (3, size, size) and position.is_contiguous()
    out, pixels = torch.empty(batch, grid, grid, channels, device=images.device), 64
    _embed[(triton.cdiv(grid * grid, pixels), batch)](
        images, taps, bias, position, out, size, grid, channels,
        PIXELS=pixels, WIDTH=taps.shape[2], num_warps=4 if taps.shape[2] <= 128 else 8,
    )  # fmt: skip
    return out


@triton.jit
def _max_pool(x_ptr, out_ptr, count, height, columns, channels, step, row_step, pixel_step,
              PIXELS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Some pixels of the output, all channels."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, WIDTH)
    image, y, x = pixel // (height * columns), pixel // columns % height, pixel % columns
    valid = (pixel < count)[:, None] & (channel < channels)[None, :]
    offset = x_ptr + (image.to(tl.int64) * step + 2 * y * row_step + 2 * x * pixel_step)[:, None] + channel[None, :]
    upper = tl.maximum(tl.load(offset, mask=valid, other=0.0), tl.load(offset + pixel_step, mask=valid, other=0.0))
    offset += row_step
    lower = tl.maximum(tl.load(offset, mask=valid, other=0.0), tl.load(offset + pixel_step, mask=valid, other=0.0))
    offset = out_ptr + pixel[:, None].to(tl.int64) * channels + channel[None, :]
    tl.store(offset, tl.maximum(upper, lower), mask=valid)


def max_pool(x: Tensor) -> Tensor:
    """2×2 maximum over space of ``[B, H, W, C]``; even sides, contiguous channels."""
    batch, height, columns, channels = x.shape
    assert x.stride(3) == 1 and height % 2 == 0 and columns % 2 == 0
    out = torch.empty(batch, height // 2, columns // 2, channels, dtype=x.dtype, device=x.device)
    width, count = triton.next_power_of_2(channels), batch * height * columns // 4
    pixels = max(1, 2048 // width)
    _max_pool[(triton.cdiv(count, pixels),)](
        x, out, count, height // 2, columns // 2, channels, x.stride(0), x.stride(1), x.stride(2),
        PIXELS=pixels, WIDTH=width, num_warps=4,
    )  # fmt: skip
    return out
