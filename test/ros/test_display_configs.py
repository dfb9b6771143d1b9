"""config/tracker.rviz and config/foxglove_layout.json show what the node publishes, by its names and types.

RViz and Foxglove are not run here: what is checked is every topic, message type, QoS and message path that the files
name. That the documented interface is the running node's is test_node_interface.py's part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from documented import published, subscribed
from node_harness import ROOT
from rosidl_runtime_py.utilities import get_message

PUBLISHED = published("/tracker")
CAMERA = {"/image": subscribed("/tracker")["/image"]}
RVIZ_TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/MarkerArray",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/PointCloud2",
    "vision_msgs_rviz_plugins/Detection3DArray": "vision_msgs/Detection3DArray",
}
WITHOUT_TOPIC = {"rviz_default_plugins/Grid", "rviz_default_plugins/TF"}
# What a panel of Foxglove accepts; None is any type.
FOXGLOVE_TYPES = {
    "Image": "sensor_msgs/Image",
    "Annotations": "foxglove_msgs/ImageAnnotations",
    "3D": ("visualization_msgs/MarkerArray", "sensor_msgs/PointCloud2"),
    "DiagnosticSummary": "diagnostic_msgs/DiagnosticArray",
    "DiagnosticStatusPanel": "diagnostic_msgs/DiagnosticArray",
    "StateTransitions": None,
    "Plot": None,
    "Table": None,
    "RawMessages": None,
}
LAYOUT: dict[str, Any] = json.loads((ROOT / "config" / "foxglove_layout.json").read_text(encoding="utf-8"))
NUMBERS = r"(float|double|u?int\d+)\w*"


def test_rviz_shows_published_topics() -> None:
    config = yaml.safe_load((ROOT / "config" / "tracker.rviz").read_text(encoding="utf-8"))
    shown = {}
    for display in config["Visualization Manager"]["Displays"]:
        if display["Class"] in WITHOUT_TOPIC:
            assert "Topic" not in display
            continue
        topic = display["Topic"]
        assert PUBLISHED[topic["Value"]] == RVIZ_TYPES[display["Class"]], display["Name"]
        assert (topic["Reliability Policy"], topic["Durability Policy"]) == ("Reliable", "Volatile")
        shown[topic["Value"]] = display["Enabled"]
    assert shown == {
        "/tracker/overlay": True, "/tracker/label_image": True, "/tracker/markers": True,
        "/tracker/clouds": True, "/tracker/detections_3d": False,
    }  # fmt: skip


def paths(panel: str, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every topic or message path that a panel of Foxglove names, with the kind of what shows it."""
    kind, image = panel.partition("!")[0], config.get("imageMode", {})
    yield from ((kind, config[key]) for key in ("topicToRender", "topicPath") if key in config)
    yield from ((kind, each["value"]) for each in config.get("paths", []))
    yield from ((kind, value) for key, value in image.items() if key.endswith("Topic"))
    yield from ((kind, topic) for topic in config.get("topics", {}))
    yield from (("Annotations", topic) for topic in image.get("annotations", {}))


PATHS = [each for panel, config in LAYOUT["configById"].items() for each in paths(panel, config)]


def resolve(path: str) -> tuple[str, str]:
    """Topic and type of what a message path such as ``/topic.field[:]{id==$object_id}.field`` names.

    Raises:
        KeyError: topic, field or variable doesn't exist.
    """
    topic, *fields = re.split(r"\.(?![^{]*})", path)
    kind = (PUBLISHED | CAMERA)[topic]
    for field in fields:
        match = re.fullmatch(r"(@?\w+)(\[:\])?(?:\{(\w+)==\$(\w+)\})?", field)
        assert match, field
        name, every, key, variable = match.groups()
        if name == "@derivative":
            assert re.fullmatch(NUMBERS, kind)
            continue
        kind = get_message(kind).get_fields_and_field_types()[name]
        if every:
            assert kind.startswith("sequence<"), f"{field} is {kind}"
            kind = kind.removeprefix("sequence<").removesuffix(">")
        if key:
            assert re.fullmatch(NUMBERS, get_message(kind).get_fields_and_field_types()[key])
            assert isinstance(LAYOUT["globalVariables"][variable], int)
    return topic, kind


@pytest.mark.parametrize(("kind", "path"), PATHS)
def test_foxglove_paths_exist(kind: str, path: str) -> None:
    accepted = FOXGLOVE_TYPES[kind]
    _, found = resolve(path)
    if accepted:
        assert found in (accepted if isinstance(accepted, tuple) else (accepted,))
    if kind in ("Plot", "StateTransitions"):
        assert re.fullmatch(NUMBERS, found)


@pytest.mark.parametrize(
    "path", ["/tracker/nothing", "/tracker/tracks.object", "/tracker/tracks.objects[:]{id==$other}"]
)
def test_a_wrong_path_is_noticed(path: str) -> None:
    with pytest.raises(KeyError):
        resolve(path)


def test_foxglove_shows_the_interface() -> None:
    shown = {resolve(path)[0] for _, path in PATHS}
    # The overlay shows the same; live tracks cost time while somebody subscribes; others are for programs.
    hidden = {"/tracker/label_info", "/tracker/detections", "/tracker/tracks_live", "/tracker/depth_without_objects"}
    hidden |= {topic for topic in PUBLISHED if "NAME" in topic}
    assert shown == set(PUBLISHED) - hidden | set(CAMERA)
    health = LAYOUT["configById"]["DiagnosticStatusPanel!tracking"]
    assert health["selectedName"] == f"{health['selectedHardwareId']}: tracking"


def test_every_panel_has_its_place() -> None:
    def leaves(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
            return
        assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
        yield from leaves(node["first"])
        yield from leaves(node["second"])

    placed = list(leaves(LAYOUT["layout"]))
    assert sorted(placed) == sorted(LAYOUT["configById"])
