"""Synthetic clips in which objects are covered, leave the view and come back, with exact labels of their visibility.

Cut-outs move over a photograph. Each one is covered by something, goes behind a wall, leaves the view and comes back
(or does not), or just moves. Only visible pixels are labelled, so a hidden object has none. All random numbers come
from a ``numpy.random.Generator``: equal seeds give equal clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.overlay import object_color
from sam2_ros.training.clips import (
    Clip,
    Cutout,
    Image,
    Sprite,
    Still,
    camera_path,
    cutouts,
    motion_blur,
    paint,
    smooth_path,
    warp,
)  # fmt: skip

EVENTS = {"none": 0.2, "cover": 0.35, "wall": 0.15, "leave": 0.2, "vanish": 0.1}
Curve = NDArray[np.float64]  # one value a frame


# Durations are shares of the clip's length, distances of the picture's side.
ABSENT = (0.15, 0.4)  # shortest and longest absence
RAMP = 0.15  # longest duration of leaving or covering
EXTENT = (0.22, 0.45)  # longest side of an object
WANDER = 0.25  # how far objects move


@dataclass(frozen=True)
class SceneSettings:
    """How much happens in a clip."""

    passers: int = 1  # up to this many further cut-outs fly past, unlabelled
    look_alike: float = 0.25  # share of clips with a mirrored, unlabelled copy of an object


def presence_curve(rng: np.random.Generator, steps: int, back: bool) -> Curve:
    """``[steps]``: 0 while an object is present, 1 while it is absent, smooth between; never absent on frame 0."""
    ramp = max(1.0, rng.uniform(0.3, 1) * RAMP * steps)
    away = max(2.0, rng.uniform(*ABSENT) * steps)
    latest = max(ramp + 1, steps - 1 - away - (ramp if back else 0))
    start = rng.uniform(ramp, latest)
    t = np.arange(steps, dtype=np.float64)
    rise = np.clip((t - start + ramp) / ramp, 0, 1)
    fall = np.clip((start + away + ramp - t) / ramp, 0, 1) if back else 1.0
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(rise, fall))


def moving(piece: Cutout, value: int, rng: np.random.Generator, size: int, steps: int) -> Sprite:
    """``piece`` on a smooth path near the middle of the picture, with small changes of angle and scale."""
    image, mask = piece
    if rng.random() < 0.5:
        image, mask = _mirrored(image), _mirrored(mask)
    knots = int(rng.integers(2, 5))
    place = rng.uniform(0.25, 0.75, 2)
    ways = [np.clip(p + smooth_path(rng, steps, WANDER, knots), 0.08, 0.92) for p in place]
    scale = rng.uniform(*EXTENT) * size / max(mask.shape)
    return Sprite(
        image,
        mask,
        value,
        centre=size * np.stack(ways, axis=1),
        scale=scale * np.exp(smooth_path(rng, steps, 0.2)),
        angle=rng.uniform(-0.3, 0.3) + smooth_path(rng, steps, 0.3),
        stretch=np.exp(rng.uniform(-0.2, 0.2) + smooth_path(rng, steps, 0.1)),
        shear=smooth_path(rng, steps, 0.1),
        gain=1 + smooth_path(rng, steps, 0.12),
    )


def patch(photograph: Image, rng: np.random.Generator, side: int = 160) -> Cutout:
    """A convex piece of a photograph, to cover objects with."""
    height, width = photograph.shape[:2]
    w, h = (int(min(limit, side * rng.uniform(0.6, 1.4))) for limit in (width, height))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    mask = np.zeros((h, w), np.uint8)
    kind = rng.integers(3)
    if kind == 0:
        mask[:] = 255
    elif kind == 1:
        cv2.ellipse(mask, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 255, -1)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        points = np.stack((w / 2 * (1 + np.cos(angles)), h / 2 * (1 + np.sin(angles))), axis=1)
        cv2.fillConvexPoly(mask, points.astype(np.int32), 255)
    return photograph[y : y + h, x : x + w].copy(), mask


def _mirrored(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def _reach(sprite: Sprite) -> float:
    """The largest distance of a sprite's pixels from its centre, pixels."""
    return 0.5 * float(np.hypot(*sprite.mask.shape)) * float(sprite.scale.max())


