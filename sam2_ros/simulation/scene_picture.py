"""The picture of a simulated run: what the camera saw with masks and positions, and the table from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.figures import write_png
from sam2_ros.media.overlay import Rgb, bar_size, draw_overlay, draw_text, object_color
from sam2_ros.msg import TrackedObject
from sam2_ros.ros.messages import frame_result
from sam2_ros.simulation.camera import SimulatedCamera
from sam2_ros.simulation.table_scene import CAMERA

if TYPE_CHECKING:
    from sam2_ros.simulation.scene_player import Moment, Played

_WIDTH, _HEIGHT = 640, 480  # of each panel, pixels
_TOP_VIEW = (-0.30, 0.38, -0.45, 0.45)  # metres of the world: x from, to; y from, to
_TRAIL = 12  # tracked frames
_BLACK, _WHITE, _GREY, _TABLE = (0, 0, 0), (255, 255, 255), (120, 120, 120), (240, 232, 220)
_GRID = (222, 214, 200)


def scene_picture(path: Path, played: Played, seed: int, rate: float) -> None:
    """Writes two moments below each other: one with everything in sight, one in which the arm hides something.

    Raises:
        OSError: it can't be written there.
    """
    rows = []
    for index in _moments(played):
        moment = played.moments[index]
        trail = played.moments[max(0, index - _TRAIL) : index + 1]
        caption = f"{(moment.stamp / 1e9 - 1):.1f} s"
        rows.append(np.hstack([_camera_panel(moment, played.matrix, caption), _table_panel(moment, trail, seed, rate)]))
    write_png(path, np.vstack(rows))


def _moments(played: Played) -> list[int]:
    """The last frame before the arm comes in with everything in sight, and the one with the most hidden objects."""
    hidden = [sum(each.seen < 0.05 for each in moment.samples) for moment in played.moments]
    worst = int(np.argmax(hidden))
    clear = [n for n, moment in enumerate(played.moments) if all(each.seen > 0.95 for each in moment.samples)]
    before = [n for n in clear if _TRAIL <= n < worst] or clear or [0]
    return [before[-1], worst]


def _camera_panel(moment: Moment, matrix: Sequence[float], caption: str) -> Rgb:
    image = draw_overlay(moment.rgb, frame_result(moment.tracks), labels=False)
    scale = 0.45 * image.shape[0] / _HEIGHT
    absent, bars = [caption], list[tuple[int, int, int, int]]()
    for known in moment.tracks.objects:
        if known.depth_status != TrackedObject.DEPTH_OK:
            absent.append(f"{known.id} {known.name}: {_state(known)}, no position")
            continue
        point = known.position
        u, v = matrix[0] * point.x / point.z + matrix[2], matrix[4] * point.y / point.z + matrix[5]
        cv2.drawMarker(image, (round(u), round(v)), _BLACK, cv2.MARKER_CROSS, 15, 3, cv2.LINE_AA)
        cv2.drawMarker(image, (round(u), round(v)), _WHITE, cv2.MARKER_CROSS, 13, 1, cv2.LINE_AA)
        text = f"{known.id} {known.name}  {point.x:+.3f} {point.y:+.3f} {point.z:.3f} m"
        width, height = bar_size(text, scale)
        left = int(np.clip(known.bbox.center.position.x - width / 2, 0, image.shape[1] - width))
        top = int(known.bbox.center.position.y - known.bbox.size_y / 2) - height - 2
        bar = _free((left, max(0, top), width, height), bars)
        bars.append(bar)
        draw_text(image, text, bar[0], bar[1], _BLACK, object_color(known.id), scale)
    top = 0
    for n, line in enumerate(absent):
        top += draw_text(image, line, 0, top, _WHITE, _BLACK if n == 0 else (70, 70, 70), scale)
    return np.asarray(cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def _free(bar: tuple[int, int, int, int], taken: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The bar (left, top, width, height), moved down until it covers none of the others."""
    left, top, width, height = bar
    for x, y, w, h in sorted(taken, key=lambda each: each[1]):
        if left < x + w and x < left + width and top < y + h and y < top + height:
            top = y + h
    return left, top, width, height


