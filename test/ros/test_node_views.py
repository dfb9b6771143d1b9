"""The standard views, read with tools that are not ours: the ros2 command line, and rosbags' own reader of messages."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from foxglove_msgs.msg import ImageAnnotations
from node_harness import HEIGHT, WIDTH, Peer, box_prompt, in_this_process, running
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo
from visualization_msgs.msg import MarkerArray

from sam2_ros.media.overlay import object_color
from sam2_ros.msg import TrackedObject
from sam2_ros.ros import publishers
from sam2_ros.ros.depth_input import DepthInput

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CUP, BOWL = (20, 20, 60, 50), (50, 40, 90, 80)  # boxes that overlap in 10 x 10 pixels
VIEWS = {
    "label_image": ("sensor_msgs/msg/Image", Image),
    "label_info": ("vision_msgs/msg/LabelInfo", LabelInfo),
    "detections": ("vision_msgs/msg/Detection2DArray", Detection2DArray),
    "detections_3d": ("vision_msgs/msg/Detection3DArray", Detection3DArray),
    "markers": ("visualization_msgs/msg/MarkerArray", MarkerArray),
    "annotations": ("foxglove_msgs/msg/ImageAnnotations", ImageAnnotations),
}


@pytest.fixture(scope="module")
def node(folder: Path, parameters_file: Path) -> Iterator[Peer]:
    with running(folder, namespace="/views", params_file=str(parameters_file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        node.track()
        assert node.add(box_prompt(*CUP, name="cup", label="dish"), box_prompt(*BOWL, name="bowl")).success
        yield node


def echo(node: Peer, view: str) -> dict[str, Any]:
    """One message of a view as ``ros2 topic echo`` prints it, while images come in."""
    ros2 = Path(sys.executable).with_name("ros2")
    command = [str(ros2) if ros2.is_file() else "ros2", "topic", "echo", "--once", "--full-length", "--no-daemon"]
    command += ["--spin-time", "5", f"{node.node_name}/{view}", VIEWS[view][0], "--qos-reliability", "reliable"]
    if view == "label_info":
        command += ["--qos-durability", "transient_local"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        try:
            while reader.poll() is None:
                node.send()
                time.sleep(0.05)
            assert reader.stdout is not None and reader.stderr is not None
            text, complaint = reader.stdout.read(), reader.stderr.read()
        finally:
            reader.kill()
    documents = [document for document in yaml.safe_load_all(text) if document]
    assert documents, complaint
    return dict(documents[0])


def test_the_ros2_command_line_reads_label_info_that_came_before_it(node: Peer) -> None:
    info = echo(node, "label_info")
    assert info["class_map"] == [{"class_id": 1, "class_name": "cup"}, {"class_id": 2, "class_name": "bowl"}]
    assert info["header"]["frame_id"] == "camera_optical_frame"


def test_the_ros2_command_line_reads_detections(node: Peer) -> None:
    found = echo(node, "detections")
    cup, bowl = found["detections"]
    assert [cup["id"], bowl["id"]] == ["1", "2"]
    assert cup["header"] == found["header"]
    assert [each["results"][0]["hypothesis"]["class_id"] for each in (cup, bowl)] == ["dish", "bowl"]
    assert cup["bbox"] == {
        "center": {"position": {"x": 40.0, "y": 35.0}, "theta": 0.0}, "size_x": 40.0, "size_y": 30.0,
    }  # fmt: skip


def typestore() -> Any:
    """The types of rosbags, and the others from the definitions that are installed."""
    from ament_index_python.packages import get_package_share_directory

    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for package in ("vision_msgs", "foxglove_msgs"):
        for file in Path(get_package_share_directory(package), "msg").glob("*.msg"):
            types |= get_types_from_msg(file.read_text(encoding="utf-8"), f"{package}/msg/{file.stem}")
    store.register(types)
    return store


def test_rosbags_reads_every_view(node: Peer, tmp_path: Path) -> None:
    """Serialized messages go from the wire into an mcap file as they are, and are decoded without ROS."""
    wire: dict[str, list[bytes]] = {view: [] for view in VIEWS}
    for view, (_, message_type) in VIEWS.items():
        qos = LATCHED if view == "label_info" else QoSProfile(depth=10)
        node.node.create_subscription(message_type, f"{node.node_name}/{view}", wire[view].append, qos, raw=True)

    def all_there() -> bool:
        node.track()
        return all(wire.values())

    node.wait_until(all_there, "a message of every view")
    store = typestore()
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for view, (name, _) in VIEWS.items():
            connection = writer.add_connection(f"{node.node_name}/{view}", name, typestore=store)
            writer.write(connection, 1, wire[view][-1])
    read: dict[str, Any] = {}
    with Reader(tmp_path / "bag") as reader:
        for connection, _, data in reader.messages():
            read[connection.topic.rpartition("/")[2]] = store.deserialize_cdr(data, connection.msgtype)
    image = read["label_image"]
    assert (image.encoding, image.width, image.height, image.step) == ("mono16", WIDTH, HEIGHT, 2 * WIDTH)
    labels = image.data.view("<u2").reshape(HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, (x0, y0, x1, y1) in ((2, BOWL), (1, CUP)):  # between equals the lower id is on top
        expected[y0:y1, x0:x1] = number
    np.testing.assert_array_equal(labels, expected)
    assert [(each.class_id, each.class_name) for each in read["label_info"].class_map] == [(1, "cup"), (2, "bowl")]
    assert [each.id for each in read["detections"].detections] == ["1", "2"]
    assert read["detections"].detections[1].bbox.center.position.x == 70.0
    assert len(read["detections_3d"].detections) == 0  # there is no depth
    assert [marker.action for marker in read["markers"].markers] == [3]  # so nothing but what deletes earlier ones
    check_annotations(read["annotations"], image.header.stamp)
    assert image.header.frame_id == "camera_optical_frame"


def check_annotations(drawn: Any, stamp: Any) -> None:
    """What Foxglove draws: outlines through the masks' outermost pixels, counted from the image's corner; names."""
    for outline, text, (x0, y0, x1, y1), name, number in zip(
        drawn.points, drawn.texts, (CUP, BOWL), ("cup", "bowl"), (1, 2), strict=True
    ):
        assert outline.type == 2  # LINE_LOOP
        corners = {(point.x, point.y) for point in outline.points}
        assert corners == {(x, y) for x in (x0 + 0.5, x1 - 0.5) for y in (y0 + 0.5, y1 - 0.5)}
        color = outline.outline_color
        assert tuple(round(255 * value) for value in (color.r, color.g, color.b)) == object_color(number)
        assert 0 < outline.fill_color.a < 1 == color.a
        assert text.text.startswith(f"{name} ") and (text.position.x, text.position.y) == (x0, y0)
        assert outline.timestamp == text.timestamp == stamp


def test_label_info_follows_the_objects(node: Peer) -> None:
    from sam2_ros.srv import RemoveObject, RenameObject

    infos: list[LabelInfo] = []
    node.node.create_subscription(LabelInfo, f"{node.node_name}/label_info", infos.append, LATCHED)
    names = lambda: [each.class_name for each in infos[-1].class_map] if infos else []  # noqa: E731
    node.call(RenameObject, "rename_object", RenameObject.Request(object_id="cup", name="mug"))
    node.track()
    node.wait_until(lambda: names() == ["mug", "bowl"], "the new name")
    count = len(infos)
    for _ in range(3):
        node.track()
    assert len(infos) == count  # said once
    node.call(RemoveObject, "remove_object", RemoveObject.Request(object_id="mug"))
    node.track()
    node.wait_until(lambda: names() == ["bowl"], "the removal")


def test_an_output_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracks, events and the other views go on; the log and /diagnostics name the one that fails, and why."""

    def broken(*_: Any) -> Any:
        raise MemoryError("no room\nfor a picture")

    for name in ("~/overlay", "~/markers", "~/annotations"):
        monkeypatch.setitem(publishers.MESSAGES, name, broken)
    monkeypatch.setattr(publishers, "vision_classes", broken)
    monkeypatch.setattr(DepthInput, "_nearest", broken)
    prompts = tmp_path / "prompts.json"
    prompts.write_text('[{"frame": 0, "object_id": 1, "box": [10, 10, 30, 30]}]')
    parameters = {"prompts_file": str(prompts), "diagnostics.period": 0.1, "depth.enabled": True}
    with in_this_process("/broken", **parameters) as (_, peer):
        received: list[Any] = []
        for name in ("overlay", "markers", "annotations", "label_image"):
            kind = {"overlay": Image, "label_image": Image, "markers": MarkerArray}.get(name, ImageAnnotations)
            peer.node.create_subscription(kind, f"/broken/tracker/{name}", received.append, 10)
        tracks = peer.wait_until(lambda: (t := peer.track()) and t.objects and t, "an object")
        assert tracks.objects[0].depth_status == TrackedObject.DEPTH_REFUSED
        assert tracks.objects[0].depth_reason == "MemoryError: no room for a picture"
        peer.wait_until(lambda: peer.events, "the event of the object")
        peer.wait_until(lambda: peer.track() and received, "label images, which do not fail")
        assert {message.encoding for message in received} == {"mono16"}
        status = peer.status()
        assert status["level"] == DiagnosticStatus.WARN and status["failed"] == "0"
        assert "fails: MemoryError: no room for a picture" in status["message"]
