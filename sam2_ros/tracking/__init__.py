"""The streaming engine: objects, memory bank, prompts, visibility, masks. Knows nothing of ROS.

:mod:`sam2_ros.tracking.types` is free of torch; :class:`Tracker` is imported when it is first asked for, so that a
node whose engine runs elsewhere needs no torch. The types are, too, so that ``--help`` needs no NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sam2_ros.tracking.config import TrackerConfig

if TYPE_CHECKING:
    from sam2_ros.tracking.tracker import Tracker
    from sam2_ros.tracking.types import (
        CroppedMask,
        EventCode,
        FrameResult,
        MaskCandidate,
        ObjectChange,
        ObjectResult,
        ObjectState,
        Prompt,
        PromptCode,
        PromptError,
        PromptRequest,
        PromptResult,
    )

__all__ = [
    "CroppedMask",
    "EventCode",
    "FrameResult",
    "MaskCandidate",
    "ObjectChange",
    "ObjectResult",
    "ObjectState",
    "Prompt",
    "PromptCode",
    "PromptError",
    "PromptRequest",
    "PromptResult",
    "Tracker",
    "TrackerConfig",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Tracker":
        from sam2_ros.tracking.tracker import Tracker

        return Tracker
    if name in __all__:
        from sam2_ros.tracking import types

        return getattr(types, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
