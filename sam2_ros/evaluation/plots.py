"""Pictures of an evaluation: J over time, reliability of the visibility, the worst frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam2_ros.evaluation.results import SequenceResult, mean
from sam2_ros.media.figures import chart_color, chart_pixels, contact_sheet, new_chart, plain_axes
from sam2_ros.media.overlay import Rgb, object_color

PANEL = (400, 210)  # pixels, width and height
COLUMNS = 3
MOST_PANELS = 30
PARTS = 10  # of a sequence, for the mean over all of them
_LINE = "#3c5ac8"


def j_over_time(results: Sequence[SequenceResult]) -> Rgb:
    """A panel with the mean by tenth of the sequences, then one for each sequence with a line for each object.

    At most ``MOST_PANELS`` sequences are shown, those of least J.

    Raises:
        ValueError: no object was scored.
    """
    scored = [result for result in results if result.scores]
    if not scored:
        raise ValueError("nothing was scored, so there is nothing to draw")
    means = {result.name: mean(score.j for score in result.scores) for result in scored}
    shown = sorted(scored, key=lambda result: means[result.name])[:MOST_PANELS]
    rows = -(-(1 + len(shown)) // COLUMNS)
    figure = new_chart(COLUMNS * PANEL[0], rows * PANEL[1], layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels[1 + len(shown) :]:
        axes.set_visible(False)
    for axes in panels:
        plain_axes(axes)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("J", fontsize=8)
    panels[0].set_title(f"mean of {len(scored)} sequences", fontsize=9)
    panels[0].plot([(i + 0.5) / PARTS for i in range(PARTS)], _by_part(scored), color=_LINE, marker=".")
    panels[0].set_xlim(0, 1)
    panels[0].set_xlabel("part of the sequence", fontsize=8)
    for axes, result in zip(panels[1:], shown, strict=False):
        axes.set_title(f"{result.name[:36]}: J {means[result.name]:.2f}", fontsize=9)
        axes.set_xlim(0, max(1, result.frames - 1))
        axes.set_xlabel("frame", fontsize=8)
        for score in result.scores:
            points = [(row.frame, row.j) for row in result.of(score.object) if row.j is not None]
            axes.plot(*zip(*points, strict=True), color=chart_color(object_color(score.object)))
    return chart_pixels(figure)


def _by_part(results: Sequence[SequenceResult]) -> list[float]:
    values: list[list[float]] = [[] for _ in range(PARTS)]
    for result in results:
        for row in result.rows:
            if row.scored and row.j is not None:
                values[min(PARTS - 1, PARTS * row.frame // max(1, result.frames))].append(row.j)
    return [mean(part) if part else np.nan for part in values]


def reliability(visibility: dict[str, Any]) -> Rgb:
    """The share of frames with the object in sight over the published visibility, with numbers of frames.

    ``visibility`` is that part of the report. A perfectly calibrated visibility lies on the diagonal.
    """
    figure = new_chart(480, 420, layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    error = visibility["expected_calibration_error"]
    axes.set_title("no labelled frames" if error is None else f"calibration error {error:.3f}", fontsize=10)
    axes.set_xlabel("published visibility (beside the points: number of frames)", fontsize=9)
    axes.set_ylabel("share of frames with the object in sight", fontsize=9)
    axes.set(xlim=(-0.03, 1.08), ylim=(-0.05, 1.05))
    axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1)
    bins = visibility["reliability"]
    axes.plot([value for value, _, _ in bins], [share for _, share, _ in bins], color=_LINE, marker="o", markersize=5)
    for value, share, count in bins:
        axes.annotate(str(count), (value, share), (6, -9), textcoords="offset points", fontsize=7)
    return chart_pixels(figure)


def j_over_age(by_age: Sequence[dict[str, float]]) -> Rgb:
    """Mean J over the age of the network's newest mask, as it came and carried to the newest image."""
    figure = new_chart(480, 360, layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    axes.set_xlabel("age of the network's newest mask (camera images); above: number of images", fontsize=9)
    axes.set_ylabel("J", fontsize=9)
    axes.set_ylim(-0.03, 1.08)
    ages = [row["age"] for row in by_age]
    for key, label, color in (("carried_j", "carried", _LINE), ("network_j", "as it came", "#c85a3c")):
        axes.plot(ages, [row[key] for row in by_age], marker="o", markersize=5, color=color, label=label)
    for row in by_age:
        axes.annotate(str(row["images"]), (row["age"], 1.02), ha="center", fontsize=7)
    axes.legend(loc="lower left", fontsize=9)
    return chart_pixels(figure)


def failure_sheet(folder: Path, results: Sequence[SequenceResult], count: int = 24) -> Rgb | None:
    """The ``count`` worst frames in ``folder`` of all sequences, worst first; None if there are none."""
    frames = sorted(
        ((result.name, bad) for result in results for bad in result.extra.get("worst", [])),
        key=lambda entry: (entry[1]["j"], entry[0], entry[1]["frame"]),
    )
    cells = []
    for name, bad in frames[:count]:
        picture = cv2.imread(str(folder / bad["file"]), cv2.IMREAD_COLOR)
        if picture is not None:
            rgb = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
            caption = f"{name} frame {bad['frame']} object {bad['object']}: J {bad['j']:.2f}"
            cells.append((_fit(rgb, 480, 270), caption))
    return contact_sheet(cells) if cells else None


def _fit(rgb: Rgb, width: int, height: int) -> Rgb:
    """The picture scaled to fit, with black bars, so that one sheet can hold several shapes."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    size = (max(1, round(scale * rgb.shape[1])), max(1, round(scale * rgb.shape[0])))
    cell = np.zeros((height, width, 3), np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    cell[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return cell
