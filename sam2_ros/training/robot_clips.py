"""Clips of rendered robot scenes: pictures with motion blur and a camera's faults, labels, and how much is hidden."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.simulation.scenes.models import SPLITS, Thing
from sam2_ros.simulation.scenes.offscreen import Offscreen
from sam2_ros.simulation.scenes.scene import RobotScene
from sam2_ros.simulation.score import HIDDEN_BELOW
from sam2_ros.training.clips import Clip, Image

_GOOD_VIEW = 0.5  # visible share, and share of its largest area, from which on an object is labelled
_LEAST = 3e-4  # of the picture, an object's area in its first good view
_LATEST = 0.6  # of the clip: who comes later isn't labelled
_BACK_AFTER = 2  # frames hidden
_SMALL, _NEAR = 0.01, 0.06  # of the picture, the median area
_BLUR_STEP = 3.0  # pixels between the pictures whose mean is a blurred one
_MOST_PARTS = 8
_SPOTS = ((0.25, -0.25), (-0.25, 0.25))  # parts of a pixel, so that edges are smooth


@dataclass(frozen=True)
class RobotClips:
    """What the clips of a folder have in common; ``seed`` and the clip's index give its scene."""

    split: str
    seed: int = 0
    width: int = 854
    height: int = 480
    steps: int = 60
    rate: float = 24.0  # frames a second


def robot_clip(
    settings: RobotClips, index: int, things: Sequence[Thing], screen: Offscreen,
    tick: Callable[[], object] = lambda: None,
) -> tuple[Clip, dict[str, Any]]:  # fmt: skip
    """Renders a clip; also what ``Scenes/NAME.json`` says of it.

    Args:
        things: the split's models; empty: plain shapes.
        screen: renders at the settings' size.
        tick: called for each frame; it may raise to stop.
    """
    seed = settings.seed + index
    # The split is a part of the key: no two splits share a scene, whatever their seeds.
    key = (SPLITS.index(settings.split), seed)
    scene = RobotScene(key, things, settings.width, settings.height, settings.steps / settings.rate)
    lens = _Lens(np.random.default_rng((*key, 1)))
    screen.load(scene.model)
    tracked = [n for n, item in enumerate(scene.items) if item.tracked]
    geoms = [set(np.flatnonzero(scene.geom_items == n).tolist()) for n in tracked]
    numbers = np.zeros(len(scene.items) + 1, np.uint8)  # by item + 1: its label
    numbers[[n + 1 for n in tracked]] = np.arange(1, len(tracked) + 1)
    frames, labels = list[Image](), list[Image]()
    visible = np.zeros((settings.steps, len(tracked)))
    step = 1 / settings.steps
    for t in range(settings.steps):
        tick()
        time = t / max(1, settings.steps - 1)
        frames.append(_photograph(scene, screen, lens, time, step))
        scene.move_to(time)
        screen.update(scene.data)
        ids = screen.ids()
        label = numbers[np.where(ids >= 0, scene.geom_items[ids], -1) + 1]
        labels.append(label)
        visible[t] = shares_in_sight(screen, label, geoms)
    stack = np.stack(labels)
    kept = _from_good_views(stack, visible)
    about = [_about(scene, tracked[column], stack == column + 1, visible[:, column], number) for column, number in kept]
    final = np.zeros(len(tracked) + 1, np.uint8)
    for column, number in kept:
        final[column + 1] = number
    clip = Clip(f"scene{seed:06d}", np.stack(frames), final[stack])
    return clip, {
        "seed": seed, "split": settings.split, "rate": settings.rate, "size": [settings.width, settings.height],
        "frames": settings.steps, "shutter": lens.shutter, "objects": about,
    }  # fmt: skip


def shares_in_sight(screen: Offscreen, label: Image, geoms: Sequence[Collection[int]]) -> list[float]:
    """The share of each object's pixels in the picture that nothing hides; 0 if it isn't in the picture.

    Args:
        screen: it rendered ``label`` ``[H, W]``, with the objects' numbers from 1.
        geoms: of each object.
    """
    shares = []
    for number, own in enumerate(geoms, 1):
        seen = int(np.count_nonzero(label == number))
        shares.append(seen / max(seen, int(np.count_nonzero(screen.alone(own)))) if seen else 0.0)
    return shares


