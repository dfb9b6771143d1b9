"""Transforms between frames by tf2, where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time
from scipy.spatial.transform import Rotation

try:
    import tf2_ros
except ImportError:  # the wheels of ROS 2 have no tf2
    tf2_ros = None


class NoTransform(LookupError):
    """tf2 has no transform between two frames at this time; ``str(error)`` says why."""


class Transforms:
    """Listens to ``/tf`` and ``/tf_static``."""

    def __init__(self, node: Node) -> None:
        """
        Raises:
            ValueError: tf2 is not installed.
        """
        if tf2_ros is None:
            raise ValueError(
                "depth.target_frame needs tf2, which is not installed (import tf2_ros fails); install tf2_ros, or "
                "leave depth.target_frame empty to get positions in the camera's frame"
            )
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def destroy(self) -> None:
        self._listener.unregister()

    def lookup(self, target: str, source: str, stamp: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotation ``[3, 3]`` and translation ``[3]`` (metres) that bring points from ``source`` to ``target``.

        Never waits. ``stamp`` is in nanoseconds.

        Raises:
            NoTransform: tf2 has none at this time.
        """
        try:
            found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp)).transform
        except tf2_ros.TransformException as error:
            raise NoTransform(f"no transform from '{source}' to '{target}' at the image's time: {error}") from None
        turn, move = found.rotation, found.translation
        rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
        return rotation, np.array([move.x, move.y, move.z])
