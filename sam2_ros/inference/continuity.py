"""Whether a frame goes on from the one before it, or the camera shows something else now."""

from __future__ import annotations

from collections.abc import Sequence

from sam2_ros.tracking.frame_lookup import seconds

ASPECT_TOLERANCE = 0.02  # share by which width / height may differ: 1280x720 and 854x480 are the same view


def interruption(stamp: int, shape: Sequence[int], last_stamp: int, last_shape: Sequence[int], jump_back: float) -> str:
    """Why objects can't be followed from the last frame into this one; empty where they can.

    Another resolution of the same aspect is the same view: the network sees a square anyway. With another aspect the
    same object has another shape in that square, and what is remembered of it fits no longer.

    Args:
        stamp, last_stamp: nanoseconds.
        shape, last_shape: of the images, height and width first.
        jump_back: seconds; a stamp that lies further back than this is of another run. 0 = stamps are not looked at.
    """
    if jump_back and last_stamp - stamp > jump_back * 1e9:
        return f"time jumped back from {seconds(last_stamp)} to {seconds(stamp)}"
    aspect, last_aspect = shape[1] / shape[0], last_shape[1] / last_shape[0]
    if abs(aspect / last_aspect - 1) > ASPECT_TOLERANCE:
        return (
            f"the image changed from {last_shape[1]} x {last_shape[0]} to {shape[1]} x {shape[0]} pixels, which is "
            "another aspect"
        )
    return ""
