"""Judges tracked masks by appearance, and looks for objects where the image resembles them.

A model with a trained :class:`~sam2_ros.model.appearance.Appearance` judges every tracked mask. The judgement replaces
the decoder's object score. It is low for a mask that drifted onto something else, so that the mask is neither shown
nor remembered. Where an object is not seen, the decoder gets the cells that match its prompted frames best as a box
and a mask prompt, without memory. The result is judged in the same way.

Every other model looks in this way, with a metric that needs no training, only for things that may be anywhere in the
frame: those of pictures, and those that left their window.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam2_ros.model.appearance import (
    EVIDENCE,
    LEAST,
    LEAST_LOGIT,
    MATCH_LIMIT,
    PLAIN_LEAST,
    Match,
    Reference,
    color_shares,
    coverage_of,
)
from sam2_ros.model.mask_decoder import ChosenMask, DecodedMasks
from sam2_ros.model.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT
from sam2_ros.model.sam2 import ImageFeatures, Sam2Model
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import View

SURE = 5.0  # judgement (logit) from which on later frames are compared with a tracked frame
WORTH_A_LOOK = 0.0  # match of the best cells from which on an object is searched for
ELSEWHERE = -2.0  # most that cells count which lie elsewhere than where an object is looked for,
AROUND = 0.5  # that is, in a box and this share of its sides around it
MAX_CELLS = 1024  # of a frame, in the looks of one object
BELOW_PEAK = 2.0  # cells that match worse than the best one by this much are not in the box, nor those below 0


def recognises(model: Sam2Model, config: TrackerConfig) -> bool:
    """Whether tracked masks are judged by appearance."""
    return looks_for_things(config) and model.appearance is not None


def looks_for_things(config: TrackerConfig) -> bool:
    """Whether things are looked for by appearance."""
    return config.recognition and not config.reference_policy


def recognise(
    model: Sam2Model, reference: Reference, features: ImageFeatures, decoded: DecodedMasks, chosen: ChosenMask
) -> tuple[ChosenMask, Tensor]:
    """Judges the masks ``chosen`` of ``B`` tracked objects by appearance, and searches for objects that are not seen.

    Returns:
        The masks, some of them found elsewhere, and the logit that each shows its object (``float32 [B]``; that of the
        decoder for an object without a reference).
    """
    appearance = model.appearance
    assert appearance is not None and features.appearance is not None and features.picture is not None
    with torch.autocast(model.device.type, enabled=False):
        match = appearance.match(features.appearance, reference)
        network = decoded.object_score[:, 0].float()
        evidence = appearance.evidence(
            match, features.picture, chosen.logits[:, 0].float(), network, chosen.iou.float()
        )
        scores = torch.where(reference.known, appearance.tracked(evidence)[:, 0], network)
        promising = match.logits.flatten(1).topk(3, dim=1).values.mean(dim=1) > WORTH_A_LOOK
        missing = torch.nonzero((scores <= 0) & reference.known & promising)[:, 0]
    if not len(missing):
        return chosen, scores
    found, found_scores, _ = look_for(model, features, match, missing)
    better = torch.nonzero(found_scores > 0)[:, 0]
    taken = missing[better]
    merged = {
        name: values.index_copy(0, taken, getattr(found, name)[better].to(values.dtype))
        for name, values in vars(chosen).items()
    }
    return ChosenMask(**merged), scores.index_copy(0, taken, found_scores[better])


def look_for(
    model: Sam2Model, features: ImageFeatures, match: Match, which: Tensor, place: Tensor | None = None
) -> tuple[ChosenMask, Tensor, Tensor]:
    """Decodes where the objects ``which`` (``[N]``) of ``match`` may be: the best candidates, their logits (``[N]``),
    and the evidence for these (``[N, len(EVIDENCE)]``). ``place`` (``[h, w]`` bool) are the cells that may show one."""
    appearance = model.metric
    assert features.picture is not None
    maps, count = match.logits[which], len(which)
    cell = model.config.image_size // maps.shape[1]
    asked = maps if place is None else torch.where(place, maps, maps.clamp(max=ELSEWHERE))
    boxes = torch.as_tensor(np.stack([box_around(each) for each in asked.cpu().numpy()]), device=maps.device)
    labels = torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]], device=maps.device).expand(count, -1)
    prompt = F.interpolate(asked[:, None], scale_factor=4, mode="bilinear", align_corners=False)
    alone = model.without_memory(features).expand(count, -1, -1, -1)
    decoded = model.decode(alone, features, cell * boxes, labels, prompt)
    with torch.autocast(model.device.type, enabled=False):
        evidence = torch.stack(
            [
                appearance.evidence(
                    Match(maps, match.tokens, match.prototype[which], match.colors[which]),
                    features.picture,
                    decoded.logits[:, candidate].float(),
                    decoded.object_score[:, 0].float(),
                    decoded.ious[:, candidate].float(),
                )
                for candidate in range(1, decoded.logits.shape[1])
            ],
            dim=1,
        )
        scores = appearance.found(evidence)[:, :, 0]
    rows, best = torch.arange(count, device=maps.device), scores.argmax(dim=1)
    index = 1 + best
    chosen = ChosenMask(
        decoded.logits[rows, index][:, None], decoded.ious[rows, index], decoded.tokens[rows, index], index
    )
    return chosen, scores[rows, best], evidence[rows, best]


def likeliest_boxes(view: View, reference: Reference, most: int) -> list[list[float]]:
    """Up to ``most`` places where ``view`` looks like the one object of ``reference``, the likeliest first: edges in
    pixels of the frame."""
    model, window = view.model, view.window
    with torch.autocast(model.device.type, enabled=False):
        (match,) = model.metric.match(model.looks(view.features), reference).logits
    logits = match.cpu().numpy()
    scale = np.array([window.width, window.height]) / len(logits)
    boxes: list[list[float]] = []
    while len(boxes) < most and np.sort(logits, axis=None)[-3:].mean() > WORTH_A_LOOK:
        corners = box_around(logits)
        boxes.append((corners * scale + [window.x0, window.y0]).reshape(4).tolist())
        (left, top), (right, bottom) = corners.astype(int)
        logits[top:bottom, left:right] = -MATCH_LIMIT
    return boxes


def look_in(view: View, box: Sequence[float], reference: Reference, strict: bool) -> tuple[ChosenMask, float] | None:
    """What in ``view``, around ``box`` (edges in pixels of the frame), looks like the one object of ``reference``: its
    mask, and the logit that it is the object. None: nothing does. ``strict``: nobody looks at it again."""
    model = view.model
    with torch.autocast(model.device.type, enabled=False):
        match = model.metric.match(model.looks(view.features), reference)
    one = torch.zeros(1, dtype=torch.int64, device=model.device)
    side, window = match.logits.shape[1], view.window
    (left, top), (right, bottom) = (
        (np.reshape(box, (2, 2)) - [window.x0, window.y0]) / [window.width, window.height] * side
    ).tolist()
    at = torch.arange(side, device=model.device) + 0.5
    across = (at > left - AROUND * (right - left)) & (at < right + AROUND * (right - left))
    down = (at > top - AROUND * (bottom - top)) & (at < bottom + AROUND * (bottom - top))
    chosen, scores, evidence = look_for(model, view.features, match, one, down[:, None] & across)
    score, plain = float(scores), model.appearance is None
    least = (PLAIN_LEAST if plain else LEAST) if plain or strict else {}
    alike = all(float(evidence[0, EVIDENCE.index(name)]) >= value for name, value in least.items())
    return (chosen, score) if alike and score > (LEAST_LOGIT if strict and not plain else 0) else None


def look_of(model: Sam2Model, features: ImageFeatures, logits: Tensor) -> Reference:
    """How the object of a mask (``logits`` ``[1, h, w]``) looks; of many cells, an even choice."""
    assert features.picture is not None
    tokens = model.looks(features)
    coverage = coverage_of(logits, model.config.grid)
    if tokens.shape[1] > MAX_CELLS:
        parts = (torch.nonzero(part)[:, 0] for part in (coverage[0] > 0, coverage[0] <= 0))
        kept = torch.cat([part[:: -(-len(part) // (MAX_CELLS // 2)) or 1] for part in parts])
        tokens, coverage = tokens[:, kept], coverage[:, kept]
    return Reference(tokens, coverage, color_shares(features.picture, logits)[:, None])


def box_around(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Corners ``[2, 2]`` (x, y, in cells) of the box around the best cell of ``logits`` ``[h, w]`` and the cells
    connected to it that match about as well."""
    smooth = 0.5 * logits + 0.5 * cv2.blur(logits, (3, 3), borderType=cv2.BORDER_REPLICATE)
    peak = np.unravel_index(int(smooth.argmax()), logits.shape)
    least = min(max(-1.0, min(0.0, float(logits.max()) - BELOW_PEAK)), float(logits[peak]) - 1e-3)
    _, regions, stats, _ = cv2.connectedComponentsWithStats((logits > least).astype(np.uint8), connectivity=8)
    left, top, width, height = stats[regions[peak], :4]
    return np.array([[left, top], [left + width, top + height]], np.float32)
