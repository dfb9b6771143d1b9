"""One tracked camera as the viewer sees it: its newest picture, with the tracks that belong to it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from sam2_ros.msg import TrackedObjectArray
from sam2_ros.ros.messages import to_stamp
from sam2_ros.ros.subscription import FollowingSubscription
from sam2_ros.viewer.discovery import Source
from sam2_ros.viewer.packets import STATES, css_color, packet

KEPT_IMAGES = 40  # that wait for their tracks; a slow engine's frame is this many images old at most
KEPT_TRACKS = 3  # that overtook their image
HISTORY_S = 90.0  # of every object's visibility, for a browser that comes later
SILENCE_S, LONGEST_SILENCE_S = 1.0, 5.0  # without tracks, by how often they come: pictures are shown without

_numbers = itertools.count(1)


class Shot:
    """A picture with its tracks; made into bytes once, whoever asks first."""

    def __init__(self, image: Any, tracks: TrackedObjectArray | None, arrived: int, max_side: int) -> None:
        """``arrived`` is when the image came to the viewer, in nanoseconds of the steady clock."""
        self.number = next(_numbers)
        self.stamp = to_stamp(image.header.stamp)
        self.arrived = arrived
        # Milliseconds since 1970: when the image came, and when it was put together with its tracks.
        now = time.time() * 1000
        self._times = {"image": now - (time.monotonic_ns() - arrived) / 1e6, "paired": now}
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
                times = {**self._times, "asked": time.time() * 1000}
                extra = {"number": self.number, "camera": camera, "times": times}
                self._bytes = packet(self._image, self._tracks, self._max_side, extra)
            return self._bytes


class Camera:
    """Subscribes while somebody watches. Callbacks run in the ROS thread, ``on_shot`` too."""

    def __init__(self, node: Node, source: Source, max_side: int, on_shot: Callable[[Camera], None]) -> None:
        self.source = source
        self.watchers = 0
        self.newest: Shot | None = None  # the newest picture whose tracks are known
        self.live: Shot | None = None  # the newest picture, with the newest tracks
        self.history: deque[tuple[int, float, list[list[Any]]]] = deque()  # stamp, steady seconds, [id, state, …]
        self._node = node
        self._max_side = max_side
        self._on_shot = on_shot
        self._images: dict[int, tuple[Any, int]] = {}  # by stamp: image, arrival
        self._waiting: dict[int, TrackedObjectArray] = {}
        self._tracks: TrackedObjectArray | None = None
        self._tracks_time = 0.0
        self._interval = 0.0  # seconds between tracks, the longest lately
        self._image_subscription: FollowingSubscription | None = None
        # Tracks are small; they are followed also while nobody watches, for the timeline.
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._tracks_subscription = node.create_subscription(
            TrackedObjectArray, f"{source.prefix}/tracks", self._on_tracks, qos
        )

    @property
    def tracking(self) -> bool:
        """Whether tracks came lately: within a second, or three of their intervals where the engine is slower."""
        silence = min(LONGEST_SILENCE_S, max(SILENCE_S, 3 * self._interval))
        return time.monotonic() - self._tracks_time < silence

    def shot(self, live: bool) -> Shot | None:
        """What to show now."""
        return self.live if live or not self.tracking else self.newest or self.live

    def follow(self, source: Source) -> None:
        """Subscribes to the images, or stops, as watchers and the tracker's topic demand."""
        moved = (source.image_topic, source.compressed) != (self.source.image_topic, self.source.compressed)
        if moved and source.image_topic:
            self.source = source
        running = self._image_subscription
        if running is not None and (not self.watchers or (moved and source.image_topic)):
            running.destroy()
            self._image_subscription = running = None
            self._images.clear()
        if running is None and self.watchers and self.source.image_topic:
            kind = CompressedImage if self.source.compressed else Image
            self._image_subscription = FollowingSubscription(
                self._node, kind, self.source.image_topic, self._on_image, lambda: "auto"
            )
            self._image_subscription.start()

    def close(self) -> None:
        if self._image_subscription is not None:
            self._image_subscription.destroy()
        self._node.destroy_subscription(self._tracks_subscription)

    def _on_image(self, image: Any) -> None:
        stamp, arrived = to_stamp(image.header.stamp), time.monotonic_ns()
        self._images[stamp] = (image, arrived)
        while len(self._images) > KEPT_IMAGES:
            del self._images[next(iter(self._images))]
        tracks = self._waiting.pop(stamp, None)
        if tracks is not None:
            self._pair(tracks)
        self.live = Shot(image, self._tracks if self.tracking else None, arrived, self._max_side)
        self._on_shot(self)

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
            self._on_shot(self)
            return
        self._waiting[to_stamp(tracks.header.stamp)] = tracks
        while len(self._waiting) > KEPT_TRACKS:
            del self._waiting[next(iter(self._waiting))]

    def _pair(self, tracks: TrackedObjectArray) -> None:
        stamp = to_stamp(tracks.header.stamp)
        image, arrived = self._images[stamp]
        # The image itself stays: a prompt publishes the newest frame's tracks once more.
        for older in [known for known in self._images if known < stamp]:
            del self._images[older]
        self.newest = Shot(image, tracks, arrived, self._max_side)

    def _remember(self, tracks: TrackedObjectArray) -> None:
        now, stamp = time.monotonic(), to_stamp(tracks.header.stamp)
        states = [
            [known.id, known.name or known.label, STATES.get(known.state, "lost"), round(float(known.visibility), 3),
             known.prompted, css_color(known.id)]
            for known in tracks.objects
        ]  # fmt: skip
        if self.history and self.history[-1][0] == stamp:
            self.history.pop()
        self.history.append((stamp, now, states))
        while now - self.history[0][1] > HISTORY_S:
            self.history.popleft()
