"""Judges tracked masks by appearance, and looks for objects where the image resembles them.

A model with a trained :class:`~sam2_ros.model.appearance.Appearance` judges every tracked mask. The judgement replaces
the decoder's object score. It is low for a mask that drifted onto something else, so that the mask is neither shown
nor remembered. Where an object is not seen, the decoder gets the cells that match its prompted frames best as a box
and a mask prompt, without memory. The result is judged in the same way, and must resemble the object as much as
something that is found elsewhere (:data:`~sam2_ros.model.network.LEAST`).

Every other model looks in this way, with a metric that needs no training, only for things that may be anywhere in the
frame: those of pictures, and those that left their window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import arange, as_dtype_of, autocast, copied, float32, highest, module_of, repeated, to_numpy
from sam2_ros.model.network import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    EVIDENCE,
    LEAST,
    LEAST_LOGIT,
    MATCH_LIMIT,
    PLAIN_LEAST,
    Array,
    ChosenMask,
    DecodedMasks,
    ImageFeatures,
    Match,
    Network,
    Reference,
)  # fmt: skip
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import View
from sam2_ros.tracking.maps import resized
from sam2_ros.tracking.transfer import upload

SURE = 5.0  # judgement (logit) from which on later frames are compared with a tracked frame
WORTH_A_LOOK = 0.0  # match of the best cells from which on an object is searched for
ELSEWHERE = -2.0  # most that cells count which lie elsewhere than where an object is looked for,
AROUND = 0.5  # that is, in a box and this share of its sides around it
MAX_CELLS = 1024  # of a frame, in the looks of one object
BELOW_PEAK = 2.0  # cells that match worse than the best one by this much are not in the box, nor those below 0


def recognises(model: Network, config: TrackerConfig) -> bool:
    """Whether tracked masks are judged by appearance."""
    return looks_for_things(config) and model.appearance is not None


def looks_for_things(config: TrackerConfig) -> bool:
    """Whether things are looked for by appearance."""
    return config.recognition and not config.reference_policy


def recognise(
    model: Network, reference: Reference, features: ImageFeatures, decoded: DecodedMasks, chosen: ChosenMask
) -> tuple[ChosenMask, Array]:
    """Judges the masks ``chosen`` of ``B`` tracked objects by appearance, and searches for objects that are not seen.

    Returns:
        The masks, some of them found elsewhere, and the logit that each shows its object (``float32 [B]``; that of the
        decoder for an object without a reference).
    """
    appearance = model.appearance
    assert appearance is not None and features.appearance is not None and features.picture is not None
    with autocast(model.device, "float32"):
        match = appearance.match(features.appearance, reference)
        network = float32(decoded.object_score[:, 0])
        evidence = appearance.evidence(
            match, features.picture, float32(chosen.logits[:, 0]), network, float32(chosen.iou)
        )
        module, count = module_of(network), len(network)
        scores = module.where(reference.known, appearance.tracked(evidence)[:, 0], network)
        promising = highest(match.logits.reshape(count, -1), 3).mean(1) > WORTH_A_LOOK
        missing = module.argwhere((scores <= 0) & reference.known & promising)[:, 0]
    if not len(missing):
        return chosen, scores
    found, found_scores, found_evidence = look_for(model, features, match, missing)
    better = module.argwhere((found_scores > 0) & _alike(found_evidence, LEAST))[:, 0]
    taken = missing[better]
    merged = {
        name: _replaced(values, taken, as_dtype_of(getattr(found, name)[better], values))
        for name, values in vars(chosen).items()
    }
    return ChosenMask(**merged), _replaced(scores, taken, found_scores[better])


def _alike(evidence: Array, least: Mapping[str, float]) -> Array:
    """Whether each evidence (``[N, len(EVIDENCE)]``) is at least ``least`` by name, ``[N]`` bool."""
    return reduce(and_, (evidence[:, EVIDENCE.index(name)] >= value for name, value in least.items()))


def _replaced(values: Array, rows: Array, by: Array) -> Array:
    values = copied(values)
    values[rows] = by
    return values


def look_for(
    model: Network, features: ImageFeatures, match: Match, which: Array, place: Array | None = None
) -> tuple[ChosenMask, Array, Array]:
    """Decodes where the objects ``which`` (``[N]``) of ``match`` may be: the best candidates, their logits (``[N]``),
    and the evidence for these (``[N, len(EVIDENCE)]``). ``place`` (``[h, w]`` bool) are the cells that may show one."""
    appearance = model.metric
    assert features.picture is not None
    maps, count = match.logits[which], len(which)
    cell = model.config.image_size // maps.shape[1]
    module = module_of(maps)
    asked = maps if place is None else module.where(place, maps, maps.clip(None, ELSEWHERE))
    boxes = upload(np.stack([box_around(each) for each in to_numpy(asked)]), model.device)
    labels = upload(np.full((count, 2), (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT)), model.device)
    prompt = resized(asked[:, None], 4 * maps.shape[1], 4 * maps.shape[2])
    decoded = model.decode(repeated(model.without_memory(features), count), features, cell * boxes, labels, prompt)
    with autocast(model.device, "float32"):
        evidence = module.stack(
            [
                appearance.evidence(
                    Match(maps, match.tokens, match.prototype[which], match.colors[which]),
                    features.picture,
                    float32(decoded.logits[:, candidate]),
                    float32(decoded.object_score[:, 0]),
                    float32(decoded.ious[:, candidate]),
                )
                for candidate in range(1, decoded.logits.shape[1])
            ],
            1,
        )
        scores = appearance.found(evidence)[:, :, 0]
    rows, best = arange(count, maps), scores.argmax(1)
    index = 1 + best
    chosen = ChosenMask(
        decoded.logits[rows, index][:, None], decoded.ious[rows, index], decoded.tokens[rows, index], index
    )
    return chosen, scores[rows, best], evidence[rows, best]


def likeliest_boxes(view: View, reference: Reference, most: int) -> list[list[float]]:
    """Up to ``most`` places where ``view`` looks like the one object of ``reference``, the likeliest first: edges in
    pixels of the frame."""
    model, window = view.model, view.window
    with autocast(model.device, "float32"):
        (match,) = model.metric.match(model.looks(view.features), reference).logits
    logits = to_numpy(match)
    scale = np.array([window.width, window.height]) / len(logits)
    boxes: list[list[float]] = []
    while len(boxes) < most and np.sort(logits, axis=None)[-3:].mean() > WORTH_A_LOOK:
        corners = box_around(logits)
        boxes.append((corners * scale + [window.x0, window.y0]).reshape(4).tolist())
        (left, top), (right, bottom) = corners.astype(int)
        logits[top:bottom, left:right] = -MATCH_LIMIT
    return boxes


def look_in(view: View, box: Sequence[float], reference: Reference) -> tuple[ChosenMask, float] | None:
    """What in ``view``, around ``box`` (edges in pixels of the frame), looks like the one object of ``reference``: its
    mask, and the logit that it is the object. None: nothing does."""
    model = view.model
    with autocast(model.device, "float32"):
        match = model.metric.match(model.looks(view.features), reference)
    one = upload([0], model.device)
    side, window = match.logits.shape[1], view.window
    (left, top), (right, bottom) = (
        (np.reshape(box, (2, 2)) - [window.x0, window.y0]) / [window.width, window.height] * side
    ).tolist()
    at = arange(side, match.logits) + 0.5
    across = (at > left - AROUND * (right - left)) & (at < right + AROUND * (right - left))
    down = (at > top - AROUND * (bottom - top)) & (at < bottom + AROUND * (bottom - top))
    chosen, scores, evidence = look_for(model, view.features, match, one, down[:, None] & across)
    score, plain = float(scores[0]), model.appearance is None
    alike = bool(_alike(evidence, PLAIN_LEAST if plain else LEAST)[0])
    return (chosen, score) if alike and score > (0 if plain else LEAST_LOGIT) else None


def look_of(model: Network, features: ImageFeatures, logits: Array) -> Reference:
    """How the object of a mask (``logits`` ``[1, h, w]``) looks; of many cells, an even choice."""
    look = model.look(features, logits)
    tokens, coverage = look.tokens, look.coverage
    if tokens.shape[1] <= MAX_CELLS:
        return look
    module = module_of(coverage)
    parts = (module.argwhere(part)[:, 0] for part in (coverage[0] > 0, coverage[0] <= 0))
    kept = module.concatenate([part[:: -(-len(part) // (MAX_CELLS // 2)) or 1] for part in parts])
    return Reference(tokens[:, kept], coverage[:, kept], look.colors)


def box_around(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Corners ``[2, 2]`` (x, y, in cells) of the box around the best cell of ``logits`` ``[h, w]`` and the cells
    connected to it that match about as well."""
    smooth = 0.5 * logits + 0.5 * cv2.blur(logits, (3, 3), borderType=cv2.BORDER_REPLICATE)
    peak = np.unravel_index(int(smooth.argmax()), logits.shape)
    least = min(max(-1.0, min(0.0, float(logits.max()) - BELOW_PEAK)), float(logits[peak]) - 1e-3)
    _, regions, stats, _ = cv2.connectedComponentsWithStats((logits > least).astype(np.uint8), connectivity=8)
    left, top, width, height = stats[regions[peak], :4]
    return np.array([[left, top], [left + width, top + height]], np.float32)
