"""Which parts of a frame the network looks at: windows that follow the objects. Free of torch.

The network sees a square of a fixed size. Squashed into it, a whole camera image shows small objects with few pixels.
A window is a part of the frame, of the frame's shape, that is enlarged to that square instead. Each object wants a
window of :data:`FACTOR` times its box; near objects share one. A window stays while it serves its objects, because
memories tell where things were in their own window.

The rules, in shares of the frame:

1. An object's *region* is its last box, enlarged by :data:`FACTOR`; by :data:`WIDENING` more for every frame without
   it, and by :data:`CUT` where its mask was cut off by the window.
2. A window stays while it holds the regions' inner parts (:data:`INNER` times the boxes) and is at most :data:`SLACK`
   times larger or smaller than wanted.
3. There are as many windows as the budget allows (:mod:`.window_budget`). Objects are grouped so that they lose least:
   the loss of one is the logarithm of how much smaller the network sees it than :data:`WANTED`.
4. If not all windows can be looked through in one frame, they take turns. An object whose turn it isn't rests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2_ros.tracking.window_budget import TURNS, input_side, most_looks

Numbers: TypeAlias = NDArray[np.float64]

FACTOR = 2.5  # of an object's box
INNER = 1.5  # times the box; what must lie inside the window
SLACK = 1.4  # factor by which a window may be larger or smaller than wanted
WHOLE = 0.8  # share of the frame's sides from which on the whole frame is taken
CUT = 1.3  # factor for the box of a mask that reaches the window's edge
WIDENING = 1.1  # factor a frame while an object is hidden
WANTED = 0.285  # share of the network's side that an object should fill; more brings nothing
ENLARGED = 5  # most times that a window is enlarged: beyond, there is nothing more to see
MAX_CLUSTERS = 24  # that are grouped pair by pair; more objects are gathered by place before
BETTER = 0.25  # least gain an object, in loss, for which objects are grouped anew
REVIEW = 16  # frames after which the grouping is looked at again although it serves


class Window(NamedTuple):
    """A part of the frame; edges in pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def whole(cls, width: int, height: int) -> Window:
        return cls(0, 0, width, height)

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    def shares(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left and upper edge, width and height in shares of a frame of this size; of the whole frame 0, 0, 1, 1."""
        return self.x0 / width, self.y0 / height, self.width / width, self.height / height


@dataclass(frozen=True)
class Target:
    """An object to look at."""

    key: int
    box: tuple[float, float, float, float]  # where it was seen last; edges in pixels
    hidden: int = 0  # frames since
    window: Window | None = None  # through which it was looked at last
    rested: int = 0  # frames since


@dataclass(frozen=True)
class Group:
    """A window of a frame, and the objects that are seen through it."""

    window: Window
    side: int  # of the network's input, pixels
    keys: tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """What windows are placed in.

    Args:
        width, height: of the frame, pixels.
        side: of the network's square input, pixels.
        budget: pixels that the encoder may see in a frame.
        turns: frames within which every window is looked through.
    """

    width: int
    height: int
    side: int
    budget: int
    turns: int = TURNS

    @property
    def whole(self) -> Window:
        return Window.whole(self.width, self.height)

    def has(self, window: Window) -> bool:
        """Whether a window lies in this frame, not in one of another size."""
        return window.x1 <= self.width and window.y1 <= self.height

    @property
    def input_side(self) -> int:
        """In which a window is seen, pixels."""
        return input_side(self.side, self.budget)

    @property
    def looks(self) -> int:
        """Windows that are encoded in a frame."""
        return most_looks(self.side, self.budget)

    @property
    def most_windows(self) -> int:
        return self.turns * self.looks

    def shares(self, boxes: Sequence[Sequence[float]]) -> Numbers:
        scale = np.array([self.width, self.height] * 2, np.float64)
        return np.asarray(boxes, np.float64).reshape(-1, 4) / scale

    def place(self, region: Numbers) -> Window:
        """The window around ``region`` (``[4]``, shares)."""
        share = max(float(_extent(region)), self.side / ENLARGED / max(self.width, self.height))
        if share >= WHOLE:
            return self.whole
        width, height = max(1, round(share * self.width)), max(1, round(share * self.height))
        x = round((region[0] + region[2]) / 2 * self.width - width / 2)
        y = round((region[1] + region[3]) / 2 * self.height - height / 2)
        x, y = min(max(x, 0), self.width - width), min(max(y, 0), self.height - height)
        return Window(x, y, x + width, y + height)

    def share_of(self, window: Window) -> float:
        """The share of the frame's sides that a window has."""
        return max(window.width / self.width, window.height / self.height)


class Regions(NamedTuple):
    """What targets ask for, in shares of the frame."""

    wanted: Numbers  # [N, 4] to be in the window
    inner: Numbers  # [N, 4] that must be in the window that stays
    extents: Numbers  # [N] of the boxes: the longer side


def regions_of(targets: Sequence[Target], frame: Frame) -> Regions:
    boxes = frame.shares([target.box for target in targets])
    growth = np.array([WIDENING ** min(target.hidden, 100) * _cut(target, frame) for target in targets])
    inner = np.clip(_scaled(boxes, INNER * growth), 0, 1)
    return Regions(_scaled(boxes, FACTOR * growth), inner, np.maximum(_extent(boxes), 1e-6))


def plan(targets: Sequence[Target], frame: Frame, index: int = 0) -> list[Group]:
    """The windows to look through in the frame number ``index``; the whole frame if there is nothing to look for."""
    if not targets:
        return [Group(frame.whole, frame.input_side, ())]
    regions = regions_of(targets, frame)
    kept = _kept(targets, regions, frame)
    if kept is not None and kept.serves and index % REVIEW:
        return _groups(targets, kept, frame)
    best = _best(regions, frame)
    if kept is not None and _loss(kept, regions, frame) <= _loss(best, regions, frame) + BETTER * len(targets):
        return _groups(targets, kept, frame)
    return _groups(targets, _settled(best, kept), frame)


def turn(groups: list[Group], targets: Sequence[Target], frame: Frame) -> list[Group]:
    """Those of ``groups`` that are looked through now: first the ones with an object that has rested longest."""
    rested = {target.key: target.rested for target in targets}
    waiting = sorted(groups, key=lambda group: -max((rested[key] for key in group.keys), default=0))
    return [group for group in groups if group in waiting[: frame.looks]]


def serving(target: Target, windows: Iterable[Window], frame: Frame) -> Window | None:
    """The smallest of ``windows`` through which an object is seen about as well as through one of its own."""
    regions = regions_of([target], frame)
    wanted = frame.share_of(frame.place(regions.wanted[0]))
    fitting = [
        window
        for window in windows
        if _holds(frame, window, np.clip(regions.wanted[0], 0, 1)) and frame.share_of(window) <= SLACK * wanted
    ]
    return min(fitting, key=frame.share_of, default=None)


def window_for(box: Sequence[float], frame: Frame) -> Window:
    """The window for an object that is prompted with ``box`` (edges in pixels)."""
    return frame.place(_scaled(frame.shares([box]), np.array([FACTOR]))[0])


class _Partition(NamedTuple):
    """A division of objects; ``serves``: no window had to move."""

    members: list[list[int]]  # indices of targets
    windows: list[Window]
    serves: bool = False


def _kept(targets: Sequence[Target], regions: Regions, frame: Frame) -> _Partition | None:
    """The division of the frame before, with windows that no longer serve placed anew. Who has no window joins one that
    serves it, or gets one. None if there are none, or too many."""
    members: dict[Window, list[int]] = {}
    new = []
    for index, target in enumerate(targets):
        if target.window is None or not frame.has(target.window):
            new.append(index)
        else:
            members.setdefault(target.window, []).append(index)
    if not members:
        return None
    windows, serves = [], True
    for window, own in members.items():
        fresh = frame.place(_union(regions.wanted[own]))
        ratio = frame.share_of(window) / frame.share_of(fresh)
        stays = _holds(frame, window, _union(regions.inner[own])) and 1 / SLACK <= ratio <= SLACK
        windows.append(window if stays else fresh)
        serves = serves and stays
    divided = list(members.values())
    for index in new:
        shared = serving(targets[index], windows, frame)
        serves = serves and shared is not None
        if shared is None:
            divided.append([index])
            windows.append(frame.place(regions.wanted[index]))
        else:
            divided[windows.index(shared)].append(index)
    return _Partition(divided, windows, serves) if len(divided) <= frame.most_windows else None


def _best(regions: Regions, frame: Frame) -> _Partition:
    """The division of least loss. Of the pairs of groups, that is joined next whose windows grow least by it."""
    found = []
    members = _gathered(regions, frame)
    while True:
        if len(members) <= frame.most_windows:
            windows = [frame.place(_union(regions.wanted[own])) for own in members]
            found.append(_Partition(members, windows))
        if len(members) == 1:
            return min(reversed(found), key=lambda each: _loss(each, regions, frame))
        boxes = np.stack([_union(regions.wanted[own]) for own in members])
        count = np.array([len(own) for own in members])
        log = np.log(np.minimum(_extent(boxes), 1))
        joint = np.concatenate(
            (np.minimum(boxes[:, None, :2], boxes[None, :, :2]), np.maximum(boxes[:, None, 2:], boxes[None, :, 2:])), 2
        )
        growth = (count[:, None] + count) * np.log(np.minimum(_extent(joint), 1)) - (count * log)[:, None] - count * log
        growth[np.tril_indices(len(members))] = np.inf
        one, other = np.unravel_index(int(growth.argmin()), growth.shape)
        joined = members[one] + members[other]
        members = [own for index, own in enumerate(members) if index not in (one, other)] + [joined]


def _gathered(regions: Regions, frame: Frame) -> list[list[int]]:
    """Every object for itself; of many, those whose middles lie in the same sixteenth of the frame together."""
    count = len(regions.extents)
    if count <= MAX_CLUSTERS:
        return [[index] for index in range(count)]
    middles = np.clip((regions.wanted[:, :2] + regions.wanted[:, 2:]) / 2, 0, 0.999)
    cells: dict[tuple[int, int], list[int]] = {}
    for index, (x, y) in enumerate((4 * middles).astype(int).tolist()):
        cells.setdefault((x, y), []).append(index)
    return list(cells.values())


def _loss(division: _Partition, regions: Regions, frame: Frame) -> float:
    loss = 0.0
    for own, window in zip(division.members, division.windows, strict=True):
        seen = regions.extents[own] / frame.share_of(window)
        loss += float(np.log(np.maximum(WANTED / seen, 1)).sum())
    return loss


def _settled(best: _Partition, kept: _Partition | None) -> _Partition:
    """``best``, with the windows of ``kept`` for groups that are the same."""
    if kept is None:
        return best
    known = {frozenset(own): window for own, window in zip(kept.members, kept.windows, strict=True)}
    pairs = zip(best.members, best.windows, strict=True)
    return _Partition(best.members, [known.get(frozenset(own), window) for own, window in pairs])


def _groups(targets: Sequence[Target], division: _Partition, frame: Frame) -> list[Group]:
    """One group for each window, in an order that depends on nothing else than the windows and keys."""
    keys: dict[Window, list[int]] = {}
    for own, window in zip(division.members, division.windows, strict=True):
        keys.setdefault(window, []).extend(targets[index].key for index in own)
    groups = [Group(window, frame.input_side, tuple(sorted(own))) for window, own in keys.items()]
    return sorted(groups, key=lambda group: group.keys)


def _cut(target: Target, frame: Frame) -> float:
    """:data:`CUT` where the object's box reaches an edge of its window that is not the frame's."""
    window = target.window
    if window is None or target.hidden or not frame.has(window):
        return 1.0
    x0, y0, x1, y1 = target.box
    near_x, near_y = 0.01 * window.width, 0.01 * window.height
    reached = (
        (window.x0 > 0 and x0 <= window.x0 + near_x)
        or (window.y0 > 0 and y0 <= window.y0 + near_y)
        or (window.x1 < frame.width and x1 >= window.x1 - near_x)
        or (window.y1 < frame.height and y1 >= window.y1 - near_y)
    )
    return CUT if reached else 1.0


def _holds(frame: Frame, window: Window, region: Numbers) -> bool:
    """Whether a region (shares) lies in a window, to the pixel."""
    x0, y0, x1, y1 = (region * np.array([frame.width, frame.height] * 2)).tolist()
    return window.x0 <= x0 + 1 and window.y0 <= y0 + 1 and x1 - 1 <= window.x1 and y1 - 1 <= window.y1


def _scaled(boxes: Numbers, factors: Numbers) -> Numbers:
    middles, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * factors[:, None]
    return np.concatenate((middles - halves, middles + halves), axis=1)


def _union(boxes: Numbers) -> Numbers:
    return np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)))


def _extent(boxes: Numbers) -> Numbers:
    """The longer side of boxes ``[..., 4]`` in shares of the frame's sides."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).max(axis=-1))
