"""Short labelled videos to train on: resized sequences, sequences filmed by a virtual camera, composites of stills.

A clip is RGB frames with a label map per frame: 0 is background, each other value one object. All random numbers come
from a ``numpy.random.Generator``, so equal seeds give equal clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Cutout = tuple[Image, Image]  # RGB uint8 [h, w, 3], mask uint8 [h, w] 0 or 255


@dataclass(frozen=True)
class Clip:
    """``frames`` ``uint8 [T, S, S, 3]`` RGB; ``labels`` ``uint8 [T, S, S]``."""

    name: str
    frames: Image
    labels: Image


@dataclass(frozen=True)
class Still:
    """One photograph and its instances: RGB ``uint8 [H, W, 3]`` and labels ``uint8 [H, W]``."""

    name: str
    image: Image
    labels: Image


@dataclass(frozen=True)
class ClipSettings:
    """Settings of the clips that a training draws."""

    size: int  # pixels, side of the network's input
    length: int = 8  # frames
    objects: int = 3  # at most, of those in the first frame
    stride: int = 2  # at most this many frames of a video between two frames of a clip
    camera: float = 0.5  # share of real clips that a moving virtual camera films
    occlusion: float = 0.5  # share of clips made of stills in which objects are covered or leave
    pieces: int = 3  # at most this many cut-out objects fly over a still
    smallest: float = 0.001  # share of the first frame that an object must cover to be chosen
    largest: float = 0.7


def read_rgb(path: Path) -> Image:
    """``uint8 [H, W, 3]``.

    Raises:
        ValueError: OpenCV finds no image there.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is no image that OpenCV can read")
    return np.ascontiguousarray(image[:, :, ::-1], np.uint8)


def squash(clip: Clip, size: int) -> Clip:
    """Resizes to a square, as the network's input is."""
    frames = [cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in clip.frames]
    labels = [cv2.resize(label, (size, size), interpolation=cv2.INTER_NEAREST) for label in clip.labels]
    return Clip(clip.name, np.stack(frames), np.stack(labels))


def smooth_path(rng: np.random.Generator, steps: int, amplitude: float, knots: int = 3) -> NDArray[np.float64]:
    """``[steps]`` values that move smoothly between random knots in ``[-amplitude, amplitude]``."""
    points = rng.uniform(-amplitude, amplitude, knots)
    position = np.linspace(0, knots - 1, steps)
    left = np.minimum(position.astype(int), knots - 2)
    blend = 0.5 - 0.5 * np.cos(np.pi * (position - left))
    return points[left] * (1 - blend) + points[left + 1] * blend


def camera_path(
    rng: np.random.Generator, steps: int, height: int, width: int, size: int, zoom: tuple[float, float], motion: float
) -> list[Matrix]:
    """2x3 matrices that map source pixels to a ``size`` square: a window that pans, zooms and turns.

    ``zoom`` bounds the window's share of the source; ``motion`` scales pan, zoom and turn over the clip.
    """
    share = rng.uniform(*zoom) * np.exp(smooth_path(rng, steps, 0.15 * motion))
    angle = smooth_path(rng, steps, 0.15 * motion)
    slack = 0.5 * np.clip(1 - share, 0.05, 1)
    centre_x = width * (0.5 + rng.uniform(-1, 1) * slack * 0.7 + smooth_path(rng, steps, 0.15 * motion))
    centre_y = height * (0.5 + rng.uniform(-1, 1) * slack * 0.7 + smooth_path(rng, steps, 0.15 * motion))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    matrices = []
    for s, a, cx, cy in zip(share, angle, centre_x, centre_y, strict=True):
        scale_x, scale_y = size / (width * s), size / (height * s)
        cos, sin = np.cos(a), np.sin(a)
        linear = np.array([[flip * scale_x, 0], [0, scale_y]]) @ np.array([[cos, -sin], [sin, cos]])
        matrices.append(np.column_stack((linear, size / 2 - linear @ np.array([cx, cy]))))
    return matrices


def warp(image: Image, matrix: Matrix, size: int, linear: bool = True, reflect: bool = True) -> Image:
    """Warps to a ``size`` square; outside the source it reflects, or is 0."""
    border = cv2.BORDER_REFLECT_101 if reflect else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST
    warped: Image = cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=border)
    return warped


def film(clip: Clip, rng: np.random.Generator, size: int) -> Clip:
    """``clip`` filmed by a moving virtual camera, mirrored half the time; objects may leave the view."""
    steps, height, width = clip.labels.shape
    path = camera_path(rng, steps, height, width, size, (0.55, 0.95), 1.0)
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-20, 20)
    frames = [
        np.clip(warp(frame, matrix, size).astype(np.float32) * gain + offset, 0, 255).astype(np.uint8)
        for frame, matrix in zip(clip.frames, path, strict=True)
    ]
    # Reflected like the image, so that the labels fit.
    labels = [warp(label, matrix, size, linear=False) for label, matrix in zip(clip.labels, path, strict=True)]
    return Clip(clip.name + "+camera", np.stack(frames), np.stack(labels))


