"""A camera with depth, beside a node with one object."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Vector3
from node_harness import HEIGHT, WIDTH, Peer, box_prompt, running
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from sam2_ros.msg import TrackedObject, TrackedObjectArray

FOCAL, CX, CY = 130.0, 79.5, 59.5
BOX = (40, 30, 80, 60)  # the object, in pixels


class Rig:
    """The other side of a node with depth: image, depth image and calibration of one camera."""

    def __init__(self, node: Peer, namespace: str) -> None:
        self.node = node
        self.depth = node.create_image_publisher(Image, f"{namespace}/depth/image")
        self.infos = node.create_image_publisher(CameraInfo, f"{namespace}/camera_info")
        self.detections: list[Detection3DArray] = []
        self.markers: list[MarkerArray] = []
        node.node.create_subscription(Detection3DArray, f"{node.node_name}/detections_3d", self.detections.append, 10)
        node.node.create_subscription(MarkerArray, f"{node.node_name}/markers", self.markers.append, 10)

    def send_info(self, **changes: Any) -> None:
        info = CameraInfo(width=WIDTH, height=HEIGHT, k=[FOCAL, 0.0, CX, 0.0, FOCAL, CY, 0.0, 0.0, 1.0])
        info.header.frame_id = "camera_optical_frame"
        for name, value in changes.items():
            setattr(info, name, value)
        self.infos.publish(info)

    def track(self, depth: Image | CompressedImage | None, late: bool = False) -> TrackedObjectArray:
        """An image, its depth image (with the image's stamp, where it has none), and what the node makes of them."""
        image = self.node.image()
        if depth is not None and not depth.header.stamp.sec:
            depth.header.stamp = image.header.stamp
        if depth is not None and not late:
            self.depth.publish(depth)
        if late:
            self.node.send(image)
            self.depth.publish(depth)
            return self.node.wait_until(lambda: self.node.tracks_of(image), "tracks of an image")
        return self.node.track(image)

    def track_object(self, depth: Image | CompressedImage | None, **how: bool) -> TrackedObject:
        (known,) = self.track(depth, **how).objects
        return known

    def wait_for_problem(self, reason: str) -> None:
        """Until the diagnostics have this reason; empty: none."""

        def told() -> bool:
            problem = self.node.status()["depth problem"]
            return reason in problem if reason else not problem

        self.node.wait_until(told, f"the diagnosis '{reason}'")

    def calibrate(self, **changes: Any) -> None:
        """Until the node knows this calibration: its positions, or its refusals, are of it."""
        before = self.track_object(plane()).depth_reason

        def known() -> bool:
            self.send_info(**changes)
            now = self.track_object(plane())
            return bool(changes) == (now.depth_status != TrackedObject.DEPTH_OK) and now.depth_reason != before

        self.node.wait_until(known, "the calibration")


def depth_image(values: NDArray, encoding: str, frame_id: str = "camera_optical_frame", padding: int = 0) -> Image:
    """A depth image; its stamp is zero until it is sent."""
    height, width = values.shape
    rows = np.zeros((height, width * values.itemsize + padding), np.uint8)
    rows[:, : width * values.itemsize] = np.ascontiguousarray(values).view(np.uint8).reshape(height, -1)
    image = Image(
        height=height, width=width, step=rows.shape[1], encoding=encoding, data=array("B", rows.tobytes()),
        is_bigendian=int(values.dtype.byteorder == ">"),
    )  # fmt: skip
    image.header.frame_id = frame_id
    return image


def plane(millimetres: int = 1500, **changes: Any) -> Image:
    return depth_image(np.full((HEIGHT, WIDTH), millimetres, "<u2"), "16UC1", **changes)


def place(point: Point | Vector3) -> list[float]:
    return [point.x, point.y, point.z]


def expected(metres: float) -> list[float]:
    """Centre of the object's box on a plane: pixels count from their centres."""
    return [(59.5 - CX) / FOCAL * metres, (44.5 - CY) / FOCAL * metres, metres]


@contextmanager
def depth_rig(folder: Path, namespace: str, *lines: str) -> Iterator[Rig]:
    """A node with an object, and calibrated. ``lines`` are added to its parameter file."""
    file = folder / "depth.yaml"
    file.write_text(
        "\n".join(
            [
                "/**:",
                "  ros__parameters:",
                "    model.name: 'null'",
                "    diagnostics.period: 0.1",
                "    depth: {enabled: true, wait: 1.0, slop: 0.2, queue: 5}",
                *(f"    {line}" for line in lines),
            ]
        )
    )
    with running(folder, namespace=namespace, params_file=str(file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        rig = Rig(node, namespace)
        assert node.launched is not None
        node.launched.wait_for_text(f"subscribed to {namespace}/depth/image, reliable")
        node.track()
        assert node.add(box_prompt(*BOX, name="cup", label="dish")).success
        without = rig.track_object(plane())
        assert without.depth_status == TrackedObject.DEPTH_REFUSED
        assert without.depth_reason == f"no camera_info has arrived on {namespace}/camera_info"
        rig.calibrate()
        yield rig