def _direction(rng: np.random.Generator) -> Curve:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _cover(target: Sprite, cover: Cutout, curve: Curve, rng: np.random.Generator) -> Sprite:
    """A cover that moves over ``target`` while ``curve`` rises, stays on it, and moves on when it falls."""
    radius, shape = _reach(target), cover[1].shape
    grown = rng.uniform(0.7, 1.15) * radius / (0.5 * min(shape))
    ahead = _direction(rng) * (radius + 0.6 * grown * max(shape))
    # It leaves on the side opposite to where it came from.
    side = np.where(np.arange(len(curve)) < curve.argmax(), -1.0, 1.0)
    return _rigid(cover, target.centre + (side * (1 - curve))[:, None] * ahead, grown, rng.uniform(-0.5, 0.5))


def _rigid(piece: Cutout, centre: NDArray[np.float64], scale: float, angle: float) -> Sprite:
    """An unlabelled sprite that moves along ``centre`` without any other change."""
    flat = np.zeros(len(centre))
    return Sprite(*piece, 0, centre, flat + scale, flat + angle, stretch=flat + 1, shear=flat, gain=flat + 1)


def _behind_wall(
    target: Sprite, cover: Cutout, rng: np.random.Generator, size: int, steps: int
) -> tuple[Sprite, Sprite]:
    """``target`` on a straight path behind a wall, and the wall."""
    radius = _reach(target)
    scale = target.scale * min(1.0, 0.15 * size / radius)
    radius = min(radius, 0.15 * size)
    half = radius * rng.uniform(0.8, 1.3)
    axis = 0 if rng.random() < 0.6 else 1
    place = size * rng.uniform(0.4, 0.6)
    reach = half + radius
    way = np.linspace(place - reach * rng.uniform(0.9, 1.3), place + reach * rng.uniform(0.4, 1.3), steps)
    centre, wall_centre = target.centre.copy(), np.full((steps, 2), size / 2.0)
    centre[:, axis] = 2 * place - way if rng.random() < 0.5 else way
    wall_centre[:, axis] = place
    sides = [int(1.1 * size)] * 2
    sides[axis] = max(2, int(2 * half))
    resized = np.asarray(cv2.resize(cover[0], sides), np.uint8)
    wall = _rigid((resized, np.full(resized.shape[:2], 255, np.uint8)), wall_centre, 1.0, rng.uniform(-0.15, 0.15))
    return replace(target, centre=centre, scale=scale), wall


def occlusion_clip(
    background: Still,
    pieces: Sequence[Cutout],
    occluders: Sequence[Cutout],
    rng: np.random.Generator,
    size: int,
    steps: int,
    settings: SceneSettings = SceneSettings(),
) -> Clip:
    """A clip of ``pieces`` (labels 1, 2, …) over ``background``, covered by ``occluders`` (unlabelled) or leaving.

    Args:
        background: its own labels are ignored.
        pieces: objects, at least one; later ones lie over earlier ones and their covers.
        occluders: they cover the pieces; convex ones (:func:`patch`) cover wholly.
        rng: source of all random numbers.
        size: side of the square frames, pixels.
        steps: frames.

    Returns:
        Frames ``uint8 [steps, size, size, 3]`` RGB, labels ``uint8 [steps, size, size]``; an object is labelled from
        its first good view on.
    """
    height, width = background.image.shape[:2]
    path = camera_path(rng, steps, height, width, size, (0.6, 1.0), 0.6)
    frames = [warp(background.image, matrix, size) for matrix in path]
    labels = [np.zeros((size, size), np.uint8) for _ in path]
    sprites: list[Sprite] = []
    for value, piece in enumerate(pieces, start=1):
        target = moving(piece, value, rng, size, steps)
        cover = occluders[int(rng.integers(len(occluders)))]
        event = rng.choice(list(EVENTS), p=list(EVENTS.values()))
        if event == "wall":
            sprites += _behind_wall(target, cover, rng, size, steps)
            continue
        curve = presence_curve(rng, steps, back=event != "vanish" and bool(rng.random() < 0.85))
        if event in ("leave", "vanish"):
            away = 0.75 * size + _reach(target)
            target = replace(target, centre=target.centre + curve[:, None] * _direction(rng) * away)
        sprites.append(target)
        if event == "cover":
            sprites.append(_cover(target, cover, curve, rng))
    if rng.random() < settings.look_alike:
        twin = sprites[0]
        other = moving((_mirrored(twin.image), _mirrored(twin.mask)), 0, rng, size, steps)
        sprites.insert(0, replace(other, scale=twin.scale * rng.uniform(0.8, 1.2)))
    for _ in range(int(rng.integers(settings.passers + 1))):
        passer = moving(occluders[int(rng.integers(len(occluders)))], 0, rng, size, steps)
        straight = np.linspace(-0.2, 1.2, steps)[:, None] * np.array([[1.0, 0.0]])
        if rng.random() < 0.5:
            straight = straight[:, ::-1]
        drift = size * (straight + rng.uniform(0, 1, 2) * (straight == 0))
        sprites.append(replace(passer, centre=drift))
    for sprite in sprites:
        paint(frames, labels, sprite)
    stacked = np.stack(labels)
    for value in range(1, len(pieces) + 1):
        # An object that first appears partly hidden is labelled from its first good view on.
        before = stacked[: first_good_view(stacked == value)]
        before[before == value] = 0
    return Clip(background.name + "+occlusion", np.stack(_degrade(frames, rng)), stacked)


