"""The picture of a simulated run: camera images with masks and positions, and the table from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.figures import chart_color, chart_pixels, new_chart, plain_axes, write_png
from sam2_ros.media.overlay import Rgb, bar_size, draw_overlay, draw_text, object_color
from sam2_ros.msg import TrackedObject
from sam2_ros.ros.messages import frame_result
from sam2_ros.simulation.camera import SimulatedCamera
from sam2_ros.simulation.table_scene import CAMERA
from sam2_ros.tracking.types import ObjectState

if TYPE_CHECKING:
    from sam2_ros.simulation.scene_player import Moment, Played

_WIDTH, _HEIGHT = 640, 480  # of each panel, pixels
_TRAIL = 12  # tracked frames
_CORNERS = ((1, 1, 0), (1, -1, 0), (-1, -1, 0), (-1, 1, 0))  # of a body, seen from above
_BLACK, _WHITE, _DARK = (0, 0, 0), (255, 255, 255), (70, 70, 70)


def scene_picture(path: Path, played: Played, seed: int, rate: float, models: Path | None = None) -> None:
    """Writes two moments: one with all objects in sight, and below it one in which the arm hides something.

    Raises:
        OSError: it can't be written there.
    """
    camera = SimulatedCamera(seed, 32, 24, rate, models=models)
    rows = []
    for index in _moments(played):
        moment = played.moments[index]
        trail = played.moments[max(0, index - _TRAIL) : index + 1]
        rows.append(np.hstack([_camera_panel(moment, played.matrix), _table_panel(moment, trail, camera)]))
    write_png(path, np.vstack(rows))


def _moments(played: Played) -> list[int]:
    """The last frame with all objects in sight before the arm comes, and the one with the most hidden objects."""
    hidden = [sum(sample.seen < 0.05 for sample in moment.samples) for moment in played.moments]
    worst = int(np.argmax(hidden))
    clear = [n for n, moment in enumerate(played.moments) if all(sample.seen > 0.95 for sample in moment.samples)]
    before = [n for n in clear if _TRAIL <= n < worst] or clear or [0]
    return [before[-1], worst]


def _camera_panel(moment: Moment, matrix: Sequence[float]) -> Rgb:
    image = draw_overlay(moment.rgb, frame_result(moment.tracks), labels=False)
    scale = 0.45 * image.shape[0] / _HEIGHT
    absent, bars = [f"{(moment.stamp / 1e9 - 1):.1f} s"], list[tuple[int, int, int, int]]()
    for obj in moment.tracks.objects:
        if obj.depth_status != TrackedObject.DEPTH_OK:
            absent.append(f"{obj.id} {obj.name}: {ObjectState(obj.state).name.lower()}, no position")
            continue
        point = obj.position
        u, v = matrix[0] * point.x / point.z + matrix[2], matrix[4] * point.y / point.z + matrix[5]
        cv2.drawMarker(image, (round(u), round(v)), _BLACK, cv2.MARKER_CROSS, 15, 3, cv2.LINE_AA)
        cv2.drawMarker(image, (round(u), round(v)), _WHITE, cv2.MARKER_CROSS, 13, 1, cv2.LINE_AA)
        text = f"{obj.id} {obj.name}  {point.x:+.3f} {point.y:+.3f} {point.z:.3f} m"
        width, height = bar_size(text, scale)
        left = int(np.clip(obj.bbox.center.position.x - width / 2, 0, image.shape[1] - width))
        top = int(obj.bbox.center.position.y - obj.bbox.size_y / 2) - height - 2
        bar = _free((left, max(0, top), width, height), bars)
        bars.append(bar)
        draw_text(image, text, bar[0], bar[1], _BLACK, object_color(obj.id), scale)
    top = 0
    for n, line in enumerate(absent):
        top += draw_text(image, line, 0, top, _WHITE, _BLACK if n == 0 else _DARK, scale)
    return np.asarray(cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def _free(bar: tuple[int, int, int, int], taken: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The bar (left, top, width, height), moved down until it covers none of the others."""
    left, top, width, height = bar
    for x, y, w, h in sorted(taken, key=lambda other: other[1]):
        if left < x + w and x < left + width and top < y + h and y < top + height:
            top = y + h
    return left, top, width, height


def _table_panel(moment: Moment, trail: Sequence[Moment], camera: SimulatedCamera) -> Rgb:
    """The table from above, the camera below it: true bodies as outlines, positions as dots with their trails."""
    from matplotlib.patches import Circle, Polygon

    camera.scene.move_to(moment.stamp / 1e9 - 1)
    figure = new_chart(_WIDTH, _HEIGHT, layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    axes.set_facecolor("#f7f2ea")
    axes.set_title("from above: true bodies (outlines), positions in ~/tracks (dots)", fontsize=10)
    axes.set(xlim=(0.45, -0.45), ylim=(-0.30, 0.38), aspect="equal")  # y of the world points to the left
    axes.set_xlabel("y [m]", fontsize=9)
    axes.set_ylabel("x [m]", fontsize=9)
    for true in moment.truth.detections:
        place, turn = camera.scene.pose(int(true.id))
        size = true.bbox.size
        if size.x == size.y or camera.scene.objects[int(true.id) - 1].rolls:
            axes.add_patch(Circle((place[1], place[0]), size.x / 2, fill=False, color="#666666"))
        else:
            corners = [place + turn @ (np.array(signs) * (size.x, size.y, 0) / 2) for signs in _CORNERS]
            axes.add_patch(Polygon([(y, x) for x, y, _ in corners], fill=False, color="#666666"))
    for obj in moment.tracks.objects:
        color = chart_color(object_color(obj.id))
        way = [point for past in trail if (point := _world(past, obj.id, camera)) is not None]
        axes.plot([point[1] for point in way], [point[0] for point in way], color=color)
        here = _world(moment, obj.id, camera)
        if here is not None:
            axes.plot(here[1], here[0], "o", color=color, markeredgecolor="black", markersize=9)
            label = f"{obj.id} {obj.name}"
            axes.annotate(label, (here[1], here[0]), (8, 6), textcoords="offset points", fontsize=10)
    return chart_pixels(figure)


def _world(moment: Moment, object_id: int, camera: SimulatedCamera) -> NDArray[np.float64] | None:
    """The tracker's position of an object in the world's frame; None if it has none."""
    for obj in moment.tracks.objects:
        if obj.id == object_id and obj.depth_status == TrackedObject.DEPTH_OK:
            point = np.array([obj.position.x, obj.position.y, obj.position.z])
            return np.asarray(camera.rotation.T @ point + CAMERA)
    return None
