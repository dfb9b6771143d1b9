"""What lives for some frames is an equal copy in pages of its own, which go with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam2_ros.tracking.lasting import SMALLEST, lasting

NOISE = torch.randn(4, 8, 64, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tensor", [
    NOISE, NOISE.bfloat16(), NOISE.to(memory_format=torch.channels_last), NOISE[:, :5], NOISE[..., ::2],
    NOISE.transpose(1, 3), NOISE[0, 0, 0, :3], NOISE > 0, torch.zeros(0, 3),
], ids=lambda each: f"{each.dtype}-{list(each.shape)}-{each.stride()}")  # fmt: skip
def test_is_equal_and_laid_out_as_a_clone_would_be(tensor: Tensor) -> None:
    with torch.inference_mode():
        copy = lasting(tensor)
        assert torch.equal(copy, tensor) and copy.dtype == tensor.dtype
        assert copy.stride() == tensor.clone().stride()
        copy.zero_()
    assert tensor.numel() == 0 or tensor.any(), "its memory is its own"


def _mapped(address: int) -> tuple[int, int]:
    """First and last address of the mapping that holds ``address``."""
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            return first, last
    raise AssertionError("the address is not mapped")


def test_has_pages_of_its_own_that_go_with_it() -> None:
    kept = [lasting(torch.ones(SMALLEST)) for _ in range(50)]
    address = kept[10].data_ptr()
    first, _ = _mapped(address)
    assert address % 4096 == 0 and first <= address
    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    view = kept[20][:10]
    kept.clear()
    after = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    assert before - after >= 49 * SMALLEST * 4 // 4096, "unmapped, but for the one that is still in use"
    assert view.sum() == 10
