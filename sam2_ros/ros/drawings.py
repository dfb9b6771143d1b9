"""Shapes of the tracker's results: markers in space for RViz and Foxglove, annotations of the image for Foxglove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from sam2_ros.media.label_images import contours
from sam2_ros.media.overlay import object_color
from sam2_ros.msg import TrackedObject
from sam2_ros.ros.messages import Position
from sam2_ros.tracking.types import FrameResult, ObjectResult

if TYPE_CHECKING:
    from foxglove_msgs.msg import ImageAnnotations

THINNEST = 0.005  # metres. A surface seen from the front has hardly any depth, and RViz warns of a flat box.
TEXT_HEIGHT = 0.04  # metres
FILL, LINE = 0.35, 2.0  # opacity; pixels


def markers(result: FrameResult, positions: Mapping[int, Position], header: Header) -> MarkerArray:
    """A translucent box and a name for every object with a position, in the frame of the positions.

    The namespaces are ``boxes`` and ``names``, the marker's id is the object's. The first marker deletes the markers of
    earlier frames, so that hidden objects have none.
    """
    array = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for obj in result.objects:
        position = positions.get(obj.object_id)
        if position is None or position.status != TrackedObject.DEPTH_OK:
            continue
        array.markers[0].header = placed = Header(stamp=header.stamp, frame_id=position.frame)
        number = obj.object_id % 2**31  # a marker's id is signed
        red, green, blue = (value / 255 for value in object_color(obj.object_id))
        x, y, z = position.center
        sizes = [max(THINNEST, size) for size in position.extent]
        box = Marker(header=placed, ns="boxes", id=number, type=Marker.CUBE, color=ColorRGBA(r=red, g=green, b=blue))
        box.color.a = FILL
        box.pose.position = Point(x=x, y=y, z=z)
        box.scale.x, box.scale.y, box.scale.z = sizes
        name = Marker(header=placed, ns="names", id=number, type=Marker.TEXT_VIEW_FACING, text=title(obj))
        name.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        name.scale.z = TEXT_HEIGHT
        # Above the box in an optical frame, where y points down (REP-103); beside it in other frames.
        name.pose.position = Point(x=x, y=y - sizes[1] / 2 - TEXT_HEIGHT, z=z)
        array.markers += [box, name]
    return array


def image_annotations(result: FrameResult, header: Header) -> ImageAnnotations:
    """The outline of every mask, filled, with the object's name and visibility, in pixels of the image.

    Needs ``foxglove_msgs``. Holes of a mask are outlined and filled too, because the message type has no holes.
    """
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation

    message = ImageAnnotations()
    for obj in result.objects:
        if not obj.mask.crop.size:
            continue
        red, green, blue = (value / 255 for value in object_color(obj.object_id))
        color = Color(r=red, g=green, b=blue, a=1.0)
        for outline, hole in contours(obj.mask.crop, obj.mask.x, obj.mask.y):
            shape = PointsAnnotation(timestamp=header.stamp, type=PointsAnnotation.LINE_LOOP, thickness=LINE)
            # Foxglove's origin is the corner of the top-left pixel, that of contours its centre.
            shape.points = [Point2(x=x + 0.5, y=y + 0.5) for x, y in outline.tolist()]
            shape.outline_color = color
            shape.fill_color = Color() if hole else Color(r=red, g=green, b=blue, a=FILL)
            message.points.append(shape)
        x0, y0, _, _ = obj.mask.box
        text = TextAnnotation(timestamp=header.stamp, position=Point2(x=float(x0), y=float(y0)), font_size=14.0)
        text.text = f"{title(obj)} {obj.visibility:.2f}"
        text.text_color, text.background_color = Color(a=1.0), color
        message.texts.append(text)
    return message


def title(obj: ObjectResult) -> str:
    """The object's name for people."""
    return obj.name or obj.label or f"object {obj.object_id}"