def cutouts(still: Still, smallest: float = 0.01, largest: float = 0.5) -> list[Cutout]:
    """Instances whose area is this share of the photograph: cropped image and mask ``uint8`` 0 or 255."""
    found = []
    for value in np.unique(still.labels)[1:]:
        mask = (still.labels == value).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        if smallest <= mask.mean() <= largest and min(w, h) >= 24:
            found.append((still.image[y : y + h, x : x + w].copy(), mask[y : y + h, x : x + w] * 255))
    return found


@dataclass(frozen=True)
class Sprite:
    """A cut-out that moves over a picture of ``S`` × ``S`` pixels; arrays have an entry for each of ``T`` frames."""

    image: Image  # RGB uint8 [h, w, 3]
    mask: Image  # uint8 [h, w] 0 or 255
    value: int  # its label; 0: labelled as background
    centre: NDArray[np.float64]  # [T, 2] x, y in pixels
    scale: NDArray[np.float64]  # [T] picture pixels per cut-out pixel
    angle: NDArray[np.float64]  # [T] radians
    stretch: NDArray[np.float64]  # [T] factor of the width, divisor of the height
    shear: NDArray[np.float64]  # [T]
    gain: NDArray[np.float64]  # [T] factor of the brightness


def paint(frames: list[Image], labels: list[Image], sprite: Sprite) -> None:
    """Draws ``sprite`` over ``frames`` and ``labels``, in place."""
    size = len(labels[0])
    middle = np.array([sprite.mask.shape[1] / 2, sprite.mask.shape[0] / 2])
    for t in range(len(frames)):
        cos, sin = np.cos(sprite.angle[t]), np.sin(sprite.angle[t])
        form = np.array([[sprite.stretch[t], sprite.shear[t]], [0, 1 / sprite.stretch[t]]])
        linear = sprite.scale[t] * (np.array([[cos, -sin], [sin, cos]]) @ form)
        matrix = np.column_stack((linear, sprite.centre[t] - linear @ middle))
        cover = warp(sprite.mask, matrix, size, reflect=False)
        if not cover.any():
            continue
        piece = np.clip(warp(sprite.image, matrix, size).astype(np.float32) * sprite.gain[t], 0, 255)
        alpha = cv2.GaussianBlur(cover, (3, 3), 0).astype(np.float32)[:, :, None] / 255
        frames[t] = (frames[t] * (1 - alpha) + piece * alpha).astype(np.uint8)
        labels[t] = np.where(cover > 127, np.uint8(sprite.value), labels[t])


def motion_blur(frame: Image, length: int) -> Image:
    """The blur of a camera that moves sideways by ``length`` pixels during the exposure."""
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    return np.asarray(cv2.filter2D(frame, -1, kernel), np.uint8)


def composite(background: Still, pieces: list[Cutout], rng: np.random.Generator, size: int, steps: int) -> Clip:
    """A clip from stills: the photograph under a moving camera, with ``pieces`` flying over it.

    Each piece has a path of its own. It may cover the photograph's objects and leave the view.
    """
    height, width = background.labels.shape
    path = camera_path(rng, steps, height, width, size, (0.6, 1.0), 1.0)
    frames = [warp(background.image, matrix, size) for matrix in path]
    # Beyond its edge the photograph is mirrored. The labels are not: a mirror image is not the object.
    labels = [warp(background.labels, matrix, size, linear=False, reflect=False) for matrix in path]
    first = int(background.labels.max()) + 1
    for value, (image, mask) in enumerate(pieces[: 256 - first], first):
        extent = rng.uniform(0.2, 0.6) * size / max(mask.shape)
        scale = extent * np.exp(smooth_path(rng, steps, 0.25))
        stretch = np.exp(rng.uniform(-0.2, 0.2) + smooth_path(rng, steps, 0.15))
        angle = rng.uniform(-0.3, 0.3) + smooth_path(rng, steps, 0.4)
        reach = 0.7 if rng.random() < 0.3 else 0.4
        x = size * (0.5 + smooth_path(rng, steps, reach))
        y = size * (0.5 + smooth_path(rng, steps, reach))
        shear = smooth_path(rng, steps, 0.15)
        gain = 1 + smooth_path(rng, steps, 0.15)
        sprite = Sprite(image, mask, value, np.stack((x, y), axis=1), scale, angle, stretch, shear, gain)
        paint(frames, labels, sprite)
    if rng.random() < 0.3:
        length = int(rng.integers(3, 9))
        frames = [motion_blur(frame, length) for frame in frames]
    return Clip(background.name + "+pieces", np.stack(frames), np.stack(labels))
