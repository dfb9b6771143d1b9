"""The node's engine in an inference server, from the parameters ``inference.*``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from sam2_ros.inference.recovery import SavedObjects
from sam2_ros.remote.client import ClientKeys, RemoteBackend
from sam2_ros.remote.endpoints import endpoints_for
from sam2_ros.tracking.config import TrackerConfig


def remote_backend(
    values: Mapping[str, Any], camera: str, config: TrackerConfig, saved: SavedObjects | None = None
) -> RemoteBackend | None:
    """The engine of ``camera`` in a server, or None if this process runs it.

    A server that does not answer yet is no error: every image tries it again.

    Args:
        saved: objects of an earlier process, to be continued.

    Raises:
        ValueError: the endpoints or the keys can't be used.
    """
    endpoints = endpoints_for(str(values["inference.endpoint"]), camera)
    if not endpoints:
        return None
    own, server = str(values["inference.key_file"]), str(values["inference.server_key_file"])
    if bool(own) != bool(server):
        raise ValueError("inference.key_file and inference.server_key_file belong together; set both, or none")
    backend = RemoteBackend(
        endpoints, config, timeout=float(values["inference.timeout"]), pixels=str(values["inference.pixels"]),
        quality=int(values["inference.jpeg_quality"]), client_keys=ClientKeys(own, server) if own else None,
        return_after=float(values["inference.return_after"]),
    )  # fmt: skip
    if saved is not None:
        backend.restore(saved)
    with contextlib.suppress(ConnectionError):
        backend.connect()
    return backend
