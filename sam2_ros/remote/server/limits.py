"""What a server gives to its clients at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Whatever is beyond is refused with a reason."""

    streams: int = 16  # cameras at a time
    objects: int = 64  # that one stream may ask room for (tracker.max_objects)
    message_bytes: int = 64 << 20  # of a message, and of a frame's pixels
    idle: float = 60.0  # s without a message after which a stream is forgotten
    waiting_commands: int = 64  # of a stream

    def __post_init__(self) -> None:
        for name in ("streams", "objects", "message_bytes", "idle", "waiting_commands"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: more than 0")
