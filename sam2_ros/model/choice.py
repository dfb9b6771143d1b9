"""Picks one of the decoder's masks for each object. Takes tensors of PyTorch and arrays of NumPy."""

from __future__ import annotations

from sam2_ros.model.arrays import arange, float32, module_of
from sam2_ros.model.network import Array, ChosenMask, DecodedMasks

STABILITY_DELTA, STABILITY_THRESHOLD = 0.05, 0.98


def stability(logits: Array) -> Array:
    """Area at a slightly raised over area at a slightly lowered threshold (``[..., H, W]`` → ``[...]``); 1 if empty."""
    inner, outer = (float32((logits > limit).sum((-2, -1))) for limit in (STABILITY_DELTA, -STABILITY_DELTA))
    return module_of(logits).where(outer > 0, inner / outer.clip(1, None), 1.0)


def choose(
    decoded: DecodedMasks, multimask: bool, stability_fallback: bool, candidate: Array | None = None
) -> ChosenMask:
    """Picks one mask per object: the candidate of best predicted IoU, or the single answer.

    With ``stability_fallback`` the best candidate replaces an unstable single answer, whose token is used all the
    same, as in the reference. ``candidate`` (``[B]``, 0 to 2) replaces the choice by predicted IoU.
    """
    module = module_of(decoded.ious)
    rows = arange(len(decoded.ious), decoded.ious)
    best = 1 + (decoded.ious[:, 1:].argmax(-1) if candidate is None else candidate)
    index = token_index = best if multimask else module.zeros_like(best)
    if stability_fallback and not multimask:
        index = module.where(stability(decoded.logits[:, 0]) >= STABILITY_THRESHOLD, index, best)
    logits = decoded.logits[rows, index][:, None]
    return ChosenMask(logits, decoded.ious[rows, index], decoded.tokens[rows, token_index], index)
