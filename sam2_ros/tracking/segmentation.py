"""What is asked about single images and what is answered, in NumPy; this module never imports torch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.everything_settings import EverythingSettings
from sam2_ros.tracking.prompt_checks import check_request
from sam2_ros.tracking.types import CroppedMask, MaskCandidate, Prompt, PromptCode, PromptError, PromptRequest

if TYPE_CHECKING:
    from sam2_ros.tracking.types import PromptResult

MAX_PIXELS = 1 << 26  # of an image, as cameras may send them
MAX_WORK = 1 << 28  # pixels of the image times prompts: full-size masks are made of all candidates
Slices: TypeAlias = "Generator[float, None, list[PromptResult]]"
"""Work in slices: yields the share that is done after each, and returns the results."""


class ImageEngine(Protocol):
    """Segments single images; nothing is tracked. Each slice ends soon, so that frames can be tracked between them."""

    def segment_in_slices(self, image: NDArray[np.uint8], requests: Sequence[PromptRequest]) -> Slices:
        """One result for each of ``requests``, refusals included; ids and names are only copied to the results."""

    def everything_settings(self, **changes: Any) -> EverythingSettings:
        """The defaults for this model, with ``changes``."""

    def everything_in_slices(self, image: NDArray[np.uint8], settings: EverythingSettings, most: int) -> Slices:
        """The objects in ``image``, largest first, at most ``most``."""


@dataclass(frozen=True)
class Segmentation:
    """The outcome of a prompt on an image."""

    mask: CroppedMask
    predicted_iou: float
    stability: float
    index: int  # 0: the single answer; 1 to 3: this candidate is the answer
    candidates: tuple[MaskCandidate, ...]  # all three
    logits: NDArray[np.float32]  # [4, S / 4, S / 4] of the single answer and the candidates, within ±32

    @property
    def so_far(self) -> NDArray[np.float32]:
        """The answer's logits ``[S / 4, S / 4]``, from which further clicks go on."""
        return self.logits[self.index]


@dataclass(frozen=True)
class FoundMask:
    """An object that was found without a prompt."""

    mask: CroppedMask
    predicted_iou: float
    stability: float
    point: tuple[float, float]  # pixels x, y: of the grid's point that found it
    crop: tuple[int, int, int, int]  # edges in pixels: the part of the image in which it was found


def check_image(image: NDArray[Any]) -> None:
    """
    Raises:
        ValueError: no RGB ``uint8 [H, W, 3]``, or too many pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image is uint8 of shape [H, W, 3]; got {image.dtype} of shape {list(image.shape)}")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(f"the image has {image.shape[1]} x {image.shape[0]} pixels; accepted: up to {MAX_PIXELS}")


def check_work(width: int, height: int, prompts: int) -> None:
    """
    Raises:
        PromptError: INVALID_PROMPT; so many prompts would need too much memory on an image of this size.
    """
    if prompts > (most := max(1, MAX_WORK // (width * height))):
        asked = f"{prompts} prompts came for an image of {width} x {height} pixels"
        raise PromptError(PromptCode.INVALID_PROMPT, f"{asked}; accepted: up to {most} at this size; send fewer")


def check_on_image(request: PromptRequest, width: int, height: int) -> None:
    """Checks a prompt for a single image. In contrast to tracking, clicks and boxes may correct a mask.

    Raises:
        PromptError: INVALID_PROMPT, with what is accepted.
    """
    prompt = request.prompt
    if prompt.like is not None:
        reason = "a picture (like) is looked for in a stream; accepted for a single image: points, a box or a mask"
        raise PromptError(PromptCode.INVALID_PROMPT, reason)
    if prompt.mask is not None and (prompt.points is not None or prompt.box is not None):
        check_request(replace(request, object_id=None, prompt=Prompt(mask=prompt.mask)), (width, height))
        prompt = replace(prompt, mask=None)
        if prompt.box is None and prompt.points is not None:  # points that only take away are a correction here
            box = np.array([0, 0, width, height], np.float32)
            prompt = replace(prompt, box=box, candidate=None)
    check_request(replace(request, object_id=None, prompt=prompt), (width, height))
