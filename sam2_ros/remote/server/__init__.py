"""The inference server (``sam2_ros serve``): one network for many camera streams, behind a ZeroMQ socket."""

from sam2_ros.remote.server.limits import Limits
from sam2_ros.remote.server.server import Server

__all__ = ["Limits", "Server"]
