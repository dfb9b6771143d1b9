"""Publishes one camera's results: tracks, events, and views of them for other packages (``interface.VIEWS``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)

from sam2_ros.inference.backend import BackendInfo
from sam2_ros.inference.frames import Counters, Processed
from sam2_ros.inference.live_masks import LiveImage
from sam2_ros.media.label_images import MAX_ID, compose_labels
from sam2_ros.media.overlay import draw_overlay
from sam2_ros.msg import TrackedObject
from sam2_ros.ros import messages
from sam2_ros.ros.clouds import CloudLimits, cloud, depth_without_objects
from sam2_ros.ros.depth_input import DepthInput, Space
from sam2_ros.ros.drawings import image_annotations, markers
from sam2_ros.ros.interface import (
    EVENTS,
    LABEL_INFO,
    LIVE_VIEWS,
    NAMED_VIEWS,
    TRACKS,
    TRACKS_LIVE,
    VIEWS,
    Topic,
)
from sam2_ros.ros.messages import Position, bounding_box, image_message
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.tracking.types import EventCode, FrameResult, ObjectResult


@dataclass(frozen=True)
class ViewOptions:
    """Settings of the views."""

    clouds: CloudLimits
    windows: bool  # draw into the overlay where the network looked


# Makes the message of a view from a processed frame and what is known of it in space; None: there is none.
MakeView = Callable[[Processed, Space, ViewOptions], Any]

_NEW_MASK = (EventCode.ADDED, EventCode.CORRECTED)


@dataclass(frozen=True)
class _View:
    name: str
    publisher: Any
    make: MakeView
    live: bool  # follows ~/tracks_live with output.live


class Publishers:
    """Makes the publishers of one camera; they send nothing unless the node is active."""

    def __init__(
        self,
        node: LifecycleNode,
        parameters: NodeParameters,
        info: BackendInfo,
        depth: DepthInput | None,
        camera: str,
        on_failure: Callable[[str, Exception], None],
    ) -> None:
        """
        Args:
            depth: gives objects a position in space.
            on_failure: called with a topic that could not be published and why; the other topics are not affected.
        """
        self._node = node
        self._parameters = parameters
        self._info = info
        self._depth = depth
        self._camera = camera
        self._on_failure = on_failure
        self._tracks = self._create(TRACKS)
        self._tracks_live = self._create(TRACKS_LIVE)
        # A reset, or a camera that turns away, makes one event for every object at once.
        self._events = self._create(EVENTS, max(EVENTS.depth, 2 * info.max_objects))
        self._label_info = self._create(LABEL_INFO)
        self._classes: list[VisionClass] | None = None  # as published last
        self.space = Space()  # what is known of the newest frame's objects
        self._views = [
            _View(topic.name, self._create(topic), MESSAGES[topic.name], topic.name in LIVE_VIEWS)
            for topic in VIEWS
            if topic.installed
        ]
        for topic in NAMED_VIEWS:
            for name in parameters.names(topic.parameter):
                make, own = functools.partial(NAMED_MESSAGES[topic.name], name), topic.named(name)
                self._views.append(_View(own.name, self._create(own), make, topic.name in LIVE_VIEWS))

    def destroy(self) -> None:
        for publisher in (
            self._tracks,
            self._tracks_live,
            self._events,
            self._label_info,
            *(view.publisher for view in self._views),
        ):
            self._node.destroy_lifecycle_publisher(publisher)

    @property
    def live_wanted(self) -> bool:
        """Whether somebody needs the masks of every camera image."""
        views = [view.publisher for view in self._views if view.live and self._parameters["output.live"]]
        return any(publisher.get_subscription_count() for publisher in (self._tracks_live, *views))

    def publish_live(self, live: LiveImage, counters: Counters) -> None:
        """Publishes a camera image's objects, carried from the newest processed frame. Never raises."""
        with self._reporting(TRACKS_LIVE.name):
            encoding = self._parameters.text("output.mask_encoding")
            message = messages.live_tracks(live, counters, self._info, encoding)
            message.camera = self._camera
            self._tracks_live.publish(message)
        if self._parameters["output.live"] and live.carried is not None:
            shown = Processed(live.frame, live.image, live.carried.result, live.frame.receive_time, 0, counters)
            for view in self._views:
                if view.live:
                    self._publish_view(view, shown, Space())

    def publish_results(self, processed: Processed) -> None:
        """Publishes the frame's objects first, then its events, then the views of them. Never raises."""
        self.space = self._depth.measure(processed) if self._depth else Space()
        self._publish_tracks(processed)
        self._publish_events(processed)
        self._publish_views(processed)

    def publish_changes(self, processed: Processed) -> None:
        """Publishes what a command changed: its events and, where it made masks, the frame's objects once more."""
        if any(change.event in _NEW_MASK for change in processed.result.changes):
            self.publish_results(processed)
        else:
            self._publish_events(processed)

    def _publish_tracks(self, processed: Processed) -> None:
        with self._reporting(TRACKS.name):
            encoding = self._parameters.text("output.mask_encoding")
            tracks = messages.processed_tracks(
                processed, self._info, encoding, self.space.positions, self.space.motions
            )
            tracks.camera = self._camera
            self._tracks.publish(tracks)

    def _publish_events(self, processed: Processed) -> None:
        for change in processed.result.changes:
            with self._reporting(EVENTS.name):
                event = messages.object_event(change, processed.frame.source)
                event.camera = self._camera
                self._events.publish(event)

    def _publish_views(self, processed: Processed) -> None:
        with self._reporting(LABEL_INFO.name):
            classes = vision_classes(processed.result)
            if classes != self._classes:  # before the label image that needs them
                self._label_info.publish(LabelInfo(header=processed.frame.source, class_map=classes))
                self._classes = classes
        live = bool(self._parameters["output.live"])
        for view in self._views:
            if not (live and view.live):
                self._publish_view(view, processed, self.space)

    def _publish_view(self, view: _View, processed: Processed, space: Space) -> None:
        with self._reporting(view.name):
            if view.publisher.get_subscription_count():
                points, voxel = (self._parameters.number(f"output.cloud_{limit}") for limit in ("points", "voxel"))
                options = ViewOptions(CloudLimits(int(points), voxel), bool(self._parameters["output.windows"]))
                message = view.make(processed, space, options)
                if message is not None:
                    view.publisher.publish(message)

    @contextmanager
    def _reporting(self, topic: str) -> Iterator[None]:
        """A fault in one topic must not silence the others."""
        try:
            yield
        except Exception as error:
            self._on_failure(topic, error)

    def _create(self, topic: Topic, depth: int = 0) -> Any:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=depth or topic.depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
        overriding = QoSOverridingOptions.with_default_policies()
        return self._node.create_lifecycle_publisher(
            topic.ros_type, topic.for_camera(self._camera), qos, qos_overriding_options=overriding
        )


