"""Draws tracked objects over their image."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.types import FrameResult, ObjectResult, ObjectState

Rgb = NDArray[np.uint8]
Color = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _BLACK, _GREY, _DARK = (255, 255, 255), (0, 0, 0), (200, 200, 200), (60, 60, 60)
_GOLDEN_RATIO = 0.618033988749895


def object_color(object_id: int) -> Color:
    """The bright colour of an id; consecutive ids get distant hues (multiples of the golden ratio)."""
    hue = (0.33 + object_id * _GOLDEN_RATIO) % 1.0
    saturation = (0.85, 0.6)[object_id // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_overlay(
    rgb: Rgb,
    result: FrameResult,
    alpha: float = 0.45,
    labels: bool = True,
    ids: Callable[[int], int] | None = None,
    caption: str = "",
    windows: bool = False,
) -> Rgb:
    """A copy of ``rgb`` (``uint8 [H, W, 3]``) with every object of ``result`` drawn into it.

    A visible object gets a translucent mask with an outline. With ``labels`` it also gets id, name, state and predicted
    IoU, and the top-left corner lists occluded and lost objects below ``caption``.

    Args:
        rgb: the image that ``result`` belongs to.
        alpha: how much of the mask's colour covers the image, 0 to 1.
        ids: maps an object's id to the id to show.
        windows: draw the edges of the part of the image in which the network looked for each object.

    Raises:
        ValueError: image and result differ in size.
    """
    if rgb.shape != (result.height, result.width, 3):
        raise ValueError(f"image is {rgb.shape}, the result belongs to {(result.height, result.width, 3)}")
    image = rgb.copy()
    objects = [(ids(obj.object_id) if ids else obj.object_id, obj) for obj in result.objects]
    for number, obj in objects:
        _paint_mask(image, obj, object_color(number), alpha)
    if windows:
        _draw_windows(image, objects)
    if not labels:
        return image
    scale = max(0.4, 0.5 * image.shape[0] / 480)  # of OpenCV's font, readable in an image of this height
    absent = []
    for number, obj in objects:
        title = f"{number} {obj.name or obj.label}".rstrip()
        if obj.state is ObjectState.VISIBLE:
            _tag(image, obj, f"{title} visible {obj.predicted_iou:.2f}", object_color(number), scale)
        else:
            absent.append(f"{title} {obj.state.name.lower()} {obj.visibility:.2f}")
    top = draw_text(image, caption, 0, 0, _WHITE, _BLACK, scale) if caption else 0
    for line in absent:
        top += draw_text(image, line, 0, top, _GREY, _DARK, scale)
    return image


def draw_text(image: Rgb, text: str, left: int, top: int, color: Color, background: Color, scale: float) -> int:
    """Writes ``text`` on a filled bar whose top-left corner is (``left``, ``top``); returns the bar's height."""
    width, height, baseline, margin, thickness = _measure(text, scale)
    bar_width, bar_height = width + 2 * margin, height + baseline + 2 * margin
    cv2.rectangle(image, (left, top), (left + bar_width - 1, top + bar_height - 1), background, -1)
    cv2.putText(image, text, (left + margin, top + margin + height), _FONT, scale, color, thickness, cv2.LINE_AA)
    return bar_height


def bar_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height in pixels of the bar that :func:`draw_text` draws."""
    width, height, baseline, margin, _ = _measure(text, scale)
    return width + 2 * margin, height + baseline + 2 * margin


def _measure(text: str, scale: float) -> tuple[int, int, int, int, int]:
    thickness = max(1, round(1.6 * scale))
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    return width, height, baseline, max(2, round(6 * scale)), thickness


def _paint_mask(image: Rgb, obj: ObjectResult, color: Color, alpha: float) -> None:
    crop = obj.mask.crop
    rows, columns = crop.shape
    if not crop.size:
        return
    region = image[obj.mask.y : obj.mask.y + rows, obj.mask.x : obj.mask.x + columns]
    paint = np.asarray(color, np.float32)
    region[crop] = np.rint((1 - alpha) * region[crop] + alpha * paint).astype(np.uint8)
    # Outside the crop is background, so that the outline closes at the crop's edges.
    width = max(1, round(image.shape[0] / 480))
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inside = cv2.erode(crop.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    region[crop & (inside == 0)] = color


def _draw_windows(image: Rgb, objects: Sequence[tuple[int, ObjectResult]]) -> None:
    """Frames each window in the colours of its objects, side by side from outside to inside."""
    width = max(1, round(image.shape[0] / 360))
    shown: dict[tuple[int, ...], int] = {}
    for number, obj in objects:
        if obj.window:
            x0, y0, x1, y1 = obj.window
            inset = width * shown.get(obj.window, 0) + width // 2
            shown[obj.window] = shown.get(obj.window, 0) + 1
            corners = (x0 + inset, y0 + inset), (x1 - 1 - inset, y1 - 1 - inset)
            cv2.rectangle(image, *corners, object_color(number), width)


def _tag(image: Rgb, obj: ObjectResult, text: str, color: Color, scale: float) -> None:
    """Writes ``text`` above the object's box, but inside the image."""
    width, height = bar_size(text, scale)
    x0, y0, _, _ = obj.mask.box
    left = max(0, min(x0, image.shape[1] - width))
    top = y0 - height if y0 >= height else min(y0, image.shape[0] - height)
    draw_text(image, text, left, max(0, top), _BLACK, color, scale)
