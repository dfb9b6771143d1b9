"""Runs a clip through the network with simulated prompts and corrections, as the tracker does, with gradients.

The objects of the clip are one batch that shares the image features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sam2_ros.model.choice import choose
from sam2_ros.model.network import ABSENT_LOGIT, ChosenMask, DecodedMasks, ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.rollout import FrameOutput, FramePrompt, Memory, prompt_with_mask
from sam2_ros.training.simulated_user import Plan, correction_clicks, make_prompt

PREVIOUS_LOGIT_LIMIT = 32.0  # of a previous mask as a prompt, as in the tracker
Call = Callable[..., Any]


def keep(function: Call, *args: Any) -> Any:
    """Runs ``function`` and stores its activations for the gradients."""
    return function(*args)


def recompute(function: Call, *args: Any) -> Any:
    """Runs ``function`` again for the gradients instead of storing its activations.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)


@dataclass(frozen=True)
class _Pass:
    """One answer of the decoder."""

    output: FrameOutput
    chosen: ChosenMask
    present: Tensor  # [B] bool


class InteractiveRollOut:
    """Runs clips with simulated users.

    The first prompt is decoded without memory. Later prompts and corrections are decoded with the memory of earlier
    frames and with the frame's previous mask as a mask prompt; all clicks of a frame are given together. A prompted or
    corrected frame is stored as a conditioning frame. The tracker does the same
    (:mod:`sam2_ros.tracking.prompt_decoder`). The official training differs in two points: a second prompted frame is
    decoded without memory, and earlier frames see it, too, which is impossible in a stream.

    Args:
        model: the network.
        call: :func:`keep` or :func:`recompute`.
    """

    def __init__(self, model: Sam2Model, call: Call = keep) -> None:
        self.model, self.call = model, call

    def encode(self, images: Tensor, frozen: bool) -> list[ImageFeatures]:
        """Features by frame of normalised ``images`` ``[T, 3, S, S]``; no gradients into a ``frozen`` encoder."""
        batches = images.split(1) if self.call is recompute and not frozen else [images]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            maps = [self.call(self.model.image_encoder, batch) for batch in batches]
        stride_4, stride_8, stride_16 = (torch.cat([part[level] for part in maps]) for level in range(3))
        decoder = self.model.sam_mask_decoder
        high, mid = decoder.conv_s0(stride_4), decoder.conv_s1(stride_8)
        return [ImageFeatures(stride_16[t, None], mid[t, None], high[t, None]) for t in range(len(images))]

    def run(
        self, frames: Sequence[ImageFeatures], targets: Sequence[Tensor], plan: Plan, rng: np.random.Generator
    ) -> list[tuple[int, FrameOutput]]:
        """All answers of the decoder, each with the number of its frame.

        Args:
            frames: features of ``T`` frames.
            targets: for each, the objects' masks ``[B, 1, S, S]``, binary.
            plan: the actions of the user.
            rng: source of the random numbers of prompts and clicks.
        """
        memory = Memory(self.model)
        outputs: list[tuple[int, FrameOutput]] = []
        for t, (features, target) in enumerate(zip(frames, targets, strict=True)):
            wanted = target[:, 0].cpu().numpy() > 0.5
            prompt = None
            if t in plan.prompted:
                prompt = self._on_device(make_prompt(plan.kind, list(wanted), rng))
            if prompt is not None and prompt.mask is not None:
                outputs.append((t, prompt_with_mask(self.model, memory, features, prompt.mask)))
                continue
            passes = self._frame(memory, features, wanted, prompt, plan.clicks.get(t, 0), rng)
            outputs += [(t, one.output) for one in passes]
            if t + 1 < len(frames):
                self._remember(memory, features, passes[-1], t in plan.prompted or t in plan.clicks)
        return outputs

    def _frame(
        self,
        memory: Memory,
        features: ImageFeatures,
        wanted: np.ndarray,
        prompt: FramePrompt | None,
        clicks: int,
        rng: np.random.Generator,
    ) -> list[_Pass]:
        """The answers on one frame: without a prompt, with the prompt, then after each click."""
        model, batch = self.model, len(wanted)
        passes: list[_Pass] = []
        if memory.maps:
            conditioned = self.call(model.with_memory, features, *memory.recall())
            passes.append(self._decode(conditioned, features, *model.no_prompt(batch), None))
        else:
            conditioned = model.without_memory(features).expand(batch, -1, -1, -1)
        points: Tensor | None = None
        labels: Tensor | None = None
        for click in range(-1, clicks):
            new = prompt
            if click >= 0:
                seen = (self._full(passes[-1])[:, 0] > 0).cpu().numpy()
                new = self._on_device(correction_clicks(seen, wanted, rng))
            if new is None:
                continue
            assert new.points is not None and new.labels is not None
            points = new.points if points is None else torch.cat((points, new.points), dim=1)
            labels = new.labels if labels is None else torch.cat((labels, new.labels), dim=1)
            limit = PREVIOUS_LOGIT_LIMIT
            previous = passes[-1].output.logits.detach().float().clamp(-limit, limit) if passes else None
            passes.append(self._decode(conditioned, features, points, labels, previous))
        return passes

    def _decode(
        self, conditioned: Tensor, features: ImageFeatures, points: Tensor, labels: Tensor, previous: Tensor | None
    ) -> _Pass:
        decoded: DecodedMasks = self.call(self.model.decode, conditioned, features, points, labels, previous)
        multimask = labels.shape[1] == 1  # a single click, or no prompt
        chosen = choose(decoded, multimask, stability_fallback=False)
        present = decoded.object_score[:, 0] > 0
        logits = torch.where(present[:, None, None, None], chosen.logits, ABSENT_LOGIT)
        return _Pass(FrameOutput(decoded, logits, multimask), chosen, present)

    def _remember(self, memory: Memory, features: ImageFeatures, last: _Pass, prompted: bool) -> None:
        full, binarize = self._full(last), torch.full_like(last.present, prompted)
        encoded = self.call(self.model.encode_memory, features, full, last.present, binarize)
        memory.add(encoded, self.model.pointer(last.chosen.token, last.present), prompted, last.present)

    def _full(self, last: _Pass) -> Tensor:
        """The answer's mask logits ``[B, 1, S, S]``."""
        size = self.model.config.image_size
        return F.interpolate(last.output.logits.float(), (size, size), mode="bilinear", align_corners=False)

    def _on_device(self, prompt: FramePrompt) -> FramePrompt:
        parts = (prompt.mask, prompt.points, prompt.labels)
        return FramePrompt(*(None if part is None else part.to(self.model.device) for part in parts))
