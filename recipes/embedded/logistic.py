"""Logistic regression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]


def logistic(
    evidence: Array, positive: NDArray[np.bool_], penalty: float = 0.0, with_offset: bool = True, doubt: bool = False
) -> tuple[Array, float]:
    """Weights ``[C]`` and offset of the most likely ``sigmoid(evidence @ weights + offset)``.

    Args:
        evidence: ``[N, C]``.
        positive: ``[N]``, the outcomes.
        penalty: on the squared weights of standardised evidence.
        with_offset: False keeps the offset at 0.
        doubt: takes Platt's targets (1999), which are never 0 or 1: separable evidence then gets finite weights.

    Raises:
        ValueError: all outcomes are the same.
    """
    count, yes = len(positive), int(positive.sum())
    if yes in (0, count):
        raise ValueError(f"{yes} of {count} examples are positive; accepted: some of both")
    target = positive.astype(np.float64)
    if doubt:
        target = np.where(positive, (yes + 1) / (yes + 2), 1 / (count - yes + 2))
    spread = evidence.std(axis=0) + 1e-9
    mean = evidence.mean(axis=0) if with_offset else np.zeros(evidence.shape[1])
    design = (evidence - mean) / spread

    def cost(parameters: Array) -> tuple[float, Array]:
        """Mean cross-entropy with the penalty, and its gradient."""
        weights = parameters[: design.shape[1]]
        logits = design @ weights + (parameters[-1] if with_offset else 0.0)
        error = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - target
        slope = design.T @ error / count + 2 * penalty * weights
        loss = float(np.mean(np.logaddexp(0, logits) - target * logits) + penalty * weights @ weights)
        return loss, np.append(slope, error.mean()) if with_offset else slope

    start = np.zeros(design.shape[1] + with_offset)
    found: Array = minimize(cost, start, jac=True, method="BFGS", options={"gtol": 1e-8}).x
    weights = found[: design.shape[1]] / spread
    return weights, float(found[-1] - weights @ mean) if with_offset else 0.0
