"""NumPy's arrays give what PyTorch's tensors give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from both_kinds import check

from sam2_ros.model import arrays
from sam2_ros.model.network import HOST

CPU = torch.device("cpu")


def test_normalized() -> None:
    check(arrays.normalized, 3, 4, 5)
    assert not arrays.normalized(np.zeros((2, 3), np.float32)).any()


def test_standard_deviation() -> None:
    check(arrays.standard_deviation, 3, 50)


def test_highest() -> None:
    check(lambda values: arrays.highest(values, 3).sum(1), 4, 30)


def test_bfloat16_rounds_alike() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 100
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0])  # between two bfloat16 numbers
    values = torch.cat((values, halfway))
    wanted, found = (
        arrays.unrounded(arrays.rounded(each, arrays.zeros_in_bfloat16((1,), device)))
        for each, device in ((values, CPU), (values.numpy(), HOST))
    )
    assert np.array_equal(found, wanted.numpy())
    assert not np.array_equal(found, values.numpy())


def test_zeros_in_bfloat16_take_as_many_bytes() -> None:
    ours, theirs = arrays.zeros_in_bfloat16((3, 4), HOST), arrays.zeros_in_bfloat16((3, 4), CPU)
    assert ours.nbytes == theirs.nbytes == 24


@pytest.mark.parametrize("device", [HOST, CPU])
def test_new_arrays(device: Any) -> None:
    zeros, trues = arrays.zeros((2, 3), device), arrays.trues(4, device)
    assert (arrays.is_numpy(zeros), arrays.is_numpy(trues)) == (device is HOST, device is HOST)
    assert zeros.shape == (2, 3) and not zeros.any() and trues.all()
    assert arrays.arange(3, zeros).tolist() == [0, 1, 2]


def test_what_both_spell_alike() -> None:
    values = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for function in (
        lambda x: arrays.module_of(x).amax(x, axis=1, keepdims=True),
        lambda x: arrays.module_of(x).where(x > 0, 0.5, x),
        lambda x: arrays.module_of(x).concatenate((x, x), 1),
        lambda x: arrays.module_of(x).stack((x, x), 1),
        lambda x: arrays.module_of(x).broadcast_to(x[:1], (5, 3, 4)),
        lambda x: x.swapaxes(1, 2).clip(-0.5, None).reshape(2, -1),
        lambda x: x.sum((-2, -1)),
        lambda x: x.sum(1, keepdims=True),
    ):
        found = function(values.numpy())
        assert found.dtype == np.float32 and np.allclose(found, function(values).numpy(), atol=1e-6)
    assert np.array_equal(np.argwhere(values.numpy() > 0), torch.argwhere(values > 0).numpy())
