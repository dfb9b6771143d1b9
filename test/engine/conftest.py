"""The engine behind its public interface, three times: in this process with PyTorch and on NumPy's arrays, and in an
inference server behind a socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest
from engines import MakeEngine
from numpy_network import in_numpy
from served import connected, serving
from small_tracker import small_model

from sam2_ros.inference import Backend
from sam2_ros.inference.local import LocalBackend
from sam2_ros.model import Sam2Model
from sam2_ros.model.network import Network
from sam2_ros.remote.server import Server
from sam2_ros.tracking import TrackerConfig
from sam2_ros.tracking.shared_model import SharedModel


def local(model: Network, config: TrackerConfig | None) -> Backend:
    return LocalBackend(SharedModel(model), config)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One with the small network, for the engines of all tests: each is a stream of its own."""
    with serving(partial(local, small_model())) as running:
        yield running


@pytest.fixture(params=["here", "numpy", "server"])
def make_engine(request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    """Makes engines with the small network, or the one that it is given; they end with the test."""
    with ExitStack() as stack:

        def make(config: TrackerConfig | None = None, model: Sam2Model | None = None) -> Backend:
            if request.param != "server":
                network = model or small_model()
                numpy = request.param == "numpy"
                return stack.enter_context(closing(local(in_numpy(network) if numpy else network, config)))
            if model is None:
                serves = request.getfixturevalue("server")
            else:
                serves = stack.enter_context(serving(partial(local, model)))
            return stack.enter_context(connected(serves, config, pixels="raw"))

        yield make