def _table_panel(moment: Moment, trail: Sequence[Moment], seed: int, rate: float) -> Rgb:
    """From above, the camera below: true bodies as outlines, positions as dots, with their way up to now."""
    camera = SimulatedCamera(seed, 32, 24, rate)
    panel = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    cv2.rectangle(panel, _pixel((0.5, 0.6)), _pixel((-0.5, -0.6)), _TABLE, -1)
    for tick in np.arange(-0.4, 0.41, 0.1):
        cv2.line(panel, _pixel((tick, -0.6)), _pixel((tick, 0.6)), _GRID, 1)
        cv2.line(panel, _pixel((-0.5, tick)), _pixel((0.5, tick)), _GRID, 1)
    for true in moment.truth.detections:
        camera.scene.move_to(moment.stamp / 1e9 - 1)
        place, axes = camera.scene.pose(int(true.id))
        size = true.bbox.size
        if size.x == size.y or camera.scene.things[int(true.id) - 1].rolls:
            cv2.circle(panel, _pixel(place), round(size.x / 2 * _pixels_per_metre()), _GREY, 1, cv2.LINE_AA)
        else:
            corners = [place + axes @ (s * np.array([size.x, size.y, 0]) / 2) for s in _CORNERS]
            cv2.polylines(panel, [np.array([_pixel(corner) for corner in corners])], True, _GREY, 1, cv2.LINE_AA)
    for known in moment.tracks.objects:
        color = object_color(known.id)
        way = [point for each in trail if (point := _world(each, known.id, camera)) is not None]
        if len(way) > 1:
            cv2.polylines(panel, [np.array([_pixel(point) for point in way])], False, color, 2, cv2.LINE_AA)
        here = _world(moment, known.id, camera)
        if here is not None:
            cv2.circle(panel, _pixel(here), 6, color, -1, cv2.LINE_AA)
            cv2.circle(panel, _pixel(here), 6, _BLACK, 1, cv2.LINE_AA)
            left, top = _pixel(here)
            draw_text(panel, f"{known.id} {known.name}", left + 8, top - 8, _BLACK, _WHITE, 0.42)
    text = "from above, grid 0.1 m; outline: true body, dot: position in ~/tracks"
    draw_text(panel, text, 0, _HEIGHT - bar_size(text, 0.42)[1], _WHITE, _BLACK, 0.42)
    cv2.rectangle(panel, (0, 0), (_WIDTH - 1, _HEIGHT - 1), _GREY, 1)
    return panel


_CORNERS = [np.array(signs) for signs in ((1, 1, 0), (1, -1, 0), (-1, -1, 0), (-1, 1, 0))]


def _world(moment: Moment, object_id: int, camera: SimulatedCamera) -> NDArray[np.float64] | None:
    """Where the tracker sees an object, in the world's frame; None where it says nothing."""
    for known in moment.tracks.objects:
        if known.id == object_id and known.depth_status == TrackedObject.DEPTH_OK:
            point = np.array([known.position.x, known.position.y, known.position.z])
            return np.asarray(camera.rotation.T @ point + CAMERA)
    return None


def _pixels_per_metre() -> float:
    low_x, high_x, low_y, high_y = _TOP_VIEW
    return min(_HEIGHT / (high_x - low_x), _WIDTH / (high_y - low_y))


def _pixel(place: Sequence[float] | NDArray[np.float64]) -> tuple[int, int]:
    """x of the world points up in the panel, y to the left."""
    low_x, high_x, low_y, high_y = _TOP_VIEW
    scale = _pixels_per_metre()
    x, y = float(place[0]), float(place[1])
    return (
        round(_WIDTH / 2 - (y - (low_y + high_y) / 2) * scale),
        round(_HEIGHT / 2 - (x - (low_x + high_x) / 2) * scale),
    )


def _state(known: TrackedObject) -> str:
    names = {TrackedObject.STATE_OCCLUDED: "occluded", TrackedObject.STATE_LOST: "lost"}
    return names.get(known.state, "visible")
