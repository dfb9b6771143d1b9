"""Which parts of a frame the network looks at: a window that follows each object. Free of torch.

The network sees a square of a fixed size. Squashed into it, a whole camera image shows small objects with few pixels.
A window is a part of the frame, of the frame's shape, that is enlarged to that square instead. It stays while it
serves its object, because memories tell where the object was in its window. The rules:

1. An object's window has :data:`FACTOR` times the size of its box, where that is expected, and :data:`CUT` times more
   where its mask reaches the edge of the last window. While the object is hidden, it is expected where it was: seen
   smaller, it fits its memory worse, and other things fit it as well.
2. It stays while it holds the box's surroundings (:data:`INNER` times the box) and is at most :data:`SLACK` times
   larger or smaller than wanted. Else its size changes by that factor at most, if it then holds them: where a thing
   is suddenly seen much smaller, its memory may fit another one.
3. Objects do not share windows: one for several shows each of them smaller. At most :data:`MOST` objects have one of
   their own. The others are seen in the whole frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Box: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1, edges in pixels

FACTOR = 2.5  # of an object's box
INNER = 1.5  # times the box; what must lie inside the window
SLACK = 1.4  # factor by which a window may be larger or smaller than wanted
WHOLE = 0.8  # share of the frame's sides from which on the whole frame is taken
CUT = 1.3  # factor for a mask that reaches the edge of the last window, which may have cut it off
ENLARGED = 5  # most times that a window is enlarged: beyond, there is nothing more to see
MOST = 8  # windows in a frame, beside the whole frame
MAX_PIXELS = 1920 * 1080  # of a stored image; larger ones are stored smaller


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

    def scaled(self, width: int, height: int, columns: int, rows: int) -> Window:
        """The window of a frame of ``width`` x ``height`` in a picture of it that has ``columns`` x ``rows`` pixels, of
        which it holds one or more."""
        across, down = columns / width, rows / height
        x0, y0 = min(round(self.x0 * across), columns - 1), min(round(self.y0 * down), rows - 1)
        return Window(x0, y0, max(round(self.x1 * across), x0 + 1), max(round(self.y1 * down), y0 + 1))

    def shares(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left and upper edge, width and height in shares of a frame of this size; of the whole frame 0, 0, 1, 1."""
        return self.x0 / width, self.y0 / height, self.width / width, self.height / height

    def holds(self, box: Box) -> bool:
        """Whether a box lies in it, to the pixel."""
        x0, y0, x1, y1 = box
        return self.x0 <= x0 + 1 and self.y0 <= y0 + 1 and x1 - 1 <= self.x1 and y1 - 1 <= self.y1


@dataclass(frozen=True)
class Target:
    """An object to look at."""

    key: int
    box: Box  # where it is expected
    window: Window | None = None  # through which it was looked at last
    seen: Box | None = None  # of its mask there; None: it was not seen


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
    """

    width: int
    height: int
    side: int

    @property
    def whole(self) -> Window:
        return Window.whole(self.width, self.height)

    def has(self, window: Window) -> bool:
        """Whether a window lies in this frame, not in one of another size."""
        return window.x1 <= self.width and window.y1 <= self.height

    def share_of(self, window: Window) -> float:
        """The share of the frame's sides that a window has."""
        return max(window.width / self.width, window.height / self.height)

    def window(self, box: Box, factor: float = FACTOR, least: float = 0.0, most: float = 1.0) -> Window:
        """The window of ``factor`` times the size of ``box``, around it, with a share of the frame's sides from
        ``least`` to ``most``."""
        x0, y0, x1, y1 = box
        share = factor * max((x1 - x0) / self.width, (y1 - y0) / self.height)
        share = max(share, self.side / ENLARGED / max(self.width, self.height))
        share = min(max(1.0 if share >= WHOLE else share, least), most)
        if share >= 1.0:
            return self.whole
        width, height = max(1, round(share * self.width)), max(1, round(share * self.height))
        x, y = round((x0 + x1 - width) / 2), round((y0 + y1 - height) / 2)
        x, y = min(max(x, 0), self.width - width), min(max(y, 0), self.height - height)
        return Window(x, y, x + width, y + height)

    def surroundings(self, box: Box, factor: float) -> Box:
        """The part of the frame of ``factor`` times the size of ``box``, around it."""
        x0, y0, x1, y1 = box
        dx, dy = (factor - 1) / 2 * (x1 - x0), (factor - 1) / 2 * (y1 - y0)
        return max(x0 - dx, 0), max(y0 - dy, 0), min(x1 + dx, self.width), min(y1 + dy, self.height)


def plan(targets: Sequence[Target], frame: Frame) -> list[Group]:
    """The windows to look through; the whole frame if there is nothing to look for."""
    windows = {target.key: window_of(target, frame) for target in targets}
    # Who has a window keeps it; of the others, the smallest objects come first.
    having = {target.key for target in targets if target.window not in (None, frame.whole)}
    ranked = sorted(windows, key=lambda key: (key not in having, frame.share_of(windows[key])))
    own = set([key for key in ranked if windows[key] != frame.whole][:MOST])
    members: dict[Window, list[int]] = {}
    for key, window in windows.items():
        members.setdefault(window if key in own else frame.whole, []).append(key)
    return [Group(window, frame.side, tuple(keys)) for window, keys in members.items()] or [
        Group(frame.whole, frame.side, ())
    ]


def most_views(objects: int) -> int:
    """The most windows of a frame with so many objects, the whole frame among them."""
    return objects if objects <= MOST else MOST + 1


def window_of(target: Target, frame: Frame) -> Window:
    """The window for an object: the last one while that serves."""
    growth = _cut(target, frame)
    wanted, window = frame.window(target.box, FACTOR * growth), target.window
    if window is None or not frame.has(window):
        return wanted
    share, inner = frame.share_of(window), frame.surroundings(target.box, INNER * growth)
    if wanted == frame.whole and share >= WHOLE:  # which others may share
        return wanted
    if 1 / SLACK <= share / frame.share_of(wanted) <= SLACK and window.holds(inner):
        return window
    near = frame.window(target.box, FACTOR * growth, share / SLACK, min(1.0, share * SLACK))
    return near if near.holds(inner) else wanted


def serving(target: Target, windows: Iterable[Window], frame: Frame) -> Window | None:
    """The smallest of ``windows`` through which an object is seen about as well as through a new one of its own."""
    growth = FACTOR * _cut(target, frame)
    wanted, region = frame.share_of(frame.window(target.box, growth)), frame.surroundings(target.box, growth)
    fitting = [window for window in windows if window.holds(region) and frame.share_of(window) <= SLACK * wanted]
    return min(fitting, key=frame.share_of, default=None)


def _cut(target: Target, frame: Frame) -> float:
    """:data:`CUT` where the object's box reaches an edge of its window that is not the frame's."""
    window = target.window
    if window is None or target.seen is None or not frame.has(window):
        return 1.0
    x0, y0, x1, y1 = target.seen
    near_x, near_y = 0.01 * window.width, 0.01 * window.height
    reached = (
        (window.x0 > 0 and x0 <= window.x0 + near_x)
        or (window.y0 > 0 and y0 <= window.y0 + near_y)
        or (window.x1 < frame.width and x1 >= window.x1 - near_x)
        or (window.y1 < frame.height and y1 >= window.y1 - near_y)
    )
    return CUT if reached else 1.0
