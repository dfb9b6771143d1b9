"""Measures where every object of a processed frame is in space, and how it moves, from one camera's depth images.

Images never wait for depth: the newest depth images are kept by their stamps. When a frame's results are published, the
nearest depth image in time gives the positions; without one, the results have no positions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from message_filters import Cache, SimpleFilter
from numpy.typing import NDArray
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sam2_ros.inference.frames import Processed
from sam2_ros.msg import TrackedObject
from sam2_ros.ros.depth_surface import (
    Calibration,
    PixelRays,
    Transform,
    valid_pixels,
    visible_surface,
)
from sam2_ros.ros.image_conversion import compressed_depth_rows, depth_rows
from sam2_ros.ros.interface import CAMERA_INFO, COMPRESSED_DEPTH, DEPTH_IMAGE
from sam2_ros.ros.messages import Position, to_stamp
from sam2_ros.ros.motion_filter import Measurement, Motion, MotionFilters
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.ros.subscription import FollowingSubscription
from sam2_ros.ros.transforms import NoTransform, Transforms
from sam2_ros.text import printable
from sam2_ros.tracking.types import CroppedMask

_TRANSPORTS = {"raw": DEPTH_IMAGE, "compressedDepth": COMPRESSED_DEPTH}  # by depth.transport
_SILENT_AFTER = 1.0  # seconds without a depth image, after which results wait for none


@dataclass(frozen=True)
class DepthView:
    """A depth image that is registered to a processed frame."""

    rows: NDArray  # [H, W], in ``unit`` metres
    unit: float
    rays: PixelRays
    transform: Transform
    frame: str  # of points, after the transform

    def metres(self, mask: CroppedMask) -> NDArray[np.float32]:
        """The depth of a mask's crop: ``[h, w]``."""
        height, width = mask.crop.shape
        crop = self.rows[mask.y : mask.y + height, mask.x : mask.x + width]
        return crop.astype(np.float32) * np.float32(self.unit)


@dataclass(frozen=True)
class Space:
    """What is known of a processed frame's objects in space; empty without depth."""

    positions: Mapping[int, Position] = field(default_factory=dict)  # by object id
    motions: Mapping[int, Motion] = field(default_factory=dict)
    depth: DepthView | None = None


