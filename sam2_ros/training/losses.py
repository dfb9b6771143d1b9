"""The losses of SAM 2 (paper, section D.2): focal and dice on masks, L1 on predicted IoU, cross-entropy on presence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ros.training.rollout import FrameOutput

FOCAL_WEIGHT = 20.0  # the other losses weigh 1


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean over the last two dimensions (Lin et al., "Focal Loss for Dense Object Detection", 2017)."""
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    wrong = probability * (1 - targets) + (1 - probability) * targets
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * wrong**gamma * entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - soft Dice over the last two dimensions (Milletari et al., "V-Net", 2016)."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    return 1 - (overlap + 1) / (total + 1)


def frame_loss(output: FrameOutput, targets: Tensor, seen: Tensor | None = None) -> dict[str, Tensor]:
    """Losses of one frame, means over the batch; empty for a mask prompt.

    Args:
        output: the network's answer.
        targets: ``[B, 1, S, S]`` binary; masks are compared at half that size. The mask loss counts for the best
            candidate only, the IoU loss for each. Only presence counts if the object is not in the frame.
        seen: ``[B]``, replaces the presence in ``targets``: 1 seen, 0 absent, negative: too small to count.
    """
    decoded = output.decoded
    if decoded is None:
        return {}
    candidates = slice(1, 4) if output.multimask else slice(0, 1)
    size = targets.shape[-1] // 2
    logits = F.interpolate(decoded.logits[:, candidates].float(), (size, size), mode="bilinear", align_corners=False)
    target = F.avg_pool2d(targets, 2).expand_as(logits)
    if seen is None:
        seen = (targets.flatten(1).sum(dim=1) > 0).float()
    visible, judged = (seen > 0).float(), (seen >= 0).float()
    count = visible.sum().clamp(min=1)

    mask_loss = FOCAL_WEIGHT * focal_loss(logits, target) + dice_loss(logits, target)
    best = mask_loss.argmin(dim=1, keepdim=True)
    with torch.no_grad():
        inside, wanted = logits > 0, target > 0.5
        union = (inside | wanted).sum(dim=(-2, -1)).clamp(min=1)
        iou = (inside & wanted).sum(dim=(-2, -1)) / union
    iou_loss = (decoded.ious[:, candidates].float() - iou).abs().mean(dim=1)
    presence = F.binary_cross_entropy_with_logits(decoded.object_score[:, 0].float(), visible, reduction="none")
    return {
        "mask": (mask_loss.gather(1, best)[:, 0] * visible).sum() / count,
        "iou": (iou_loss * visible).sum() / count,
        "presence": (presence * judged).sum() / judged.sum().clamp(min=1),
    }
