"""``vision_msgs/Detection2D`` as the tracker takes it. Needs no ROS: a message of any library will do."""

from __future__ import annotations

import math
from typing import Any

from sam2_ros.inference.matching import Detection


def from_message(message: Any) -> Detection:
    """The hypothesis with the highest score; without any the label is empty and the score 1. A turned box becomes the
    upright one around it."""
    center, width, height = message.bbox.center, message.bbox.size_x, message.bbox.size_y
    if center.theta != 0 and width > 0 and height > 0:
        angle = center.theta if math.isfinite(center.theta) else math.nan
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        width, height = width * cos + height * sin, width * sin + height * cos
    x, y = center.position.x, center.position.y
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    hypotheses = [result.hypothesis for result in message.results]
    best = max(hypotheses, key=lambda hypothesis: hypothesis.score, default=None)
    return Detection(edges, best.class_id, best.score) if best is not None else Detection(edges)
