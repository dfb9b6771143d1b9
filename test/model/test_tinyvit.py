"""The embedded model's image encoder against slow, literal computations of the same thing."""

import pytest
import torch
import torch.nn.functional as F

from sam2_ros.model.tinyvit import TinyViTBlock, TinyViTEncoder, WindowAttention


def literal_attention(attention: WindowAttention, tokens: torch.Tensor) -> torch.Tensor:
    """One window, ``[window, window, C]``, head by head and pair by pair."""
    side, _, channels = tokens.shape
    width = channels // attention.heads
    flat = attention.norm(tokens.reshape(-1, channels))
    projected = attention.qkv(flat).view(-1, attention.heads, 3, width)
    mixed = torch.zeros(side * side, attention.heads, width)
    for head in range(attention.heads):
        query, key, value = projected[:, head].unbind(1)
        scores = query @ key.T / width**0.5
        for i in range(side * side):
            for j in range(side * side):
                rows, columns = abs(i // side - j // side), abs(i % side - j % side)
                scores[i, j] += attention.attention_biases[head, rows * side + columns]
        mixed[:, head] = scores.softmax(-1) @ value
    return attention.proj(mixed.reshape(side * side, channels)).view(side, side, channels)


@torch.no_grad()
def literal_block(block: TinyViTBlock, x: torch.Tensor) -> torch.Tensor:
    """``[C, H, W]``; every window is cut out of the image, filled up with zeros right and below."""
    channels, height, width = x.shape
    side = block.attn.window
    mixed = torch.zeros(height, width, channels)
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = torch.zeros(side, side, channels)
            cut = x[:, top : top + side, left : left + side].permute(1, 2, 0)
            window[: cut.shape[0], : cut.shape[1]] = cut
            result = literal_attention(block.attn, window)
            mixed[top : top + side, left : left + side] = result[: cut.shape[0], : cut.shape[1]]
    x = block.local_conv((x + mixed.permute(2, 0, 1))[None])[0]
    tokens = x.permute(1, 2, 0)
    hidden = F.gelu(block.mlp.fc1(block.mlp.norm(tokens)))
    return (tokens + block.mlp.fc2(hidden)).permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(6, 9), (7, 5), (4, 4)])
def test_block_is_window_attention_with_zero_padding(height: int, width: int) -> None:
    torch.manual_seed(0)
    block = TinyViTBlock(8, heads=2, window=3).eval()
    torch.nn.init.normal_(block.attn.attention_biases)
    torch.nn.init.normal_(block.attn.norm.bias)  # so that a padding token is not silent
    x = torch.randn(8, height, width)
    with torch.no_grad():
        found = block(x[None])[0]
    torch.testing.assert_close(found, literal_block(block, x), rtol=1e-4, atol=1e-5)


def test_loading_other_biases_replaces_the_gathered_ones() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, heads=2, window=3).eval()
    tokens = torch.randn(1, 9, 8)
    with torch.no_grad():
        before = attention(tokens)
        other = {name: value.clone() for name, value in attention.state_dict().items()}
        other["attention_biases"].normal_()
        attention.load_state_dict(other)
        after = attention(tokens)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after[0], literal_attention(attention, tokens[0].view(3, 3, 8)).detach().reshape(9, 8))


@pytest.mark.parametrize("size", [64, 96, 160])
def test_encoder_gives_maps_at_three_strides(size: int) -> None:
    encoder = TinyViTEncoder().eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 3, size, size))
    assert [tuple(m.shape) for m in maps] == [
        (1, 64, size // 4, size // 4),
        (1, 128, size // 8, size // 8),
        (1, 256, size // 16, size // 16),
    ]
