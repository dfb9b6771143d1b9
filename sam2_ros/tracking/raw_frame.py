"""An image that a GPU resizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class RawFrame:
    """An image on its way to a GPU, which resizes it as part of a CUDA graph."""

    HEAD = 16  # bytes; the first of them are the image's height and width

    def __init__(self, image: NDArray[np.uint8], device: Any) -> None:
        from sam2_ros.tracking.cuda_staging import Staged

        self.shape = image.shape
        head = np.zeros(self.HEAD // 4, np.int32)
        head[:2] = image.shape[:2]
        self.staged = Staged(device, head, image)

    def image(self) -> Tensor:
        """``uint8 [H, W, 3]`` on the device. Sends ``staged``, which can be sent only once."""
        return self.staged.tensor()[self.HEAD :].view(self.shape)
