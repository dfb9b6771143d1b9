"""Makes the object score a calibrated logit: ``python -m recipes.embedded calibrate --help``.

Visibility is the sigmoid of the object score. A scale and an offset, fitted on the frames of an evaluation (Platt,
"Probabilistic outputs for support vector machines", 1999), make it the share of frames on which the object really is
seen. Both are folded into the last layer of the score's head, so nothing else has to know of them; since "seen" means a
score above 0, the decision becomes that of the more probable.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recipes.embedded.export import export
from sam2_ros.evaluation.presence import presence
from sam2_ros.model import load_model
from sam2_ros.model.sam2 import Sam2Model

STEPS = 50


def read_scores(paths: Iterable[Path]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Object scores and whether the object is seen, from the ``rows.csv`` of evaluations.

    Counted is what :mod:`sam2_ros.evaluation.presence` counts.
    """
    scores: list[float] = []
    seen: list[bool] = []
    for path in paths:
        objects: dict[tuple[str, str], list[dict[str, str]]] = {}
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["truth_area"]:
                    objects.setdefault((row["sequence"], row["object"]), []).append(row)
        for rows in objects.values():
            for row, present in zip(rows, presence([int(row["truth_area"]) for row in rows]), strict=True):
                if row["prompted"] not in ("True", "1", "true") and present is not None:
                    scores.append(float(row["object_score"]))
                    seen.append(present)
    return np.array(scores), np.array(seen, np.bool_)


def fit(scores: NDArray[np.float64], seen: NDArray[np.bool_], keep_threshold: bool = False) -> tuple[float, float]:
    """Scale and offset that make ``sigmoid(scale * score + offset)`` the most likely; by Newton's method.

    With ``keep_threshold`` the offset stays 0, so that no answer changes, only how sure it is.

    Raises:
        ValueError: all seen or all absent, or scores that do not tell them apart.
    """
    if seen.all() or not seen.any():
        raise ValueError(f"{len(seen)} frames, {int(seen.sum())} of them with the object; accepted: some of both")
    # Targets that leave some doubt, as Platt has them, keep separable scores from an infinite scale.
    positive, negative = int(seen.sum()), int((~seen).sum())
    target = np.where(seen, (positive + 1) / (positive + 2), 1 / (negative + 2))
    spread, centre = float(scores.std()) or 1.0, 0.0 if keep_threshold else float(scores.mean())
    columns = [(scores - centre) / spread, np.ones_like(scores)]
    design = np.stack(columns[:1] if keep_threshold else columns, axis=1)
    weights = np.zeros(design.shape[1])
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (probability - target)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + 1e-6 * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights -= step * min(1.0, 2.0 / max(1e-9, float(np.abs(step).max())))
    scale = float(weights[0]) / spread
    if scale <= 0:
        raise ValueError("higher scores do not mean a seen object in these frames; train the object score first")
    return scale, 0.0 if keep_threshold else float(weights[1]) - scale * centre


@torch.no_grad()
def fold(model: Sam2Model, scale: float, offset: float) -> None:
    """Changes the head, and the judgement by appearance, so that every score becomes ``scale * score + offset``."""
    if model.appearance is not None:
        # Its evidence holds the head's score: that stays as it is, and what is made of it is scaled.
        for layer in (model.appearance.tracked, model.appearance.found):
            layer.weight.mul_(scale)
            layer.bias.mul_(scale).add_(offset)
        return
    last = cast(nn.Linear, model.sam_mask_decoder.pred_obj_score_head.layers[-1])
    last.weight.mul_(scale)
    last.bias.mul_(scale).add_(offset)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded calibrate", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint to calibrate: embedded, or a path")
    parser.add_argument(
        "--rows", type=Path, nargs="+", required=True, help="rows.csv of its evaluations (sam2_ros eval)"
    )
    parser.add_argument("--keep-threshold", action="store_true", help="fit the scale alone: no answer changes")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    args = parser.parse_args(argv)
    model = load_model(args.model)
    scores, seen = read_scores(args.rows)
    try:
        scale, offset = fit(scores, seen, args.keep_threshold)
    except ValueError as error:
        parser.error(str(error))
    fold(model, scale, offset)
    print(f"{len(seen)} frames, {int((~seen).sum())} without the object: score -> {scale:.3f} * score + {offset:+.3f}")
    export(model, args.out)
