"""Makes the object score a calibrated logit: ``python -m recipes.embedded calibrate --help``.

Visibility is the sigmoid of the object score. This step fits a scale and an offset on the frames of an evaluation
(Platt, "Probabilistic outputs for support vector machines", 1999). Then visibility is the share of frames that really
show the object. Both are folded into the last layer of the score's head. A score above 0 means "seen", so the decision
becomes the more probable one.
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
from recipes.embedded.logistic import logistic
from sam2_ros.evaluation.presence import presence
from sam2_ros.model import load_model
from sam2_ros.model.sam2 import Sam2Model


def read_scores(paths: Iterable[Path]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Object scores and whether the object is seen, from the ``rows.csv`` of evaluations.

    It counts the frames that :mod:`sam2_ros.evaluation.presence` counts.
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
    """Scale and offset of the most likely ``sigmoid(scale * score + offset)``.

    With ``keep_threshold`` the offset stays 0: no decision changes, only its probability.

    Raises:
        ValueError: all seen or all absent, or scores that do not tell them apart.
    """
    weights, offset = logistic(scores[:, None], seen, with_offset=not keep_threshold, doubt=True)
    if weights[0] <= 0:
        raise ValueError("higher scores do not mean a seen object in these frames; train the object score first")
    return float(weights[0]), offset


@torch.no_grad()
def fold(model: Sam2Model, scale: float, offset: float) -> None:
    """Changes the head or the judgement by appearance: every score becomes ``scale * score + offset``."""
    if model.appearance is not None:
        # The evidence contains the head's score, which stays as it is; the judgement of it is scaled.
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
    parser.add_argument("--keep-threshold", action="store_true", help="fit the scale alone: no decision changes")
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
