"""Requests for single images (``SegmentImage.srv``), as the engine understands them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from sam2_ros.inference import commands
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.commands import Asked
from sam2_ros.inference.worker import Worker
from sam2_ros.ros.image_conversion import to_rgb
from sam2_ros.ros.prompt_messages import from_prompt
from sam2_ros.srv import SegmentImage
from sam2_ros.tracking.prompt_checks import MAX_PROMPTS, check_count
from sam2_ros.tracking.segmentation import Slices
from sam2_ros.tracking.types import PromptCode, PromptError, PromptRequest, PromptResult

MASKS = 100  # of everything, unless the request says otherwise
MAX_MASKS = 1000
POINTS = 16  # of everything, between two frames


class ImageRequest:
    """One call of ``~/segment_image``.

    Raises:
        PromptError: it can't be answered; the message says what is accepted.
    """

    def __init__(self, request: SegmentImage.Request, worker: Worker) -> None:
        check_count("prompts", len(request.prompts), MAX_PROMPTS)
        if bool(request.prompts) == request.everything:
            reason = "the request has both prompts and everything" if request.everything else "nothing is asked for"
            raise PromptError(PromptCode.INVALID_PROMPT, f"{reason}; fill prompts, or set everything")
        if request.max_masks > MAX_MASKS:
            reason = f"max_masks is {request.max_masks}; accepted: 1 to {MAX_MASKS}, or 0 for {MASKS}"
            raise PromptError(PromptCode.INVALID_PROMPT, reason)
        self._everything, self._most = request.everything, int(request.max_masks) or MASKS
        self._asked: list[Asked] = [from_prompt(prompt) for prompt in request.prompts]
        self.header, self._pixels = _image(request, worker)

    def begin(self, backend: Backend) -> Slices:
        """The work in slices. Runs in the inference thread."""
        images = commands.image_engine(backend)
        try:
            pixels = np.ascontiguousarray(self._pixels())
        except ValueError as error:
            raise PromptError(PromptCode.INVALID_PROMPT, f"the image can't be used: {error}") from None
        if self._everything:
            return images.everything_in_slices(pixels, images.everything_settings(batch=POINTS), self._most)
        return images.segment_in_slices(pixels, [each for each in self._asked if isinstance(each, PromptRequest)])

    def results(self, found: Sequence[PromptResult]) -> list[PromptResult]:
        """One for each prompt, refused ones included; or what was found."""
        if self._everything:
            return list(found)
        answers = iter(found)
        return [commands.refusal(each) if isinstance(each, PromptError) else next(answers) for each in self._asked]


def _image(request: SegmentImage.Request, worker: Worker) -> tuple[Header, Callable[[], NDArray[Any]]]:
    """The header and the pixels of the request's image, or of the newest one of the camera."""
    if request.image.width:
        return request.image.header, lambda: to_rgb(request.image)
    newest = worker.newest
    if newest is None or not newest.receive_time:  # 0: of an earlier process, so that its pixels are gone
        reason = "the request has no image, and the camera has sent none; send one, or start the camera"
        raise PromptError(PromptCode.NO_FRAME, reason)
    return newest.source, newest.decode
