"""Finds the tracked cameras in the ROS graph; needs no configuration."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from sam2_ros.ros.interface import TRACKS

_TRACKS_TYPE = TRACKS.type.replace("/", "/msg/")
_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True)
class Source:
    """One tracked camera."""

    prefix: str  # full name before "/tracks", "/add_objects", …
    node: str  # full name of the node that tracks
    image_topic: str = ""  # empty while the node has not subscribed to one
    compressed: bool = False

    @property
    def name(self) -> str:
        """For the page: the camera's name below the node, else the node's own without its slash."""
        return self.prefix.removeprefix(self.node).strip("/") or self.node.strip("/")


def find_sources(node: Node, only: str = "", image_topic: str = "") -> list[Source]:
    """Every tracked camera, by name.

    Args:
        only: full name of a tracker, or of one of its cameras (``/tracker/left``); empty = all.
        image_topic: used instead of the tracker's image topic.
    """
    found = []
    for topic, types in node.get_topic_names_and_types():
        if _TRACKS_TYPE not in types or not topic.endswith("/tracks"):
            continue
        prefix = topic.removesuffix("/tracks")
        for publisher in node.get_publishers_info_by_topic(topic):
            owner = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
            if only not in ("", owner, prefix) or not prefix.startswith(owner):
                continue  # for example a replayed recording without a node
            image, compressed = _images_of(node, publisher.node_name, publisher.node_namespace, prefix, owner)
            if image_topic:
                image, compressed = image_topic, image_topic.endswith("/compressed")
            found.append(Source(prefix, owner, image, compressed))
            break
    return sorted(found, key=lambda source: source.name)


def _images_of(node: Node, name: str, namespace: str, prefix: str, owner: str) -> tuple[str, bool]:
    """The tracker's topic of colour images for a camera, and whether they are compressed."""
    try:
        subscribed = node.get_subscriber_names_and_types_by_node(name, namespace)
    except RuntimeError:  # the node left meanwhile
        return "", False
    camera = prefix.removeprefix(owner).strip("/")
    inside = f"/{camera}/" if camera else "/"
    for topic, types in sorted(subscribed):
        if (_RAW in types or _COMPRESSED in types) and "depth" not in topic and inside in f"{topic}/":
            return topic, _COMPRESSED in types
    return "", False
