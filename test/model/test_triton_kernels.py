"""The Triton kernels against plain formulas, on a GPU or, without one, by Triton's interpreter."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sam2_ros.model.dispatch import has_triton
from sam2_ros.model.layers import LayerNorm2d
from sam2_ros.model.memory_encoder import MaskDownSampler
from sam2_ros.model.position import rotary_table, rotate
from sam2_ros.tracking.cuda_masks import pack_bits

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
if has_triton():
    from sam2_ros.model.gpu import (
        image_kernels,
        key_kernels,
        mask_downsampler_kernels,
        mask_packing_kernels,
        norm_kernels,
    )
    from sam2_ros.model.gpu.attention_kernels import Keys, Tile, attend

pytestmark = pytest.mark.skipif(not has_triton(), reason="needs triton, which make setup installs, and torch 2.6")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEAR = 2e-2 if DEVICE == "cuda" else 2e-3  # a GPU multiplies float32 as TF32 in these kernels
PAIRS = torch.cat((torch.arange(0, 64, 2), torch.arange(1, 64, 2)))  # first of each pair, then the second


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    logits = (q @ k.transpose(1, 2) * q.shape[2] ** -0.5).masked_fill(~there[:, None], -torch.inf)
    return (logits.softmax(dim=2) @ v).nan_to_num()


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("shared", [True, False], ids=["one query for all", "queries of each"])
def test_attends(splits: int, shared: bool) -> None:
    tile = Tile(rows=16, keys=16, warps=4)
    batch, queries, counts, counts2 = 3, 40, [112, 75, 0], [5, 0, 40]
    q = noise(1 if shared else batch, queries, 64, seed=1)
    k, v = noise(batch, 112, 64, seed=2), noise(batch, 112, 32, seed=3)
    k2, v2 = noise(batch, 48, 64, seed=4), noise(batch, 48, 32, seed=5)
    count, count2 = (torch.tensor(c, dtype=torch.int32, device=DEVICE) for c in (counts, counts2))
    found = attend(q, Keys(k, v, count), Keys(k2, v2, count2), tile, splits)
    there = torch.cat(
        (torch.arange(112, device=DEVICE) < count[:, None], torch.arange(48, device=DEVICE) < count2[:, None]), dim=1
    )
    wanted = plain(q, torch.cat((k, k2), dim=1), torch.cat((v, v2), dim=1), there)
    torch.testing.assert_close(found, wanted, rtol=NEAR, atol=NEAR)


def test_attends_to_all_keys_and_says_nothing_without_any() -> None:
    q, k, v = noise(2, 33, 32, seed=1), noise(2, 50, 32, seed=2), noise(2, 50, 64, seed=3)
    tile = Tile(rows=16, keys=16, warps=4)
    everything = torch.ones(2, 50, dtype=torch.bool, device=DEVICE)
    wanted = plain(q, k, v, everything)
    torch.testing.assert_close(attend(q, Keys(k, v), tile=tile), wanted, rtol=NEAR, atol=NEAR)
    none = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    assert not attend(q, Keys(k, v, none), tile=tile, splits=2).any()


def test_attends_to_slices_of_wider_tensors() -> None:
    wide = noise(2, 40, 96, seed=6)
    q, k, v = wide.split(32, dim=2)
    wanted = plain(q, k, v, torch.ones(2, 40, dtype=torch.bool, device=DEVICE))
    tile = Tile(rows=16, keys=16, warps=4)
    torch.testing.assert_close(attend(q, Keys(k, v), tile=tile), wanted, rtol=NEAR, atol=NEAR)


def test_projects_and_turns_keys() -> None:
    memory, code, time = noise(2, 3, 36, 16, seed=1), noise(36, 16, seed=2), noise(2, 3, 16, seed=3)
    weight, bias = noise(64, 16, seed=4), noise(64, seed=5)
    table = rotary_table(64, 6).to(DEVICE)
    keys = rotate((memory + code + time[:, :, None]) @ weight.T + bias, table).flatten(1, 2)
    count = torch.tensor([3 * 36, 36], dtype=torch.int32, device=DEVICE)
    apart = weight[PAIRS].contiguous(), bias[PAIRS].contiguous()
    out = torch.empty(2, 3 * 36 + 5, 64, device=DEVICE)  # with room for others behind
    found = key_kernels.project_keys(memory, code, time, count, *apart, table, out)
    for one, wanted, tokens in zip(found, keys[..., PAIRS], count.tolist(), strict=True):
        torch.testing.assert_close(one[:tokens], wanted[:tokens], rtol=NEAR, atol=10 * NEAR)


def test_turns_in_place() -> None:
    x, table = noise(2, 36, 160, seed=1), rotary_table(64, 6).to(DEVICE)
    wanted = [rotate(x[..., 64 * head : 64 * (head + 1)], table)[..., PAIRS] for head in range(2)]
    apart = torch.cat([x[..., :64][..., PAIRS], x[..., 64:128][..., PAIRS], x[..., 128:]], dim=2).contiguous()
    key_kernels.rotate_(apart, table, heads=2)
    torch.testing.assert_close(apart, torch.cat((*wanted, x[..., 128:]), dim=2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [64, 4, 96])
@pytest.mark.parametrize("batch", [1, 3])
def test_adds_and_norms(batch: int, width: int) -> None:
    norm = torch.nn.LayerNorm(width, device=DEVICE)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x, delta = noise(batch, 10, width, seed=1), noise(3, 10, width, seed=2)
    total, normed = norm_kernels.add_norm(x, delta, norm, torch.float32)
    torch.testing.assert_close(total, x + delta)
    torch.testing.assert_close(normed, norm(x + delta), rtol=1e-4, atol=1e-4)
    same, alone = norm_kernels.add_norm(x, None, norm, torch.float32)
    assert same is x
    torch.testing.assert_close(alone, norm(x), rtol=1e-4, atol=1e-4)
    _, last = norm_kernels.add_norm(x, delta, norm, torch.float32, keep=False)
    torch.testing.assert_close(last, normed)
    _, curved = norm_kernels.add_norm(x, delta, norm, torch.float32, gelu=True)
    torch.testing.assert_close(curved, F.gelu(norm(x + delta)), rtol=1e-4, atol=1e-4)


def test_convolves_each_channel_and_norms() -> None:
    norm = torch.nn.LayerNorm(32, device=DEVICE)
    torch.nn.init.normal_(norm.weight)
    conv = torch.nn.Conv2d(32, 32, 7, padding=3, groups=32, device=DEVICE)
    x = noise(2, 32, 4, 18, seed=1)
    taps = conv.weight.flatten(1).T.contiguous()
    assert conv.bias is not None
    found = norm_kernels.depthwise_norm(x.permute(0, 2, 3, 1).contiguous(), taps, conv.bias, norm)
    torch.testing.assert_close(found, norm(conv(x).permute(0, 2, 3, 1)), rtol=1e-3, atol=1e-3)


def test_adds_a_code_and_rounds() -> None:
    x, code = noise(3, 10, 32, seed=1), noise(1, 10, 32, seed=2)
    rounded, total = norm_kernels.with_code(x, code, torch.float16)
    torch.testing.assert_close(rounded, x.half())
    torch.testing.assert_close(total, (x + code).half())


@pytest.mark.parametrize("batch", [1, 3])
def test_adds_and_curves(batch: int) -> None:
    x, delta = noise(batch, 10, 32, seed=1), noise(3, 10, 32, seed=2)
    torch.testing.assert_close(norm_kernels.add_gelu(x, delta), F.gelu(x + delta), rtol=1e-4, atol=1e-5)


def test_norms_a_sum_with_one_row() -> None:
    norm = torch.nn.LayerNorm(16, device=DEVICE)
    row, delta = noise(16, seed=1), noise(3, 10, 16, seed=2)
    _, normed = norm_kernels.add_norm(row, delta, norm, torch.float32, keep=False)
    torch.testing.assert_close(normed, norm(row + delta), rtol=1e-4, atol=1e-4)


def test_adds_what_is_scaled() -> None:
    x, y, scale = noise(3, 10, 32, seed=1), noise(3, 10, 32, seed=2), noise(32, seed=3)
    total, rounded = norm_kernels.add_scaled(x, y, scale, torch.float16)
    torch.testing.assert_close(total, x + scale * y)
    torch.testing.assert_close(rounded, total.half())
    same, _ = norm_kernels.add_scaled(x, y, scale, torch.float16, keep=False)
    assert same is x


@pytest.mark.parametrize("binarized", [False, True])
@torch.no_grad()
def test_first_levels_of_a_mask(binarized: bool) -> None:
    """From logits in a quarter of the size; 20 × 20, so that no block of pixels comes out even."""
    torch.manual_seed(0)
    layers: list[Any] = list(MaskDownSampler(256).to(DEVICE).encoder)
    one, two = layers[0], layers[3]
    norms = [LayerNorm2d(width).to(DEVICE) for width in (4, 16)]
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    logits = 5 * noise(3, 1, 20, 20)
    binarize = torch.tensor([True, False, True], device=DEVICE) if binarized else None
    full = F.interpolate(logits, (80, 80), mode="bilinear", align_corners=False)
    shares = full.sigmoid()
    if binarize is not None:
        shares = torch.where(binarize[:, None, None, None], (full > 0).float(), shares)
    first = F.gelu(norms[0](one(shares * 20 - 10)))
    wanted = F.gelu(norms[1](two(first))).permute(0, 2, 3, 1)
    weights = mask_downsampler_kernels.LevelWeights(
        mask_downsampler_kernels.pack_first(torch.float32, one.weight, one.bias, norms[0].weight, norms[0].bias),
        mask_downsampler_kernels.pack_taps(two.weight, torch.float32),
        torch.cat((two.bias, norms[1].weight, norms[1].bias)),
    )
    found = mask_downsampler_kernels.mask_levels(logits, binarize, weights, 20, -10, (norms[0].eps, norms[1].eps))
    assert found.shape == (3, 20, 20, 16)
    torch.testing.assert_close(found, wanted, rtol=NEAR, atol=NEAR)


@pytest.mark.parametrize("shape", [(48, 64), (37, 51), (10, 64), (64, 64)])
def test_resizes_as_interpolation_does(shape: tuple[int, int]) -> None:
    image = torch.randint(256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    mean, std = torch.rand(3, 1, 1, device=DEVICE), 1 + torch.rand(3, 1, 1, device=DEVICE)
    full = F.interpolate(image.permute(2, 0, 1)[None].float() / 255, (64, 64), mode="bilinear")
    longer = torch.cat((image.flatten(), image.new_zeros(100)))
    sides = torch.tensor(shape, dtype=torch.int32, device=DEVICE)
    found = image_kernels.resized(longer, sides, mean, std, 64)
    torch.testing.assert_close(found, (full - mean) / std, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [96, 144])
def test_embeds_patches(channels: int) -> None:
    conv = torch.nn.Conv2d(3, channels, 7, stride=4, padding=3, device=DEVICE).requires_grad_(False)
    images, position = noise(2, 3, 48, 48, seed=1), noise(1, 12, 12, channels, seed=2)
    assert conv.bias is not None
    found = image_kernels.embed(images, image_kernels.pack_patch_taps(conv.weight, torch.float32), conv.bias, position)
    torch.testing.assert_close(found, conv(images).permute(0, 2, 3, 1) + position, rtol=NEAR, atol=NEAR)


def test_pools_what_is_part_of_a_wider_tensor() -> None:
    x = noise(3, 6, 8, 60, seed=1).chunk(3, dim=3)[1]
    wanted = F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert torch.equal(image_kernels.max_pool(x), wanted)


@pytest.mark.parametrize("size", [(16, 16), (24, 32), (37, 51), (9, 13)])
def test_packs_masks_in_the_size_of_the_image(size: tuple[int, int]) -> None:
    logits = noise(3, 1, 16, 16, seed=1)
    full = F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0] > 0
    assert torch.equal(mask_packing_kernels.pack(logits, *size), pack_bits(full))
