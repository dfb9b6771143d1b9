"""Finds the stored frame that a prompt's stamp means. Free of torch: an engine without a network uses it, too."""

from __future__ import annotations

from collections.abc import Sequence

from sam2_ros.tracking.types import PromptCode, PromptError


def find_frame(stamps: Sequence[int], stamp: int, tolerance: float) -> int:
    """Index of the stored frame nearest to ``stamp``, within ``tolerance``; stamp 0 means the newest.

    A restarted camera may give a stamp twice; of equally near frames the newer one is taken.

    Args:
        stamps: of the stored frames, nanoseconds, in order of arrival.
        stamp: of the prompt, nanoseconds.
        tolerance: seconds.

    Raises:
        PromptError: NO_FRAME or TOO_OLD, with the stamps that are accepted.
    """
    if not stamps:
        raise PromptError(PromptCode.NO_FRAME, "no frame was processed yet; send the prompt after the first image")
    newest = len(stamps) - 1
    if stamp == 0:
        return newest
    nearest = min(reversed(range(len(stamps))), key=lambda index: abs(stamps[index] - stamp))
    if abs(stamps[nearest] - stamp) <= tolerance * 1e9:
        return nearest
    window = f"{seconds(stamps[newest])}, the newest,"
    if newest:
        window = f"{seconds(stamps[0])} to {seconds(stamps[newest])}, give or take {tolerance:g} s,"
    if stamp < min(stamps):
        reason = f"the frame stamped {seconds(stamp)} is gone"
        raise PromptError(PromptCode.TOO_OLD, f"{reason}; accepted: {window} or 0, which means the newest")
    reason = f"no frame stamped {seconds(stamp)} was processed"
    if stamp < max(stamps):
        near = f"the nearest stored one is {abs(stamps[nearest] - stamp) / 1e9:.3f} s from it"
        raise PromptError(
            PromptCode.NO_FRAME,
            f"{reason}, and {near}; accepted: at most {tolerance:g} s (tracker.history_tolerance), or 0, which means "
            "the newest",
        )
    raise PromptError(PromptCode.NO_FRAME, f"{reason}; accepted: {window} or 0; is the camera running?")


def seconds(stamp: int) -> str:
    """A stamp in nanoseconds as people read it."""
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"
