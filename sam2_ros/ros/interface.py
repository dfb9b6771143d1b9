"""Every topic and service of the node, declared once. Needs no ROS 2, so that documents are made from it too.

:mod:`sam2_ros.ros.publishers` and :mod:`sam2_ros.ros.services` create these topics and services. To add a published
topic, add its row to :data:`VIEWS`, the function that makes its message to ``publishers.MESSAGES``, and its name to
``config/sros2_policy.xml``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar


def to_activate(node: str, begin: str = "activate") -> str:
    """The commands that make ``node`` (full name) active, from ``begin`` on: configure or activate.

    ROS 2 as wheels has no ``ros2 lifecycle``; these work with every installation.
    """
    call = f"ros2 service call {node}/change_state lifecycle_msgs/srv/ChangeState"
    steps = ("configure", "activate") if begin == "configure" else ("activate",)
    return " && ".join(f'{call} "{{transition: {{label: {step}}}}}"' for step in steps)


@dataclass(frozen=True)
class _Named:
    kind: ClassVar = "msg"  # module of the package that holds the type

    name: str  # as ROS resolves it in the node: "~/" is the node's own name
    type: str  # package/Name
    description: str

    def for_camera(self, camera: str) -> str:
        """The name for one of several cameras, ``~/left/tracks``; an empty ``camera`` adds nothing."""
        if not camera:
            return self.name
        return f"~/{camera}/{self.name[2:]}" if self.name.startswith("~/") else f"{camera}/{self.name}"

    @property
    def ros_type(self) -> Any:
        """The message or service class."""
        package, _, name = self.type.partition("/")
        return getattr(import_module(f"{package}.{self.kind}"), name)


@dataclass(frozen=True)
class Topic(_Named):
    """A topic that the node publishes or subscribes to."""

    published: bool = True
    parameter: str = ""  # with this setting alone
    depth: int = 10  # of the queue
    latched: bool = False  # transient local: a late subscriber gets the last message too

    def named(self, name: str) -> Topic:
        """The topic of one name of its parameter."""
        return replace(self, name=self.name.replace("NAME", name))

    @property
    def installed(self) -> bool:
        """Whether the package of the message type is installed."""
        return find_spec(self.type.partition("/")[0]) is not None


@dataclass(frozen=True)
class Service(_Named):
    """A service that the node offers."""

    recorded: bool = True  # it changes the objects, so that a replay needs its calls

    kind = "srv"


@dataclass(frozen=True)
class Action(_Named):
    """An action that the node offers."""

    kind = "action"


IMAGE = Topic(
    "image", "sensor_msgs/Image", "the camera's image", published=False, parameter="input.transport: raw", depth=1
)
COMPRESSED_IMAGE = Topic(
    "image/compressed", "sensor_msgs/CompressedImage", "the camera's image, JPEG or PNG", published=False,
    parameter="input.transport: compressed", depth=1,
)  # fmt: skip
DEPTH_IMAGE = Topic(
    "depth/image", "sensor_msgs/Image", "16UC1 or 32FC1, registered to the image", published=False,
    parameter="depth.enabled: true",
)  # fmt: skip
COMPRESSED_DEPTH = Topic(
    "depth/image/compressedDepth", "sensor_msgs/CompressedImage", "16UC1 or 32FC1, PNG or RVL, registered to the image",
    published=False, parameter="depth.transport: compressedDepth",
)  # fmt: skip
CAMERA_INFO = Topic(
    "camera_info", "sensor_msgs/CameraInfo", "calibration of the image", published=False,
    parameter="depth.enabled: true", depth=1,
)  # fmt: skip
DETECTIONS = Topic(
    "detections", "vision_msgs/Detection2DArray", "input: a detector's boxes, stamped with the image that it saw",
    published=False, parameter="detections.enabled: true",
)  # fmt: skip

TRACKS = Topic(
    "~/tracks", "sam2_ros/TrackedObjectArray",
    "all objects of every processed frame; once more when a prompt changed them; OCCLUDED while no server answers",
)  # fmt: skip
TRACKS_LIVE = Topic(
    "~/tracks_live", "sam2_ros/TrackedObjectArray",
    "all objects in every camera image, masks carried from the newest processed frame; made while subscribed to",
)  # fmt: skip
EVENTS = Topic(
    "~/events", "sam2_ros/ObjectEvent", "an object was added, corrected, removed, dropped, or changed its state",
    depth=100,
)  # fmt: skip
LABEL_INFO = Topic(
    "~/label_info", "vision_msgs/LabelInfo", "names of the ids, whenever they change", depth=1, latched=True
)
# Made only while somebody subscribes, each by the function of its name in publishers.MESSAGES.
VIEWS = (
    Topic("~/overlay", "sensor_msgs/Image", "rgb8, the image with masks and names"),
    Topic("~/label_image", "sensor_msgs/Image", "mono16, a pixel is the id of the object seen there, 0 = none"),
    Topic("~/detections", "vision_msgs/Detection2DArray", "output: the visible objects; id = track id"),
    Topic("~/detections_3d", "vision_msgs/Detection3DArray", "the objects whose position is known"),
    Topic("~/markers", "visualization_msgs/MarkerArray", "box and name of each object whose position is known"),
    Topic("~/annotations", "foxglove_msgs/ImageAnnotations", "outlines, names and visibility, to draw over the image"),
    Topic("~/clouds", "sensor_msgs/PointCloud2", "visible surfaces of all objects, each point with its object's id"),
    Topic("~/depth_without_objects", "sensor_msgs/Image", "the depth image, 0 where an object is seen"),
)
# The same for each name in a parameter, which takes the place of NAME; by functions in publishers.NAMED_MESSAGES.
NAMED_VIEWS = (
    Topic(
        "~/mask/NAME", "sensor_msgs/Image", "mono8, 255 = the object of this name; all 0 while it is not seen",
        parameter="output.masks",
    ),
    Topic(
        "~/cloud/NAME", "sensor_msgs/PointCloud2", "visible surface of the object of this name",
        parameter="output.clouds",
    ),
)  # fmt: skip
# These follow ~/tracks_live with output.live; the others need positions, which processed frames alone have.
LIVE_VIEWS = ("~/overlay", "~/label_image", "~/detections", "~/annotations", "~/mask/NAME")
DIAGNOSTICS = Topic("/diagnostics", "diagnostic_msgs/DiagnosticArray", "the node's health, in every state of the node")

TOPICS = (
    IMAGE, COMPRESSED_IMAGE, DEPTH_IMAGE, COMPRESSED_DEPTH, CAMERA_INFO, DETECTIONS, TRACKS, TRACKS_LIVE, EVENTS,
    LABEL_INFO, *VIEWS, *NAMED_VIEWS, DIAGNOSTICS,
)  # fmt: skip
SERVICES = (
    Service("~/add_objects", "sam2_ros/AddObjects", "adds objects by points, boxes or masks"),
    Service("~/refine_object", "sam2_ros/RefineObject", "corrects an object, also in a stored image"),
    Service("~/remove_object", "sam2_ros/RemoveObject", "forgets an object, by name or decimal id"),
    Service("~/rename_object", "sam2_ros/RenameObject", "changes an object's name and label"),
    Service("~/list_objects", "sam2_ros/ListObjects", "the objects as of the newest processed frame", recorded=False),
    Service("~/reset", "sam2_ros/Reset", "forgets every object; ids go on"),
    Service(
        "~/segment_image",
        "sam2_ros/SegmentImage",
        "segments one image by prompts, or everything; tracks nothing",
        recorded=False,
    ),
    Service("~/discover", "std_srvs/Trigger", "adds everything that no track covers", recorded=False),
)
TRACK_OBJECT = Action(
    "~/track_object", "sam2_ros/TrackObject", "follows one object for a client until something ends it"
)
ACTIONS = (TRACK_OBJECT,)
