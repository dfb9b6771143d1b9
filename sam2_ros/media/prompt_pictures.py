"""Pictures as prompts: read from files, and made as small as the network needs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.errors import UserError
from sam2_ros.media.input_files import read_file
from sam2_ros.media.picture_decoder import PictureError, decode_picture
from sam2_ros.text import printable
from sam2_ros.tracking.types import Prompt

MAX_BYTES = 64 << 20  # of a file
SIDE = 1024  # pixels; the longer side of a picture that is passed on


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A JPEG or PNG as RGB, ``uint8 [H, W, 3]``.

    Raises:
        UserError: it can't be read.
    """
    try:
        return decode_picture(read_file(path, MAX_BYTES))
    except PictureError as error:
        raise UserError(f"{printable(path, 300)}: {error}") from None


def shrunk(prompt: Prompt) -> Prompt:
    """``prompt`` with its picture made smaller to :data:`SIDE`, and box and mask with it. What is wrong stays wrong."""
    picture, box, mask = prompt.like, prompt.box, prompt.mask
    if picture is None or max(picture.shape[:2]) <= SIDE:
        return prompt
    import cv2  # most prompts have no picture

    factor = SIDE / max(picture.shape[:2])
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    if box is not None and box.shape == (4,):
        scale = np.array([width / picture.shape[1], height / picture.shape[0]] * 2, np.float32)
        box = (box * scale).astype(np.float32)
    if mask is not None and mask.shape == picture.shape[:2]:
        mask = cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return replace(prompt, like=np.asarray(small, np.uint8), box=box, mask=mask)
