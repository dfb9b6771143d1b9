"""One tracked camera: its newest picture, with the tracks of the same stamp."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.messages import to_stamp
from sam2_ros.ros.subscription import FollowingSubscription
from sam2_ros.viewer.discovery import Source
from sam2_ros.viewer.packets import css_color, finite
from sam2_ros.viewer.service_calls import ServiceCalls
from sam2_ros.viewer.track_packets import STATES, packet

WAITING_IMAGES = 40  # that may wait for their tracks, from a slow engine
WAITING_TRACKS = 3  # that may wait for their image
HISTORY_S = 90.0  # of every object's visibility, for browsers that connect later
HISTORY_FRAMES, HISTORY_OBJECTS = 6000, 256  # at most, of a camera and of a frame
_LONGEST_NAME = 200  # characters, in the history
SILENCE_S, LONGEST_SILENCE_S = 1.0, 5.0  # without tracks, before pictures are shown without them

_numbers = itertools.count(1)


class Shot:
    """A picture with its tracks, encoded once for all browsers."""

    def __init__(self, image: Any, tracks: TrackedObjectArray | None, arrived: int, max_side: int) -> None:
        """``arrived``: when the viewer received the image, nanoseconds of the steady clock."""
        self.number = next(_numbers)
        self.stamp = to_stamp(image.header.stamp)
        self.arrived = arrived
        self._image, self._tracks, self._max_side = image, tracks, max_side
        self._lock = threading.Lock()
        self._bytes: bytes | None = None

    def packet(self, camera: str) -> bytes:
        """
        Raises:
            ValueError: the image can't be decoded.
        """
        with self._lock:
            if self._bytes is None:
                extra = {"number": self.number, "camera": camera}
                self._bytes = packet(self._image, self._tracks, self._max_side, extra)
            return self._bytes


class Camera:
    """Subscribes to images while somebody watches. All callbacks run in the ROS thread."""

    def __init__(self, node: Node, source: Source, max_side: int, on_shot: Callable[[], None]) -> None:
        self.source = source
        self.services = ServiceCalls(node, source.prefix)
        self.newest: Shot | None = None  # the newest picture with its own tracks
        self.live: Shot | None = None  # the newest picture with the newest tracks
        # Stamp, steady seconds, JSON of [stamp, [[id, name, state, …], …]]. Other threads copy it under the lock.
        self._history: deque[tuple[int, float, str]] = deque(maxlen=HISTORY_FRAMES)
        self._history_lock = threading.Lock()
        self._node = node
        self._max_side = max_side
        self._on_shot = on_shot
        self._images: dict[int, tuple[Any, int]] = {}  # by stamp: image, arrival
        self._waiting: dict[int, TrackedObjectArray] = {}
        self._tracks: TrackedObjectArray | None = None
        self._tracks_time = 0.0
        self._interval = 0.0  # seconds between tracks, the longest recently
        self._image_subscription: FollowingSubscription | None = None
        # Always, because tracks are small and the timeline needs them.
        self._tracks_subscription = node.create_subscription(
            TrackedObjectArray, f"{source.prefix}/tracks", self._on_tracks, 10
        )

    @property
    def name(self) -> str:
        """For the page."""
        return self.source.name

    @property
    def tracking(self) -> bool:
        """Whether tracks came within the last second, or three intervals of a slower engine."""
        silence = min(LONGEST_SILENCE_S, max(SILENCE_S, 3 * self._interval))
        return time.monotonic() - self._tracks_time < silence

    def shot(self, live: bool) -> Shot | None:
        """The picture to show now."""
        if live or self.newest is None:
            return self.live
        # Tracks that came after the newest image are shown however long ago: a paused camera sends no other.
        if self.tracking or self.live is None or self.newest.number > self.live.number:
            return self.newest
        return self.live

    def history_message(self) -> str:
        """The states of the last :data:`HISTORY_S` seconds for the page's timeline; for any thread."""
        with self._history_lock:
            frames = [frame for _, _, frame in self._history]
        about = f'"type": "history", "camera": {json.dumps(self.name)}'
        return f'{{{about}, "frames": [{", ".join(frames)}]}}'

    def follow(self, source: Source, watched: bool) -> None:
        """Subscribes to the tracker's images while somebody watches, and follows when its topic changes."""
        moved = bool(source.image_topic) and source != self.source
        if moved:
            self.source = source
        if self._image_subscription is not None and (moved or not watched):
            self._image_subscription.destroy()
            self._image_subscription = None
            self._images.clear()
            self.newest = self.live = None  # who looks later must not see, and click at, what was there before
        if self._image_subscription is None and watched and self.source.image_topic:
            kind = CompressedImage if self.source.compressed else Image
            self._image_subscription = FollowingSubscription(
                self._node, kind, self.source.image_topic, self._on_image, lambda: "auto"
            )

    def close(self) -> None:
        if self._image_subscription is not None:
            self._image_subscription.destroy()
        self._node.destroy_subscription(self._tracks_subscription)
        self.services.close()

    def _on_image(self, image: Any) -> None:
        stamp, arrived = to_stamp(image.header.stamp), time.monotonic_ns()
        self._images[stamp] = (image, arrived)
        _keep_newest(self._images, WAITING_IMAGES)
        self.live = Shot(image, self._tracks if self.tracking else None, arrived, self._max_side)
        if tracks := self._waiting.pop(stamp, None):
            self._pair(tracks)
        self._on_shot()

    def _on_tracks(self, tracks: TrackedObjectArray) -> None:
        now = time.monotonic()
        if self._tracks is not None:
            self._interval = max(now - self._tracks_time, 0.8 * self._interval)
        self._tracks, self._tracks_time = tracks, now
        self._remember(tracks)
        if self._image_subscription is None:
            return
        if to_stamp(tracks.header.stamp) in self._images:
            self._pair(tracks)
            self._on_shot()
        else:
            self._waiting[to_stamp(tracks.header.stamp)] = tracks
            _keep_newest(self._waiting, WAITING_TRACKS)

    def _pair(self, tracks: TrackedObjectArray) -> None:
        stamp = to_stamp(tracks.header.stamp)
        image, arrived = self._images[stamp]
        # The image itself stays: after a prompt the newest frame's tracks come once more.
        self._images = {other: image for other, image in self._images.items() if other >= stamp}
        self.newest = Shot(image, tracks, arrived, self._max_side)

    def _remember(self, tracks: TrackedObjectArray) -> None:
        now, stamp = time.monotonic(), to_stamp(tracks.header.stamp)
        states = [
            [obj.id, (obj.name or obj.label)[:_LONGEST_NAME], STATES.get(obj.state, "lost"), finite(obj.visibility, 3),
             obj.prompted, css_color(obj.id)]
            for obj in tracks.objects[:HISTORY_OBJECTS]
        ]  # fmt: skip
        frame = json.dumps([str(stamp), states])
        with self._history_lock:
            if self._history and self._history[-1][0] == stamp:
                self._history.pop()
            self._history.append((stamp, now, frame))
            while now - self._history[0][1] > HISTORY_S:
                self._history.popleft()


def _keep_newest(waiting: dict[int, Any], count: int) -> None:
    while len(waiting) > count:
        del waiting[next(iter(waiting))]