class DepthInput:
    """Subscribes to the depth images and to ``camera_info`` from :meth:`start` to :meth:`stop`.

    Any thread may call :meth:`measure`.
    """

    def __init__(self, node: Node, parameters: NodeParameters, camera: str = "") -> None:
        """
        Raises:
            ValueError: ``depth.target_frame`` is set, and tf2 is not installed.
        """
        self._node = node
        self._parameters = parameters
        self._arrived = threading.Condition()  # guards what the subscriptions write
        self._feed = SimpleFilter()
        self._images = Cache(self._feed, int(parameters.number("depth.queue")))
        self._last_arrival = 0  # ns, steady
        self._newest_stamp = 0  # ns
        self._info: CameraInfo | None = None
        self._calibration: Calibration | None = None
        self._rays: PixelRays | None = None
        self._problem = ""  # the last that was logged
        self._motions = MotionFilters()
        self._frames = {"with depth": 0, "without": 0, "refused": 0}
        self._target_frame = parameters.text("depth.target_frame")
        self._transforms = Transforms(node) if self._target_frame else None
        self._camera = camera
        self._subscriptions: list[FollowingSubscription] = []

    def start(self) -> None:
        queue = int(self._parameters.number("depth.queue"))
        images = _TRANSPORTS[self._parameters.text("depth.transport")]
        wanted = ((images, self._on_depth, queue), (CAMERA_INFO, self._on_info, CAMERA_INFO.depth))
        for topic, callback, depth in wanted:
            name, reliability = topic.for_camera(self._camera), lambda: self._parameters.text("input.reliability")
            subscription = FollowingSubscription(self._node, topic.ros_type, name, callback, reliability, depth)
            self._subscriptions.append(subscription)

    def stop(self) -> None:
        while self._subscriptions:
            self._subscriptions.pop().destroy()

    def destroy(self) -> None:
        if self._transforms is not None:
            self._transforms.destroy()

    def measure(self, processed: Processed) -> Space:
        """Whatever goes wrong is said in the positions."""
        objects = processed.result.objects
        try:
            positions, depth = self._measure(processed)
        except NoTransform as error:
            status, reason = TrackedObject.DEPTH_NO_TRANSFORM, str(error)
        except ValueError as error:
            status, reason = TrackedObject.DEPTH_REFUSED, str(error)
        except Exception as error:  # depth is optional: no fault in it may cost the frame its tracks
            status, reason = TrackedObject.DEPTH_REFUSED, f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            return Space(positions, self._moved(processed, positions), depth)
        self._count("refused", reason)
        return Space({obj.object_id: Position(status, reason) for obj in objects}, self._moved(processed, {}))

    def _measure(self, processed: Processed) -> tuple[dict[int, Position], DepthView | None]:
        """The position of every object, by id, and the depth image; None: there is none for this frame.

        Raises:
            ValueError: depth image or calibration can't be used.
            NoTransform: tf2 has none.
        """
        deadline = time.monotonic() + self._parameters.number("depth.wait")
        frame_id, objects = processed.frame.source.frame_id, processed.result.objects
        width, height = processed.result.width, processed.result.height
        message = self._nearest(processed.frame.stamp, deadline)
        if message is None:
            self._count("without")
            nothing = Position(TrackedObject.DEPTH_NONE, self._why_none())
            return dict.fromkeys((obj.object_id for obj in objects), nothing), None
        if isinstance(message, CompressedImage):
            rows, unit = compressed_depth_rows(message.data, message.format)
        else:
            rows, unit = depth_rows(message)
        _check_fits("the depth image", message.header.frame_id, rows.shape, frame_id, (height, width))
        rays = self._rays_of(frame_id, width, height)
        transform = self._transform(frame_id, processed.frame.stamp, deadline)
        view = DepthView(rows, unit, rays, transform, self._target_frame or frame_id)
        least = int(self._parameters.number("depth.min_points"))
        positions = {obj.object_id: _position(obj.mask, view, least) for obj in objects}
        self._count("with depth")
        return positions, view

    def _moved(self, processed: Processed, positions: Mapping[int, Position]) -> dict[int, Motion]:
        known = {key: each for key, each in positions.items() if each.status == TrackedObject.DEPTH_OK}
        frame = next((each.frame for each in known.values()), "")
        seen = {
            key: Measurement(np.array(each.position), float(np.linalg.norm(each.extent)), each.area)
            for key, each in known.items()
        }
        living = [obj.object_id for obj in processed.result.objects]
        return self._motions.step(processed.frame.stamp, frame, seen, living)

    def _why_none(self) -> str:
        slop = self._parameters.number("depth.slop")
        if slop == 0:
            return (
                "no depth image with exactly the image's stamp has arrived (depth.slop is 0); if the cameras' stamps "
                "differ, set depth.slop to half of the depth images' period"
            )
        return f"no depth image within {slop:g} s of the image has arrived"

    def values(self) -> Mapping[str, object]:
        """For ``/diagnostics``."""
        with self._arrived:
            age = (time.monotonic_ns() - self._last_arrival) / 1e9 if self._last_arrival else float("inf")
            counted = {f"depth frames {name}": count for name, count in self._frames.items()}
        return {"depth age [s]": age, **counted, "depth problem": self._problem}

    def _on_depth(self, message: Image | CompressedImage) -> None:
        with self._arrived:
            self._feed.signalMessage(message)
            self._last_arrival = time.monotonic_ns()
            self._newest_stamp = to_stamp(message.header.stamp)
            self._arrived.notify_all()

    def _on_info(self, message: CameraInfo) -> None:
        with self._arrived:
            self._info = message

    def _nearest(self, stamp: int, deadline: float) -> Image | CompressedImage | None:
        """The depth image nearest to ``stamp`` (ns) within ``depth.slop``.

        While depth images arrive, waits until ``deadline`` for one that is as new as the frame.
        """
        slop = round(self._parameters.number("depth.slop") * 1e9)
        with self._arrived:
            while self._newest_stamp < stamp:
                left = deadline - time.monotonic()
                if left <= 0 or time.monotonic_ns() - self._last_arrival > _SILENT_AFTER * 1e9:
                    break
                self._arrived.wait(left)
            # message_filters gives stamps the ROS clock, and times of different clocks do not compare
            ends = (max(0, stamp - slop), stamp + slop)
            limits = (Time(nanoseconds=end, clock_type=ClockType.ROS_TIME) for end in ends)
            found = self._images.getInterval(*limits)
        return min(found, key=lambda message: abs(to_stamp(message.header.stamp) - stamp), default=None)

    def _rays_of(self, frame_id: str, width: int, height: int) -> PixelRays:
        """
        Raises:
            ValueError: there is no camera_info, or none that fits the image and can be used.
        """
        with self._arrived:
            info = self._info
        if info is None:
            topic = self._node.resolve_topic_name(CAMERA_INFO.for_camera(self._camera))
            raise ValueError(f"no camera_info has arrived on {topic}")
        _check_fits("camera_info", info.header.frame_id, (info.height, info.width), frame_id, (height, width))
        calibration = calibration_of(info, self._parameters["depth.rectified"] is True)
        if calibration != self._calibration or self._rays is None:
            try:
                self._rays = PixelRays.of(calibration)
            except ValueError as error:
                raise ValueError(f"camera_info can't be used: {error}") from None
            self._calibration = calibration
        return self._rays

    def _transform(self, source: str, stamp: int, deadline: float) -> Transform:
        while self._transforms is not None:
            try:
                return self._transforms.lookup(self._target_frame, source, stamp)
            except NoTransform:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.002)
        return None, None

    def _count(self, what: str, problem: str = "") -> None:
        with self._arrived:
            self._frames[what] += 1
            new, self._problem = bool(problem) and problem != self._problem, problem
        if new:
            self._node.get_logger().warning(f"no positions: {problem}", throttle_duration_sec=1.0)