def vision_classes(result: FrameResult) -> list[VisionClass]:
    """Id and name of every living object that a label image can show."""
    return [
        VisionClass(class_id=obj.object_id, class_name=obj.name or obj.label or str(obj.object_id))
        for obj in result.objects
        if obj.object_id <= MAX_ID
    ]


def overlay(done: Processed, windows: bool) -> Image:
    """The image with masks and names; with ``windows`` also where the network looked for each object."""
    return image_message(draw_overlay(done.image, done.result, windows=windows), done.frame.source)


def label_image(result: FrameResult, header: Header) -> Image:
    """A ``mono16`` image: a pixel is the id of the object that is seen there, 0 = none.

    Where masks overlap, the pixel goes to the object with the higher predicted IoU. Ids above 65535 are left out.
    """
    seen = [(obj.object_id, obj) for obj in result.objects if obj.object_id <= MAX_ID]
    labels = compose_labels(seen, result.height, result.width, wide=True)
    return image_message(labels.astype("<u2"), header, "mono16")


def detections(result: FrameResult, header: Header) -> Detection2DArray:
    """A detection for every object that is seen; its id is the object's, in decimal."""
    array = Detection2DArray(header=header)
    for obj in result.objects:
        if obj.mask.crop.size:
            box = bounding_box(obj.mask.box)
            detection = Detection2D(header=header, results=[_hypothesis(obj)], bbox=box, id=str(obj.object_id))
            array.detections.append(detection)
    return array


def detections_3d(result: FrameResult, positions: Mapping[int, Position], header: Header) -> Detection3DArray:
    """A detection for every object whose position is known; headers name the frame of the positions."""
    array = Detection3DArray(header=header)
    for obj in result.objects:
        position = positions.get(obj.object_id)
        if position is None or position.status != TrackedObject.DEPTH_OK:
            continue
        array.header = Header(stamp=header.stamp, frame_id=position.frame)
        hypothesis = _hypothesis(obj)
        detection = Detection3D(header=array.header, results=[hypothesis], id=str(obj.object_id))
        place, middle = hypothesis.pose.pose.position, detection.bbox.center.position
        place.x, place.y, place.z = position.position
        middle.x, middle.y, middle.z = position.center
        detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = position.extent
        array.detections.append(detection)
    return array


def _hypothesis(obj: ObjectResult) -> ObjectHypothesisWithPose:
    """The label, else the name; its score is the visibility."""
    message = ObjectHypothesisWithPose()
    message.hypothesis.class_id = obj.label or obj.name
    message.hypothesis.score = float(obj.visibility)
    return message


def mask_of(name: str, result: FrameResult, header: Header) -> Image:
    """A ``mono8`` image: 255 where the object of this name is seen."""
    mask = np.zeros((result.height, result.width), np.uint8)
    for obj in _called(name, result):
        height, width = obj.mask.crop.shape
        mask[obj.mask.y : obj.mask.y + height, obj.mask.x : obj.mask.x + width][obj.mask.crop] = 255
    return image_message(mask, header, "mono8")


def _called(name: str, result: FrameResult) -> list[ObjectResult]:
    """The object of this name; none, or one, since names are unique."""
    return [obj for obj in result.objects if obj.name == name]


def _cloud(objects: Sequence[ObjectResult], done: Processed, space: Space, limits: CloudLimits) -> PointCloud2 | None:
    if space.depth is None:
        return None
    return cloud(objects, done.image, space.depth, limits, done.frame.source)


MESSAGES: dict[str, MakeView] = {
    "~/overlay": lambda done, _, options: overlay(done, options.windows),
    "~/label_image": lambda done, *_: label_image(done.result, done.frame.source),
    "~/detections": lambda done, *_: detections(done.result, done.frame.source),
    "~/detections_3d": lambda done, space, _: detections_3d(done.result, space.positions, done.frame.source),
    "~/markers": lambda done, space, _: markers(done.result, space.positions, done.frame.source),
    "~/annotations": lambda done, *_: image_annotations(done.result, done.frame.source),
    "~/clouds": lambda done, space, options: _cloud(done.result.objects, done, space, options.clouds),
    "~/depth_without_objects": lambda done, space, _: (
        space.depth and depth_without_objects(done.result, space.depth, done.frame.source)
    ),
}
# The same with the name that takes the place of NAME before them.
NAMED_MESSAGES: dict[str, Callable[[str, Processed, Space, ViewOptions], Any]] = {
    "~/mask/NAME": lambda name, done, *_: mask_of(name, done.result, done.frame.source),
    "~/cloud/NAME": lambda name, done, space, options: _cloud(_called(name, done.result), done, space, options.clouds),
}
