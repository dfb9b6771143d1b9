"""Limits of an inference server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What clients may use at most; the server refuses more, with a reason."""

    streams: int = 16  # cameras at the same time
    objects: int = 64  # tracker.max_objects of one stream
    message_bytes: int = 64 << 20  # of one message, and of one frame's pixels
    idle: float = 60.0  # s without a message after which a stream ends
    waiting_commands: int = 64  # of one stream

    def __post_init__(self) -> None:
        for name in ("streams", "objects", "message_bytes", "idle", "waiting_commands"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: more than 0")