def _from_good_views(labels: Image, visible: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Clears labels before each object's first good view; gives the columns of ``visible`` to keep and their ids."""
    kept = list[tuple[int, int]]()
    pixels = labels[0].size
    for column in range(visible.shape[1]):
        areas = np.count_nonzero(labels == column + 1, axis=(1, 2))
        good = (visible[:, column] >= _GOOD_VIEW) & (areas >= max(_LEAST * pixels, 0.3 * areas.max()))
        first = int(np.argmax(good))
        if not good.any() or first > _LATEST * len(labels):
            continue
        before = labels[:first]
        before[before == column + 1] = 0
        visible[:first, column] = 0
        kept.append((column, len(kept) + 1))
    return kept


def _about(
    scene: RobotScene, index: int, masks: NDArray[np.bool_], visible: NDArray[np.float64], number: int
) -> dict[str, Any]:
    item = scene.items[index]
    areas = np.count_nonzero(masks, axis=(1, 2)) / masks[0].size
    first = int(np.argmax(areas > 0))
    area = float(np.median(areas[areas > 0]))
    hidden = visible < HIDDEN_BELOW
    copies = [n for n, other in enumerate(scene.items) if n != index and other.group == item.group > 0]
    kind = "copy" if copies else "near" if area >= _NEAR else "small" if area < _SMALL else "distinct"
    return {
        "id": number, "model": item.thing.name, "kind": kind,
        "alike": sorted({scene.items[n].thing.name for n in copies}),
        "area": round(area, 6), "first": first,
        "hidden": [int(t) for t in np.flatnonzero(hidden) if t > first],
        "hidden_and_back": _comes_back(hidden[first:]),
        "visible": [round(float(value), 3) for value in visible],
    }  # fmt: skip


def _comes_back(hidden: NDArray[np.bool_]) -> bool:
    """Whether there are some hidden frames in a row, and then one in sight."""
    run = 0
    for gone in hidden:
        if not gone and run >= _BACK_AFTER:
            return True
        run = run + 1 if gone else 0
    return False


class _Lens:
    """A clip's camera: shutter, blur, noise, colours."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.shutter = float(rng.choice((0.0, 0.3, 0.6), p=(0.35, 0.4, 0.25)))  # share of the time between frames
        self._blur = rng.uniform(0.4, 0.9)  # pixels
        self._noise = rng.uniform(0.8, 4.0)  # of 255
        self._gain = rng.uniform(0.85, 1.25) * (1 + rng.uniform(-0.06, 0.06, 3))
        self._gamma = rng.uniform(0.8, 1.0)

    def develop(self, light: NDArray[np.float32]) -> Image:
        """``light`` ``[H, W, 3]``, 0 to 255."""
        blurred = cv2.GaussianBlur(light, (5, 5), self._blur)
        values = 255 * np.power(np.clip(blurred * (self._gain / 255).astype(np.float32), 0, 1), np.float32(self._gamma))
        values += self._noise * self._rng.standard_normal(values.shape, np.float32)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _photograph(scene: RobotScene, screen: Offscreen, lens: _Lens, time: float, step: float) -> Image:
    """The mean of pictures while the shutter is open, its middle at ``time``; more of them the faster things move."""
    opened = lens.shutter * step
    parts = len(_SPOTS)
    if opened:
        moved = scene.speed(time - opened / 2, opened)
        parts = int(np.clip(np.ceil(moved / _BLUR_STEP), len(_SPOTS), _MOST_PARTS))
    light = np.zeros((screen.height, screen.width, 3), np.float32)
    for part in range(parts):
        scene.move_to(time + opened * ((part + 0.5) / parts - 0.5))
        screen.update(scene.data, _SPOTS[part % len(_SPOTS)])
        light += screen.picture()
    light /= parts
    return lens.develop(light)
