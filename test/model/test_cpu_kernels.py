"""The fast kernels give what the plain formulas give, whatever their inputs' layout, and follow changed weights."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model import cpu_kernels
from sam2_ros.model.dispatch import attention, linear
from sam2_ros.model.hiera import max_pool
from sam2_ros.model.image_encoder import FpnNeck
from sam2_ros.model.layers import Attention, Conv2d, Linear, merged_linear
from sam2_ros.model.position import rotary_table, rotate, rotate_
from sam2_ros.model.weight_cache import cache_bytes, cache_of

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def without_gradients() -> object:
    with torch.no_grad():
        yield


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape and found.dtype == dtype
    limit = 1e-5 if dtype == torch.float32 else 0.03
    assert (found.float() - expected).abs().max() <= limit * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", ["none", "bool", "bool per query", "bias"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 300, 40, 32, 16), (1, 1, 130, 700, 64, 64), (2, 1, 130, 700, 64, 16), (3, 2, 5, 9, 8, 8)]
)
@pytest.mark.parametrize("intel", [False, True])
def test_attention(
    dtype: torch.dtype, masked: str, shape: tuple[int, ...], intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small blocks, so that the last one is not whole; queries, keys and values are strided views."""
    monkeypatch.setattr(cpu_kernels, "BLOCK_ELEMENTS", 5000)
    monkeypatch.setattr(cpu_kernels, "IS_FROM_INTEL", intel)
    batch, heads, queries, keys, width, values = shape
    q = draw(batch, queries, heads, width, dtype=dtype).transpose(1, 2)
    k = draw(batch, keys, heads, 3 * width, dtype=dtype, seed=1).chunk(3, dim=-1)[1].transpose(1, 2)
    v = draw(batch, keys, heads, values, dtype=dtype, seed=2).transpose(1, 2)
    mask = None
    if masked == "bool":
        mask = draw(batch, 1, 1, keys, seed=3) > 0
        mask[..., 0] = True
    elif masked == "bool per query":
        mask = draw(batch, 1, queries, keys, seed=3) > 0
        mask[..., 0] = True
    elif masked == "bias":
        mask = draw(1, heads, queries, keys, dtype=dtype, seed=3)
    exact = None if mask is None else mask if mask.dtype == torch.bool else mask.float()
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=exact)
    assert_close(attention(q, k, v, mask), expected, dtype)


@pytest.mark.parametrize("rows", [3, 64, 1000])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(rows: int, bias: bool) -> None:
    layer = nn.Linear(48, 96, bias=bias)
    x = draw(48, rows).T  # strided
    assert_close(linear(x, layer.weight, layer.bias), layer(x), torch.float32)
    assert_close(linear(x[None], layer.weight, layer.bias), layer(x[None]), torch.float32)


@pytest.mark.parametrize(("ours", "plain", "shape"), [
    (lambda: Linear(32, 64), nn.Linear, (100, 32)),
    (lambda: Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d, (2, 8, 20, 24)),
    (lambda: Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d, (1, 8, 20, 24)),
])  # fmt: skip
def test_rounded_weights_follow_the_weights(ours, plain, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    # Autocast keeps a rounded copy of weights that require gradients, until it ends.
    layer, x = ours().requires_grad_(False), draw(*shape)
    assert_close(layer(x), plain.forward(layer, x), torch.float32)
    assert_close(layer.gelu(x), F.gelu(plain.forward(layer, x)), torch.float32)
    assert cache_bytes(layer) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(layer(x), plain.forward(layer, x).float(), torch.bfloat16)
        assert cache_bytes(layer) == 2 * sum(p.numel() for p in layer.parameters())
        layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})
        assert torch.equal(layer(x), plain.forward(layer, x))
        layer.weight += 1  # as an optimiser does
        assert torch.equal(layer(x), plain.forward(layer, x))
        other = copy.deepcopy(layer)
        other.weight -= 1
        assert torch.equal(other(x), plain.forward(other, x)) and not torch.equal(other(x), layer(x))


def test_gradients_take_the_plain_way() -> None:
    layer = Linear(32, 64)
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        layer.gelu(draw(100, 32)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0
    assert cache_bytes(layer) == 0


@pytest.mark.parametrize("masked", [False, True])
def test_narrow_values_are_the_projected_ones(masked: bool) -> None:
    layer = Attention(64, 1, kv_dim=16)
    q, k, memory = draw(1, 1, 200, 64), draw(2, 1, 300, 64, seed=1), draw(2, 300, 16, seed=2)
    mask = draw(2, 1, 1, 300, seed=3) > 0 if masked else None
    expected = layer.attend(q, k, layer.split_heads(layer.v_proj(memory)), mask)
    assert_close(layer.attend_narrow(q, k, memory, mask), expected, torch.float32)


def test_rotation_is_the_same_with_gradients_and_without() -> None:
    x, table = draw(2, 1, 64, 32), rotary_table(32, 8)
    with torch.enable_grad():
        expected = rotate(x, table)
    assert_close(rotate(x, table), expected, torch.float32)
    assert_close(rotate(x.transpose(0, 1)[0, :, :, :], table), expected.transpose(0, 1)[0], torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("graded", [False, True])
def test_rotation_in_place(dtype: torch.dtype, graded: bool) -> None:
    table = rotary_table(32, 8)
    for x in (draw(1, 3, 64, 32, dtype=dtype), draw(2, 3, 64, 40, dtype=dtype)[..., :32]):
        expected = rotate(x, table)
        with torch.set_grad_enabled(graded):
            rotate_(x, table)
        assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fine_maps_need_not_be_made_wide(dtype: torch.dtype) -> None:
    neck = FpnNeck([24, 48, 96, 192], 64)
    conv_4, conv_8 = Conv2d(64, 8, 1), Conv2d(64, 16, 1)
    maps = [draw(2, 24 * 2**level, 32 >> level, 40 >> level, seed=level) for level in range(4)]
    wide_4, wide_8, coarse = neck(maps)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        found_4, found_8, found_16 = neck(maps, (conv_4, conv_8))
    assert_close(found_4, conv_4(wide_4), dtype)
    assert_close(found_8, conv_8(wide_8), dtype)
    assert found_16.dtype == torch.float32
    assert_close(found_16.to(dtype), coarse, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_maxima_are_those_of_the_pooling_kernel(dtype: torch.dtype) -> None:
    x = draw(2, 6, 8, 20, dtype=dtype)[..., 4:12]
    for part in (x, x[:, :5, :3]):  # odd sides lose their last row
        assert torch.equal(max_pool(part), F.max_pool2d(part.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))


def test_merged_maps_of_several_dtypes_stay_where_they_are() -> None:
    """Recordings read them there."""
    first, second = nn.Linear(16, 64), nn.Linear(64, 8)
    x, found = draw(5, 16), []
    for _ in range(2):
        assert_close(merged_linear(x, first, second), second(first(x)), torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(merged_linear(x, first, second), second(first(x)).float(), torch.bfloat16)
        found.append([tensor.data_ptr() for _, tensor in cache_of(second)._entries.values()])
    assert found[0] == found[1] and len(found[0]) == 4 and cache_bytes(second) == (8 * 16 + 8) * (4 + 2)


def test_a_cpu_does_without_triton() -> None:
    """Also where Triton is installed."""
    code = (
        "import sys; from sam2_ros.inference import make_backend; make_backend('embedded', 'cpu', image_size=224); "
        "print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
