"""Rolls a clip out on stored features: the first frame is prompted, the others are tracked, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.model.choice import choose
from sam2_ros.model.network import ABSENT_LOGIT, ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.rollout import FrameOutput, FramePrompt, Memory, prompt_with_mask


def prompt_frame(
    model: Sam2Model, memory: Memory, features: ImageFeatures, prompt: FramePrompt, fallback: bool = False
) -> FrameOutput:
    """Runs the prompted frame and stores its memory; ``fallback`` as in :func:`sam2_ros.model.choice.choose`."""
    if prompt.mask is not None:
        return prompt_with_mask(model, memory, features, prompt.mask)
    assert prompt.points is not None and prompt.labels is not None
    size = model.config.image_size
    image = model.without_memory(features).expand(len(prompt.points), -1, -1, -1)
    decoded = model.decode(image, features, prompt.points, prompt.labels)
    chosen = choose(decoded, prompt.ambiguous, fallback)
    present = decoded.object_score[:, 0] > 0
    logits = torch.where(present[:, None, None, None], chosen.logits, ABSENT_LOGIT)
    full = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
    encoded = model.encode_memory(features, full, present, torch.ones_like(present))
    memory.add(encoded, model.pointer(chosen.token, present), True, present)
    return FrameOutput(decoded, logits, prompt.ambiguous)


def track_frame(
    model: Sam2Model,
    memory: Memory,
    features: ImageFeatures,
    remember: bool = True,
    disturb: Callable[[Tensor], Tensor] | None = None,
    told: Tensor | None = None,
) -> FrameOutput:
    """Runs one frame without a prompt.

    Args:
        model: the network.
        memory: of the frames before; this frame is added.
        features: of the frame.
        remember: False skips the memory encoder on the last frame.
        disturb: changes the mask logits ``[B, 1, S, S]`` before they are stored.
        told: ``[B]``, presence to store: 1 seen, 0 absent, negative: as the object score says.
    """
    size = model.config.image_size
    recall = memory.recall()
    conditioned = model.with_memory(features, recall.tokens, recall.codes, recall.num_pointers, recall.mask)
    decoded = model.decode(conditioned, features, *model.no_prompt(len(recall.tokens)))
    chosen = choose(decoded, True, False)
    present = decoded.object_score[:, 0] > 0
    if told is not None:
        present = torch.where(told < 0, present, told > 0)
    logits = torch.where(present[:, None, None, None], chosen.logits, ABSENT_LOGIT)
    if remember:
        full = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
        if disturb is not None:
            full = disturb(full)
        encoded = model.encode_memory(features, full, present)
        memory.add(encoded, model.pointer(chosen.token, present), False, present)
    return FrameOutput(decoded, logits, True)


def roll_out(
    model: Sam2Model,
    frames: Sequence[ImageFeatures],
    prompt: FramePrompt,
    disturb: Callable[[Tensor], Tensor] | None = None,
    told: Sequence[Tensor] | None = None,
    lead: int = 0,
) -> list[FrameOutput]:
    """All frames of ``B`` clips; ``disturb`` and, by frame, ``told`` as in :func:`track_frame`.

    The first ``lead`` frames after the prompted one run as in the tracker: without gradients, ``disturb`` and ``told``.
    Then later frames see a memory with the network's own mistakes, at a third of the cost.
    """
    memory = Memory(model)
    outputs = [prompt_frame(model, memory, frames[0], prompt)]
    for t in range(1, len(frames)):
        leading = t <= lead
        if t == lead + 1 and torch.is_grad_enabled():
            # Autocast caches rounded weights; those rounded without gradients would get none from here on.
            torch.clear_autocast_cache()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not leading):
            outputs.append(
                track_frame(
                    model,
                    memory,
                    frames[t],
                    remember=t + 1 < len(frames),
                    disturb=None if leading else disturb,
                    told=None if leading or told is None else told[t],
                )
            )
    return outputs
