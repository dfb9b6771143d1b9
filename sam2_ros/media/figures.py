"""Two pictures of a run: a contact sheet of frames, and states and scores over time. Drawn with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.overlay import Rgb, bar_size, draw_text, object_color
from sam2_ros.media.track_table import FrameRecord, TrackRow
from sam2_ros.tracking.types import ObjectState

_WHITE, _BLACK, _GRID, _TEXT = (255, 255, 255), (0, 0, 0), (225, 225, 225), (70, 70, 70)
_STATE_COLORS = {
    ObjectState.VISIBLE: (86, 180, 95),
    ObjectState.OCCLUDED: (240, 190, 70),
    ObjectState.LOST: (205, 80, 80),
}


def write_png(path: Path, rgb: Rgb) -> None:
    """Writes ``uint8 [H, W, 3]`` as PNG.

    Raises:
        OSError: it can't be written there.
    """
    if not cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} can't be written")


def spread(count: int, cells: int) -> list[int]:
    """Up to ``cells`` indices of ``count`` items, evenly spread, the first and the last among them."""
    if count <= cells:
        return list(range(count))
    return [round(i * (count - 1) / (cells - 1)) for i in range(cells)] if cells > 1 else [0]


def contact_sheet(frames: Sequence[tuple[Rgb, str]], columns: int = 4, cell_width: int = 400) -> Rgb:
    """Frames (image and caption) in a grid, each scaled to ``cell_width`` pixels.

    Raises:
        ValueError: no frames.
    """
    if not frames:
        raise ValueError("a contact sheet needs at least one frame")
    gap = 4
    height, width = frames[0][0].shape[:2]
    cell_height = round(cell_width * height / width)
    rows = -(-len(frames) // columns)
    columns = min(columns, len(frames))
    sheet = np.full((rows * (cell_height + gap) + gap, columns * (cell_width + gap) + gap, 3), 255, np.uint8)
    for index, (rgb, caption) in enumerate(frames):
        cell = np.asarray(cv2.resize(rgb, (cell_width, cell_height), interpolation=cv2.INTER_AREA), np.uint8)
        if caption:
            scale = 0.45 * cell_width / 400
            draw_text(cell, caption, 0, cell_height - bar_size(caption, scale)[1], _WHITE, _BLACK, scale)
        top, left = (
            gap + n * (size + gap) for n, size in zip(divmod(index, columns), (cell_height, cell_width), strict=True)
        )
        sheet[top : top + cell_height, left : left + cell_width] = cell
    return sheet


def timeline(frames: Sequence[FrameRecord], width: int = 1200, title: str = "") -> Rgb:
    """For each object a bar of its states and below it the curves of visibility and predicted IoU, over time.

    The horizontal axis is the frames' stamps in seconds from the first one.

    Raises:
        ValueError: no frames.
    """
    if not frames:
        raise ValueError("a timeline needs at least one frame")
    ids = sorted({row.id for frame in frames for row in frame.objects})
    left, right, top, panel, axis = 130, 20, 64, 150, 46
    image = np.full((top + panel * max(1, len(ids)) + axis, width, 3), 255, np.uint8)
    start, end = frames[0].stamp, frames[-1].stamp
    span = max(1, end - start)

    def column(stamp: int) -> int:
        return left + round((width - left - right - 1) * (stamp - start) / span)

    _text(image, title, 10, 22, 0.55)
    _legend(image, left, 46)
    seconds = span / 1e9
    step = _tick_step(seconds)
    for i in range(int(seconds / step) + 1):
        x = column(start + round(i * step * 1e9))
        cv2.line(image, (x, top), (x, image.shape[0] - axis), _GRID, 1)
        _text(image, f"{i * step:g} s", x - 10, image.shape[0] - axis + 18, 0.42)
    edges = [column(f.stamp) for f in frames]
    edges.append(max(edges[-1] + 1, width - right))
    for n, object_id in enumerate(ids):
        rows = [next((row for row in f.objects if row.id == object_id), None) for f in frames]
        _panel(image, rows, edges, top + n * panel, panel)
    return image


def _panel(image: Rgb, rows: Sequence[TrackRow | None], edges: Sequence[int], top: int, height: int) -> None:
    last = next(row for row in reversed(rows) if row is not None)
    _text(image, f"{last.id} {last.name or last.label}"[:14], 10, top + 24, 0.5)
    bar_top, bar_bottom, curve_top, curve_bottom = top + 8, top + 28, top + 38, top + height - 12
    for value in (0.0, 0.5, 1.0):
        y = round(curve_bottom + value * (curve_top - curve_bottom))
        cv2.line(image, (edges[0], y), (edges[-1], y), _GRID, 1)
        _text(image, f"{value:g}", edges[0] - 30, y + 5, 0.4)
    for row, x0, x1 in zip(rows, edges, edges[1:], strict=False):
        if row is not None:
            cv2.rectangle(image, (x0, bar_top), (max(x0, x1 - 1), bar_bottom), _STATE_COLORS[row.state], -1)
        if row is not None and row.prompted:
            cv2.line(image, (x0, bar_top - 4), (x0, curve_bottom), _BLACK, 1)
    visibility = [None if row is None else row.visibility for row in rows]
    iou = [row.predicted_iou if row is not None and row.state is ObjectState.VISIBLE else None for row in rows]
    _curve(image, edges, visibility, curve_top, curve_bottom, _TEXT, 1)
    _curve(image, edges, iou, curve_top, curve_bottom, object_color(last.id), 2)


def _curve(
    image: Rgb,
    columns: Sequence[int],
    values: Sequence[float | None],
    top: int,
    bottom: int,
    color: tuple[int, int, int],
    thickness: int,
) -> None:
    """Joins neighbouring values in [0, 1]; a None leaves a gap."""
    previous: tuple[int, int] | None = None
    for x, value in zip(columns, values, strict=False):
        point = None if value is None else (x, round(bottom + min(1.0, max(0.0, value)) * (top - bottom)))
        if point is not None:
            cv2.line(image, previous or point, point, color, thickness, cv2.LINE_AA)
        previous = point


def _legend(image: Rgb, left: int, baseline: int) -> None:
    x = left
    for state, color in _STATE_COLORS.items():
        cv2.rectangle(image, (x, baseline - 10), (x + 14, baseline), color, -1)
        _text(image, state.name.lower(), x + 20, baseline, 0.42)
        x += 110
    _text(image, "grey: visibility   coloured: predicted IoU   black line: prompt", x, baseline, 0.42)


def _tick_step(seconds: float) -> float:
    """The smallest round step that gives at most ten ticks."""
    for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600):
        if seconds / step <= 10:
            return step
    return seconds / 10


def _text(image: NDArray[np.uint8], text: str, x: int, baseline: int, scale: float) -> None:
    cv2.putText(image, text, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_AA)