def first_good_view(masks: NDArray[np.bool_]) -> int:
    """The first frame of ``[T, H, W]`` that shows at least half of the object's median area; T if none does."""
    areas = masks.sum(axis=(1, 2))
    return int(np.argmax(areas >= 0.5 * np.median(areas[areas > 0]))) if areas.any() else len(masks)


def _degrade(frames: list[Image], rng: np.random.Generator) -> list[Image]:
    """Adds the effects of a camera: exposure, noise, and in a third of the clips motion blur."""
    gain, offset, noise = rng.uniform(0.8, 1.2), rng.uniform(-15, 15), rng.uniform(0, 6)
    length = int(rng.integers(3, 8)) if rng.random() < 0.3 else 0
    degraded = []
    for frame in frames:
        if length:
            frame = motion_blur(frame, length)
        grain = rng.normal(0, noise, frame.shape).astype(np.float32)
        degraded.append(np.clip(frame * gain + offset + grain, 0, 255).astype(np.uint8))
    return degraded


def outlined(frame: Image, labels: Image) -> Image:
    """A frame with the outlines of its objects, RGB."""
    picture = frame.copy()
    for value in np.unique(labels)[1:]:
        mask = (labels == value).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, outlines, -1, object_color(int(value)), max(1, len(picture) // 150))
    return picture


class OcclusionClips:
    """Endless clips of a set of photographs; clip ``index`` depends on the seed and ``index`` only.

    Args:
        stills: photographs with labelled objects; each is also a background, but never for its own objects.
        seed: of all random numbers.
        size: side of the square frames, pixels.
        steps: frames of a clip.
        objects: least and greatest number of labelled objects.
        settings: how much happens in a clip.

    Raises:
        ValueError: fewer than two photographs, or no object of a usable size in any.
    """

    def __init__(
        self,
        stills: Sequence[Still],
        seed: int,
        size: int,
        steps: int,
        objects: tuple[int, int] = (2, 4),
        settings: SceneSettings = SceneSettings(),
    ) -> None:
        self._stills, self._seed, self._size, self._steps = stills, seed, size, steps
        self._objects, self._settings = objects, settings
        self._cutouts = [(index, piece) for index, still in enumerate(stills) for piece in cutouts(still)]
        if len(stills) < 2 or len({index for index, _ in self._cutouts}) < 2:
            raise ValueError(
                f"{len(stills)} photographs with {len(self._cutouts)} usable objects; accepted: at least two "
                "photographs, each with an object of 1 to 50 % of the picture, 24 pixels or more"
            )

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng((self._seed, index))
        place = int(rng.integers(len(self._stills)))
        others = [piece for source, piece in self._cutouts if source != place] or [p for _, p in self._cutouts]
        count = int(rng.integers(self._objects[0], self._objects[1] + 1))
        pieces = [others[i] for i in rng.integers(len(others), size=count)]
        textures = [patch(self._stills[i].image, rng) for i in rng.integers(len(self._stills), size=3)]
        occluders = [*textures, others[rng.integers(len(others))]]
        background = self._stills[place]
        return occlusion_clip(background, pieces, occluders, rng, self._size, self._steps, self._settings)
