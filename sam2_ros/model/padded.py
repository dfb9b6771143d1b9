"""Memories of several objects in tensors of one fixed shape, as a CUDA graph needs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PaddedMemory:
    """Memories of ``B`` objects with up to ``S`` frames and ``T`` pointer tokens each.

    Memory attention ignores rows beyond an object's own number.
    """

    frames: Tensor  # [B, S, HW, memory_dim] as in the bank
    times: Tensor  # float32 [B, S, memory_dim] temporal code of each frame
    num_frame_tokens: Tensor  # int32 [B] tokens that count, HW for each of the first frames
    pointers: Tensor  # float32 [B, T, memory_dim]
    pointer_codes: Tensor  # float32 [B, T, memory_dim]
    num_pointer_tokens: Tensor  # int32 [B]
    full: bool = False  # every frame and pointer counts

    def flat(self, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``[B, K, memory_dim]``, their codes, and which count (``[B, K]`` bool), for the plain attention.

        ``code`` (``[HW, memory_dim]``) is a frame's position code.
        """
        frames = self.frames.flatten(1, 2)
        tokens = torch.cat((frames.float(), self.pointers), dim=1)
        codes = torch.cat(((code + self.times[:, :, None]).flatten(1, 2), self.pointer_codes), dim=1)
        counts = (frames, self.num_frame_tokens), (self.pointers, self.num_pointer_tokens)
        there = [torch.arange(x.shape[1], device=x.device) < count[:, None] for x, count in counts]
        return tokens, codes, torch.cat(there, dim=1)
