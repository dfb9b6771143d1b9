"""The tracker's results as shapes: what RViz and Foxglove draw in space, and Foxglove over the camera's image.

``visualization_msgs`` is part of every ROS installation. ``foxglove_msgs`` is not: where it is missing, there are no
annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from sam2_ros.media.label_images import contours
from sam2_ros.media.overlay import object_color
from sam2_ros.msg import TrackedObject
from sam2_ros.ros.messages import Position
from sam2_ros.tracking.types import FrameResult, ObjectResult

if TYPE_CHECKING:
    from foxglove_msgs.msg import Color, ImageAnnotations, PointsAnnotation

THINNEST = 0.005  # metres: RViz warns of a box without volume, and a surface seen from the front has hardly any depth
TEXT_HEIGHT = 0.04  # metres
FILL, LINE = 0.35, 2.0  # opacity; pixels


def markers(result: FrameResult, positions: Mapping[int, Position], header: Header) -> MarkerArray:
    """A translucent box and a name for every object whose position is known, in the frame of the positions.

    Namespaces ``boxes`` and ``names``, the marker's id is the object's. The first marker deletes those of earlier
    frames, so that an object that is not seen has none.
    """
    array = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for known in result.objects:
        position = positions.get(known.object_id)
        if position is None or position.status != TrackedObject.DEPTH_OK:
            continue
        array.markers[0].header = placed = Header(stamp=header.stamp, frame_id=position.frame)
        number = known.object_id % 2**31  # a marker's id is signed
        red, green, blue = (value / 255 for value in object_color(known.object_id))
        x, y, z = position.center
        sizes = [max(THINNEST, size) for size in position.extent]
        box = Marker(header=placed, ns="boxes", id=number, type=Marker.CUBE, color=ColorRGBA(r=red, g=green, b=blue))
        box.color.a = FILL
        box.pose.position = Point(x=x, y=y, z=z)
        box.scale.x, box.scale.y, box.scale.z = sizes
        name = Marker(header=placed, ns="names", id=number, type=Marker.TEXT_VIEW_FACING, text=title(known))
        name.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        name.scale.z = TEXT_HEIGHT
        # Above it in an optical frame, where y points down (REP-103); in another frame it stands beside it.
        name.pose.position = Point(x=x, y=y - sizes[1] / 2 - TEXT_HEIGHT, z=z)
        array.markers += [box, name]
    return array


def image_annotations(result: FrameResult, header: Header) -> ImageAnnotations:
    """The outline of every mask, filled, with the object's name and visibility; in pixels of the image.

    Needs ``foxglove_msgs``. A hole of a mask is outlined, but filled too: the type has no holes.
    """
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, TextAnnotation

    message = ImageAnnotations()
    for known in result.objects:
        if not known.mask.crop.size:
            continue
        red, green, blue = (value / 255 for value in object_color(known.object_id))
        color = Color(r=red, g=green, b=blue, a=1.0)
        message.points += _outlines(known, color, header)
        x0, y0, _, _ = known.mask.box
        text = TextAnnotation(timestamp=header.stamp, position=Point2(x=float(x0), y=float(y0)), font_size=14.0)
        text.text = f"{title(known)} {known.visibility:.2f}"
        text.text_color, text.background_color = Color(a=1.0), color
        message.texts.append(text)
    return message


def title(known: ObjectResult) -> str:
    """What an object is called where people see it."""
    return known.name or known.label or f"object {known.object_id}"


def _outlines(known: ObjectResult, color: Color, header: Header) -> Iterable[PointsAnnotation]:
    from foxglove_msgs.msg import Color, Point2, PointsAnnotation

    for outline, hole in contours(known.mask.crop, known.mask.x, known.mask.y):
        # Foxglove counts from the corner of the top-left pixel, contours from its centre.
        points: list[Any] = [Point2(x=x + 0.5, y=y + 0.5) for x, y in outline.tolist()]
        fill = Color() if hole else Color(r=color.r, g=color.g, b=color.b, a=FILL)
        yield PointsAnnotation(
            timestamp=header.stamp, type=PointsAnnotation.LINE_LOOP, points=points, outline_color=color,
            fill_color=fill, thickness=LINE,
        )  # fmt: skip
