"""What the clients of a server may use at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.mask_follower import MOST_BYTES
from sam2_ros.tracking.windows import MAX_PIXELS, most_views


@dataclass(frozen=True)
class Limits:
    """The server refuses what is beyond them, with a reason."""

    streams: int = 16  # cameras at the same time; those that are ending count until their memory is free
    objects: int = 64  # tracker.max_objects of one stream
    message_bytes: int = 64 << 20  # of one message, and of one frame's pixels
    idle: float = 60.0  # s without a message after which a stream ends
    waiting_commands: int = 64  # of one stream
    waiting_bytes: int = 512 << 20  # of the requests that wait for all streams together
    engine_bytes: int = 4 << 30  # memory banks and stored frames of all streams together; one may have a quarter
    connections: int = 256  # at the same time, with or without a stream

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; accepted: more than 0")


def engine_sizes(info: BackendInfo, made_with: TrackerConfig) -> Callable[[TrackerConfig], int]:
    """A function that says how many bytes an engine will allocate, from one that was made with ``made_with``."""

    def images(config: TrackerConfig) -> int:
        followed = MOST_BYTES if config.uses_windows(info.windows) else 0
        return followed + (_images(config) if followed or config.follows_edges(info.windows) else 0)

    def stored(config: TrackerConfig) -> float:
        return _stored(config, most_views(config.max_objects) if config.uses_windows(info.windows) else 1)

    bank = info.bank_bytes / (made_with.max_objects * _slots(made_with))
    history = max(0, info.history_bytes - images(made_with)) / stored(made_with)

    def size(config: TrackerConfig) -> int:
        more = images(config) if info.history_bytes else 0
        return round(bank * config.max_objects * _slots(config) + history * stored(config) + more)

    return size


def _slots(config: TrackerConfig) -> int:
    """Memory maps of one object."""
    return config.prompted_slots + config.recent_slots + config.history + 1


def _stored(config: TrackerConfig, views: int) -> float:
    """Stored frames, each with a mask of every object; the features of a view are as large as 40 masks or more."""
    return (config.history + 1) * (views + config.max_objects / 40)


def _images(config: TrackerConfig) -> int:
    """Bytes of the images that are stored where the network looks through windows, or masks get their edges."""
    return (config.history + 1) * MAX_PIXELS * 3
