"""Masks for prompts on a single image, without memory (SAM's promptable segmentation with SAM 2's network)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sam2_ros.model.choice import choose
from sam2_ros.model.network import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, DecodedMasks, ImageFeatures
from sam2_ros.model.sam2 import Sam2Model


@dataclass(frozen=True)
class ImagePrediction:
    """Masks of ``B`` prompts; ``M`` is 3 for the candidates of an ambiguous prompt, 1 for the single answer."""

    logits: Tensor  # [B, M, S / 4, S / 4]; above 0 is the object; clamped to ±32 they serve as a mask prompt
    ious: Tensor  # [B, M] predicted, [0, 1]
    object_score: Tensor  # [B, 1] logit; meaningful in video only


def predict(
    model: Sam2Model,
    features: ImageFeatures,
    points: Tensor | None = None,
    labels: Tensor | None = None,
    boxes: Tensor | None = None,
    mask_logits: Tensor | None = None,
    multimask: bool = True,
    stability_fallback: bool = True,
) -> ImagePrediction:
    """Segments the objects of ``B`` prompts; points, boxes and masks can be combined.

    Args:
        model: the network.
        features: of the image, from :meth:`Sam2Model.encode_image`; batch 1 or ``B``.
        points: ``[B, N, 2]`` x, y in pixels of the network's square input of side S.
        labels: ``[B, N]`` 1 on the object, 0 not on it, -1 = ignore the point.
        boxes: ``[B, 4]`` x0, y0, x1, y1 in the same pixels.
        mask_logits: ``[B, 1, S / 4, S / 4]``, as in an earlier :class:`ImagePrediction`.
        multimask: return the three candidates, for an ambiguous prompt such as one point; else the single answer.
        stability_fallback: replace an unstable single answer by the candidate of best predicted IoU.

    Raises:
        ValueError: no prompt, points without labels, or shapes that do not fit each other.
    """
    decoded = decode_prompts(model, features, points, labels, boxes, mask_logits)
    if multimask:
        return ImagePrediction(decoded.logits[:, 1:], decoded.ious[:, 1:], decoded.object_score)
    chosen = choose(decoded, multimask=False, stability_fallback=stability_fallback)
    return ImagePrediction(chosen.logits, chosen.iou[:, None], decoded.object_score)


def decode_prompts(
    model: Sam2Model,
    features: ImageFeatures,
    points: Tensor | None = None,
    labels: Tensor | None = None,
    boxes: Tensor | None = None,
    mask_logits: Tensor | None = None,
) -> DecodedMasks:
    """All four masks of each prompt; arguments and errors as for :func:`predict`."""
    batch = _check(model, points, labels, boxes, mask_logits)
    places, kinds = [], []
    if boxes is not None:
        places.append(boxes.reshape(batch, 2, 2).float())
        kinds.append(torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=boxes.device).expand(batch, 2))
    if points is not None and labels is not None:
        places.append(points.float())
        kinds.append(labels.long())
    encoder, image = model.sam_prompt_encoder, model.without_memory(features)
    tokens = image.new_zeros(batch, 0, image.shape[1])  # a mask alone adds no token, not even a padding token
    if places:
        tokens = encoder.tokens(torch.cat(places, dim=1), torch.cat(kinds, dim=1))
    maps = encoder.dense(mask_logits), features.stride_8, features.stride_4
    return model.sam_mask_decoder(image, encoder.image_position(), tokens, *maps)


def _check(
    model: Sam2Model, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, mask_logits: Tensor | None
) -> int:
    """The number of prompts."""
    if (points is None) != (labels is None):
        raise ValueError("points and labels come together; one of them is missing")
    side = 4 * model.config.grid
    sizes = set()
    for name, value, wanted in (
        ("points", points, (None, None, 2)),
        ("labels", labels, (None, None if points is None else points.shape[1])),
        ("boxes", boxes, (None, 4)),
        ("mask_logits", mask_logits, (None, 1, side, side)),
    ):
        if value is None:
            continue
        if value.ndim != len(wanted) or any(w not in (None, s) for w, s in zip(wanted, value.shape, strict=True)):
            shape = ", ".join("any" if w is None else str(w) for w in wanted)
            raise ValueError(f"{name} has shape {tuple(value.shape)}; accepted: ({shape})")
        sizes.add(len(value))
    if not sizes:
        raise ValueError("no prompt; accepted: points, boxes, mask_logits, combined")
    if len(sizes) > 1:
        raise ValueError(f"prompts of different number: {sorted(sizes)}; every kind needs one row per object")
    return sizes.pop()
