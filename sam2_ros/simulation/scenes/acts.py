"""What happens to things on the table: they are pushed, shuffled, hidden, carried, shown, taken away and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from sam2_ros.simulation.scenes.models import Thing
from sam2_ros.simulation.scenes.view import SAMPLES, TIMES, Vector, View, keyframes, wander

_GAP = 0.012  # metres between things
_TRIES = 40
_LIFTED = 0.1  # metres; what is higher touches nothing on the table
_HIDE = 0.55  # least share of a hiding thing's height and width that the hidden one may have


@dataclass(eq=False)
class Item:
    """A thing at its place. ``points`` ``[SAMPLES, 3]`` is the middle of its underside; angles are in radians."""

    thing: Thing
    rest: Rotation  # how it lies
    tracked: bool
    group: int = 0  # things of one group above 0 look alike
    points: Vector = field(default_factory=lambda: np.zeros((SAMPLES, 3)))
    yaw: Vector = field(default_factory=lambda: np.zeros(SAMPLES))
    tilt: Vector = field(default_factory=lambda: np.zeros(SAMPLES))
    busy: bool = False  # an act moves it

    def __post_init__(self) -> None:
        low, high = np.array(self.thing.low), np.array(self.thing.high)
        corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
        turned = self.rest.apply(corners)
        least, most = turned.min(axis=0), turned.max(axis=0)
        self.offset = -np.array([*(least + most)[:2] / 2, least[2]])  # of the model's origin
        self.height = float(most[2] - least[2])
        self.radius = float(np.hypot(*(most - least)[:2])) / 2


class Stage:
    """The table with its items, and the acts. Every random choice comes from ``rng``."""

    def __init__(self, rng: np.random.Generator, view: View, half: Vector, seconds: float) -> None:
        """``half`` ``[2]``: half the table's sides, metres."""
        self.rng, self.view, self.half, self.seconds = rng, view, half, seconds
        self.items: list[Item] = []

    def put(self, item: Item) -> bool:
        """Puts an item where nothing is and will be; False if there is no such place."""
        place = self.free_place(item)
        if place is None:
            return False
        item.points[:] = place
        item.yaw[:] = self.rng.uniform(0, 2 * np.pi)
        self.items.append(item)
        return True

    def put_circle(self, items: Sequence[Item], turns: bool) -> bool:
        """Puts items on a circle, which turns until each is where another was."""
        radius = max(item.radius for item in items)
        ring = (radius + _GAP) / np.sin(np.pi / len(items)) + self.rng.uniform(0, 0.05)
        proxy = Item(items[0].thing, items[0].rest, False)
        proxy.radius = ring + radius
        middle = self.free_place(proxy)
        if middle is None:
            return False
        start, stop = sorted(self.rng.uniform(0.05, 0.95, 2))
        stop = max(stop, start + min(0.5, 0.9 / self.seconds))
        steps = self.rng.choice((-1, 1)) * int(self.rng.integers(1, len(items) + 1)) if turns else 0
        turn = keyframes((0, start, min(stop, 1.0), 1.001), (0, 0, 1, 1)) * steps * 2 * np.pi / len(items)
        first = self.rng.uniform(0, 2 * np.pi)
        for index, item in enumerate(items):
            angle = first + 2 * np.pi * index / len(items) + turn
            item.points[:] = middle
            item.points[:, :2] += ring * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            item.yaw[:] = self.rng.uniform(0, 2 * np.pi)
            item.busy = turns
            self.items.append(item)
        return True

    def free_place(self, item: Item) -> Vector | None:
        """A place ``[3]`` in the picture's middle part where the item touches nothing at any time."""
        for _ in range(_TRIES):
            spot = self.view.on_table(
                self.rng.uniform(0.1, 0.9) * self.view.width, self.rng.uniform(0.2, 0.88) * self.view.height
            )
            if spot is None or (np.abs(spot[:2]) > self.half - item.radius).any():
                continue
            if self._free(item, np.broadcast_to(spot, (SAMPLES, 3))):
                return spot
        return None

    def _free(self, item: Item, points: Vector) -> bool:
        for other in self.items:
            if other is item:
                continue
            near = np.hypot(*(points - other.points)[:, :2].T) < item.radius + other.radius + _GAP
            if (near & (np.abs(points[:, 2] - other.points[:, 2]) < _LIFTED)).any():
                return False
        return True

    def _times(self, count: int) -> list[float]:
        """``count`` ascending times from 0 to 1, spread at random, with the ends."""
        steps = self.rng.uniform(0.5, 1.5, count - 1)
        return [0.0, *(np.cumsum(steps) / steps.sum())[:-1].tolist(), 1.0]

    def _moves(self, item: Item, path: Vector) -> bool:
        """Takes a path if nothing is in its way."""
        if not self._free(item, path):
            return False
        item.points, item.busy = path, True
        item.yaw = item.yaw + wander(self.rng, self.rng.choice((0.0, 0.5, 1.5)))
        return True

    def act(self, item: Item) -> None:
        """Lets one of the acts without an arm happen to an item, or none."""
        acts: list[Callable[[Item], bool]] = [self._push, self._behind, self._leave, self._enter]
        for choice in self.rng.choice(len(acts), size=6, p=(0.4, 0.25, 0.2, 0.15)):
            if acts[choice](item):
                return

    def _push(self, item: Item) -> bool:
        goal = self.free_place(item)
        if goal is None:
            return False
        start = item.points[0]
        if self.rng.random() < 0.4:  # to and fro
            return self._moves(item, keyframes(self._times(5), [start, goal, goal, start, start]))
        return self._moves(item, keyframes(self._times(4), [start, start, goal, goal]))

    def _leave(self, item: Item) -> bool:
        start, times = item.points[0], self._times(6)
        out = self.view.out_of_sight(start, times[2], item.radius + 0.03, int(self.rng.choice((-1, 1))))
        back = self.free_place(item) if self.rng.random() < 0.5 else None
        goal = start if back is None else back
        ends = [start, start, out, out, goal, goal] if self.rng.random() < 0.8 else [start, start, out, out, out, out]
        return self._moves(item, keyframes(times, ends))

    def _enter(self, item: Item) -> bool:
        goal = item.points[0]
        out = self.view.out_of_sight(goal, 0.0, item.radius + 0.03, int(self.rng.choice((-1, 1))))
        return self._moves(item, keyframes((0, 0.1, self.rng.uniform(0.25, 0.5), 1), [out, out, goal, goal]))

    def _behind(self, item: Item) -> bool:
        """Behind a larger thing, for a while."""
        screens = [
            other for other in self.items
            if not other.busy and item.height < _HIDE * other.height / 0.6 and item.radius < _HIDE * other.radius / 0.6
        ]  # fmt: skip
        if not screens:
            return False
        screen = screens[self.rng.integers(len(screens))]
        eye, _ = self.view.pose(0.5)
        away = (screen.points[0] - eye) * (1, 1, 0)
        away /= np.linalg.norm(away)
        hidden = screen.points[0] + away * (screen.radius + item.radius + _GAP + 0.002)
        across = np.array([-away[1], away[0], 0]) * self.rng.choice((-1, 1))
        beside = hidden + across * (item.radius + screen.radius + self.rng.uniform(0.04, 0.12))
        beyond = hidden - across * (item.radius + screen.radius + self.rng.uniform(0.04, 0.12))
        last = beside if self.rng.random() < 0.5 else beyond
        return self._moves(item, keyframes(self._times(6), [beside, beside, hidden, hidden, last, last]))

    def carry(self, item: Item) -> Vector | None:
        """An arm fetches the item, lifts it, may bring it near the camera or out of sight, and puts it down.

        Returns:
            The arm's tip ``[SAMPLES, 3]``, NaN while it waits; None if no place is free.
        """
        goal = self.free_place(item) if self.rng.random() < 0.7 else item.points[0]
        if goal is None:
            return None
        start, times = item.points[0], self._times(7)
        times[1:3] = [self.rng.uniform(0.12, 0.22), self.rng.uniform(0.26, 0.34)]
        times[3:6] = np.sort(self.rng.uniform(times[2] + 0.1, 0.85, 3)).tolist()
        kind = self.rng.choice(("over", "near", "out"), p=(0.45, 0.3, 0.25))
        eye, axes = self.view.pose(times[3])
        if kind == "near":
            via = eye - axes @ np.array([*self.rng.uniform(-0.06, 0.06, 2), self.rng.uniform(0.25, 0.4)])
            via = np.array([*via[:2], max(via[2] - item.height / 2, 0.02)])
        elif kind == "out":
            via = self.view.out_of_sight(start, times[3], item.radius + 0.05, int(self.rng.choice((-1, 1))))
            via = _above(via, 0.12)
        else:
            via = (start + goal) / 2 + (*self.rng.uniform(-0.1, 0.1, 2), self.rng.uniform(0.12, 0.25))
        lift = _above(start, self.rng.uniform(0.04, 0.12))
        path = keyframes(times, [start, start, lift, via, via, goal, goal])
        if not self._free(item, path):
            return None
        item.points, item.busy = path, True
        held = keyframes(times, (0, 0, 1, 1, 1, 0, 0))
        item.yaw = item.yaw + held * wander(self.rng, 1.2)
        item.tilt = held * wander(self.rng, 0.6)
        tip = _above(path, max(item.height - 0.025, 0.6 * item.height))
        waiting = (times[1] * 0.45, times[5] + 0.45 * (1 - times[5]))
        return _within(tip, *waiting)

    def sweep(self, targets: Sequence[Item]) -> Vector:
        """An arm's tip passes between the camera and the targets, and stays before each for a while; NaN: it waits."""
        count = 2 * len(targets) + 2
        times, stops = self._times(count), []
        for index, item in enumerate(targets):
            eye, _ = self.view.pose(times[2 * index + 1])
            place = int(times[2 * index + 1] * (SAMPLES - 1))
            middle = _above(item.points[place], item.height / 2)
            stops += [_above(eye + self.rng.uniform(0.6, 0.88) * (middle - eye), 0.02)] * 2
        path = keyframes(times, [stops[0], *stops, stops[-1]])
        waiting = (0.4 * times[1], times[-2] + 0.6 * (1 - times[-2]))
        return _within(path, *waiting)


def _above(points: Vector, height: float) -> Vector:
    return points + np.array([0, 0, height])


def _within(path: Vector, begin: float, end: float) -> Vector:
    """The path from ``begin`` to ``end``, and NaN at other times."""
    return np.where(((begin <= TIMES) & (end >= TIMES))[:, None], path, np.nan)