def _check_fits(
    what: str, frame_id: str, size: tuple[int, ...], image_frame_id: str, image_size: tuple[int, int]
) -> None:
    """
    Args:
        size: height and width, pixels.

    Raises:
        ValueError: the message has another frame or size than the image.
    """
    cure = "give one that is registered to the image"
    if frame_id != image_frame_id:
        frames = f"'{printable(frame_id)}', the image in '{printable(image_frame_id)}'"
        raise ValueError(f"{what} is in the frame {frames}; {cure}")
    if size != image_size:
        pixels = f"{size[1]} x {size[0]} pixels, the image {image_size[1]} x {image_size[0]}"
        raise ValueError(f"{what} has {pixels}; {cure}")


def _position(mask: CroppedMask, view: DepthView, least: int) -> Position:
    """The position of the object under a mask; ``least``: valid pixels for one."""
    if mask.crop.size == 0:
        return Position(TrackedObject.DEPTH_TOO_FEW, "the object is not seen in this frame")
    metres = view.metres(mask)
    valid = valid_pixels(mask, metres)
    count = int(np.count_nonzero(valid))
    if count < least:
        reason = f"{count} of the mask's {mask.area} pixels have a valid depth; depth.min_points is {least}"
        return Position(TrackedObject.DEPTH_TOO_FEW, reason, points=count)
    surface = visible_surface(mask, valid, metres, view.rays, *view.transform)
    vectors = (surface.position.tolist(), surface.center.tolist(), surface.extent.tolist())
    if not np.isfinite(vectors).all():
        reason = "the position is no finite number; camera_info or the transform is wrong"
        return Position(TrackedObject.DEPTH_REFUSED, reason)
    area = surface.points * surface.distance**2
    return Position(TrackedObject.DEPTH_OK, "", view.frame, *vectors, surface.points, area)


def calibration_of(info: CameraInfo, rectified: bool) -> Calibration:
    """The intrinsics of the raw image (K and D) or of the rectified one (P without D)."""
    if not rectified:
        return Calibration(info.width, info.height, tuple(info.k), tuple(info.d), info.distortion_model)
    p = info.p
    return Calibration(info.width, info.height, (p[0], p[1], p[2], p[4], p[5], p[6], p[8], p[9], p[10]))
