"""Connects a camera's search for new objects to the node's parameters."""

from __future__ import annotations

from collections.abc import Callable

from sam2_ros.inference.discovery import Discovery
from sam2_ros.inference.worker import Worker
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.parameters import discovery_settings
from sam2_ros.text import printable


def discovery_of(
    settings: NodeParameters, worker: Callable[[], Worker], active: Callable[[], bool], warn: Callable[[str], None]
) -> Discovery:
    """``worker`` raises :class:`PromptError` while the node is not active."""
    return Discovery(
        lambda apply: worker().call(apply),
        lambda: discovery_settings(settings.values),
        lambda: active() and bool(settings["discover.enabled"]),
        lambda problem: warn(f"nothing was discovered: {printable(problem, 500)}"),
    )
