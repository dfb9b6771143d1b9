"""Pictures of a run: frames side by side (OpenCV), states and scores over time (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sam2_ros.media.overlay import Color, Rgb, bar_size, draw_text, object_color
from sam2_ros.media.track_table import FrameRecord, TrackRow
from sam2_ros.media.whole_files import write_whole
from sam2_ros.tracking.types import ObjectState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_WIDTH = 300  # pixels of a storyboard's frame
COLUMNS = 4
_MOST_SHOTS = 64  # of each kind, kept while the end of the run is not known
_DPI = 100
_STATE_COLORS = {ObjectState.VISIBLE: "#56b45f", ObjectState.OCCLUDED: "#f0be46", ObjectState.LOST: "#cd5050"}
_LEFT, _RIGHT, _TOP, _PANEL, _BOTTOM = 130, 20, 64, 150, 46  # pixels around and of a timeline's panels


def write_png(path: Path, rgb: Rgb) -> None:
    """Writes ``uint8 [H, W, 3]`` as PNG.

    Raises:
        WriteError: it can't be written there.
    """
    write_whole(path, cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes())


def new_chart(width: int, height: int, **options: Any) -> Figure:
    """A matplotlib figure, its size in pixels, outside pyplot's global state; ``options`` are those of ``Figure``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A little more than the size: matplotlib cuts the fraction off.
    figure = Figure(figsize=((width + 0.1) / _DPI, (height + 0.1) / _DPI), dpi=_DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def chart_pixels(figure: Figure) -> Rgb:
    """A figure of :func:`new_chart` as ``uint8 [H, W, 3]``."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[:, :, :3].copy()


def plain_axes(axes: Axes) -> None:
    """Gives ``axes`` a light grid, and no frame at the top and the right."""
    axes.grid(color="#e1e1e1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def chart_color(color: Color) -> tuple[float, float, float]:
    """A colour of the overlay in matplotlib's range, 0 to 1."""
    red, green, blue = color
    return red / 255, green / 255, blue / 255


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
    scale = max(0.35, 0.45 * cell_width / 400)
    for index, (rgb, caption) in enumerate(frames):
        cell = np.asarray(cv2.resize(rgb, (cell_width, cell_height), interpolation=cv2.INTER_AREA), np.uint8)
        if caption:
            top = cell_height - bar_size(caption, scale)[1]
            draw_text(cell, caption, 0, top, (255, 255, 255), (0, 0, 0), scale)
        row, column = divmod(index, columns)
        top, left = gap + row * (cell_height + gap), gap + column * (cell_width + gap)
        sheet[top : top + cell_height, left : left + cell_width] = cell
    return sheet


def timeline(frames: Sequence[FrameRecord], width: int = 1200, title: str = "") -> Rgb:
    """For each object a bar of its states, and below it visibility and predicted IoU.

    The horizontal axis is the frames' stamps in seconds from the first one.

    Raises:
        ValueError: no frames.
    """
    if not frames:
        raise ValueError("a timeline needs at least one frame")
    ids = sorted({row.id for frame in frames for row in frame.objects})
    count = max(1, len(ids))
    height = _TOP + _PANEL * count + _BOTTOM
    figure = new_chart(width, height)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    # A panel leaves 8 pixels above it and 12 below; its height is 1.3 units, 100 pixels each.
    figure.subplots_adjust(
        left=_LEFT / width, right=1 - _RIGHT / width, top=1 - (_TOP + 8) / height, bottom=(_BOTTOM + 12) / height,
        hspace=20 / 130,
    )  # fmt: skip
    seconds = [(frame.stamp - frames[0].stamp) / 1e9 for frame in frames]
    last_step = seconds[-1] - seconds[-2] if len(seconds) > 1 else 1.0
    for axes in panels:
        plain_axes(axes)
        axes.set_ylim(-0.03, 1.27)
        axes.set_yticks([0, 0.5, 1])
    panels[-1].set_xlim(0, seconds[-1] or last_step)
    panels[-1].set_xlabel("time [s]", fontsize=9)
    for object_id, axes in zip(ids, panels, strict=False):
        rows = [next((row for row in frame.objects if row.id == object_id), None) for frame in frames]
        _draw_object(axes, rows, [*seconds, seconds[-1] + last_step])
    figure.text(10 / width, 1 - 14 / height, title, fontsize=11, va="center")
    _draw_legend(figure, 1 - 40 / height)
    return chart_pixels(figure)


def _draw_object(axes: Axes, rows: Sequence[TrackRow | None], edges: Sequence[float]) -> None:
    """``edges`` are the seconds at which the frames begin, and the end of the last one."""
    newest = next(row for row in reversed(rows) if row is not None)
    color = chart_color(object_color(newest.id))
    label = f"{newest.id} {newest.name or newest.label}"[:14]
    axes.annotate(
        label, (0, 1), (10 - _LEFT, -10), xycoords="axes fraction", textcoords="offset pixels", va="center", fontsize=10
    )
    begin = 0
    for state, group in groupby(rows, lambda row: None if row is None else row.state):
        end = begin + len(list(group))
        if state is not None:
            bar = (edges[begin], edges[end] - edges[begin])
            axes.broken_barh([bar], (1.07, 0.2), color=_STATE_COLORS[state], linewidth=0)
        begin = end
    prompts = [edge for edge, row in zip(edges, rows, strict=False) if row is not None and row.prompted]
    axes.vlines(prompts, 0, 1.27, color="black", linewidth=1)
    visibility = [np.nan if row is None else row.visibility for row in rows]
    iou = [row.predicted_iou if row is not None and row.state is ObjectState.VISIBLE else np.nan for row in rows]
    axes.plot(edges[:-1], visibility, color="#555555", linewidth=1)
    axes.plot(edges[:-1], iou, color=color, linewidth=2)


def _draw_legend(figure: Figure, height: float) -> None:
    """One line of text at ``height``, a share of the figure's height."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure.legend(
        handles=[
            *(Patch(color=color, label=state.name.lower()) for state, color in _STATE_COLORS.items()),
            Line2D([], [], color="black", linewidth=1, label="prompt"),
            Line2D([], [], color="#555555", linewidth=1, label="visibility"),
            Line2D([], [], color=chart_color(object_color(1)), linewidth=2, label="predicted IoU (object's colour)"),
        ],
        loc="center left", bbox_to_anchor=(_LEFT / figure.bbox.width, height), ncols=6, frameon=False, fontsize=9,
        borderpad=0, borderaxespad=0,
    )  # fmt: skip


class Storyboard:
    """One picture of a run: frames around each change of state, and below them states and scores over time.

    It keeps a bounded number of frames, however long the run is.
    """

    def __init__(self, title: str, cells: int = 2 * COLUMNS) -> None:
        self._title, self._cells = title, cells
        self._records: list[FrameRecord] = []
        # Frames by their index in the run: every n-th one, those in which a state changed, and the last one.
        self._spread: dict[int, Rgb] = {}
        self._changes: dict[int, Rgb] = {}
        self._last: dict[int, Rgb] = {}
        self._every = 1
        self._states: dict[int, ObjectState] = {}

    def add(self, drawn: Rgb, record: FrameRecord) -> None:
        """Adds the next frame with its objects drawn in, ``uint8 [H, W, 3]``."""
        height, width = drawn.shape[:2]
        size = (CELL_WIDTH, round(CELL_WIDTH * height / width))
        picture = np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), np.uint8)
        index = len(self._records)
        self._last = {index: picture}
        if index % self._every == 0:
            self._spread[index] = picture
        if len(self._spread) > _MOST_SHOTS:
            self._every *= 2
            self._spread = {i: shot for i, shot in self._spread.items() if i % self._every == 0}
        states = {row.id: row.state for row in record.objects}
        changed = any(self._states.get(object_id, state) is not state for object_id, state in states.items())
        if changed and len(self._changes) < _MOST_SHOTS:
            self._changes[index] = picture
        self._states = states
        self._records.append(record)

    def draw(self) -> Rgb:
        """The picture, ``uint8 [H, W, 3]``.

        Raises:
            ValueError: no frame was added.
        """
        if not self._records:
            raise ValueError("a storyboard needs at least one frame")
        shots = self._spread | self._changes | self._last
        start = self._records[0].stamp
        cells = [(shots[i], f"{(self._records[i].stamp - start) / 1e9:.1f} s") for i in self._choose(set(shots))]
        sheet = contact_sheet(cells, COLUMNS, CELL_WIDTH)
        return np.concatenate((sheet, timeline(self._records, sheet.shape[1], self._title)))

    def _choose(self, shots: set[int]) -> list[int]:
        """First and last frame, then changes of state, then frames from the widest gaps between those."""
        chosen = {0, max(shots)}
        for index in self._changes:
            if len(chosen) < self._cells:
                chosen.add(index)
        while len(chosen) < min(self._cells, len(shots)):
            rest = shots - chosen
            chosen.add(max(rest, key=lambda index: (min(abs(index - other) for other in chosen), -index)))
        return sorted(chosen)
