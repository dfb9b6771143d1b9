"""One table of parameters: the file, the engine's settings and the checks agree with it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from sam2_ros.ros import parameters
from sam2_ros.ros.parameter import Value
from sam2_ros.ros.parameter_file import to_yaml
from sam2_ros.ros.parameters import BY_NAME, PARAMETERS
from sam2_ros.tracking.config import TrackerConfig

FILE = Path(__file__).parents[2] / "config" / "tracker.yaml"
DEFAULTS: dict[str, Value] = {parameter.name: parameter.default for parameter in PARAMETERS}


def flatten(tree: dict, prefix: str = "") -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for name, value in tree.items():
        full = f"{prefix}{name}"
        flat |= flatten(value, f"{full}.") if isinstance(value, dict) else {full: value}
    return flat


def test_the_file_is_what_the_table_says() -> None:
    assert FILE.read_text() == to_yaml(), "write it: make docs"


def test_the_file_holds_every_parameter_with_its_default_and_type() -> None:
    values = flatten(yaml.safe_load(FILE.read_text())["/**"]["ros__parameters"])
    assert values == DEFAULTS
    assert {name: type(value) for name, value in values.items()} == {n: type(v) for n, v in DEFAULTS.items()}


def test_every_description_stands_in_the_file() -> None:
    comments = " ".join(line.strip().removeprefix("# ") for line in FILE.read_text().splitlines() if "#" in line)
    for parameter in PARAMETERS:
        assert parameter.description in comments
        assert parameter.description.endswith("."), parameter.name


def test_the_engines_settings_are_all_parameters() -> None:
    names = {name.partition(".")[2] for name in BY_NAME if name.startswith("tracker.")}
    assert names == {field.name for field in fields(TrackerConfig)}
    assert parameters.tracker_config(DEFAULTS) == TrackerConfig()


def test_the_ranges_are_the_engines() -> None:
    """What the table accepts the engine accepts too, and what lies beyond neither does."""
    for parameter in PARAMETERS:
        if not parameter.name.startswith("tracker.") or parameter.low is None or parameter.high is None:
            continue
        field = parameter.name.partition(".")[2]
        for inside in (parameter.low, parameter.high):
            parameters.tracker_config(DEFAULTS | {parameter.name: int(inside)})
        for outside in (parameter.low - 1, parameter.high + 1):
            with pytest.raises(ValueError, match=field):
                parameters.tracker_config(DEFAULTS | {parameter.name: int(outside)})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("tracker.max_objects", 0, "tracker.max_objects is 0; accepted: 1 to 1024"),
        ("tracker.max_objects", 10**400, f"tracker.max_objects is {10**99}… (401 characters); accepted: 1 to 1024"),
        ("prompts.wait", float("inf"), "prompts.wait is inf; accepted: 0 to 60"),
        ("tracker.max_objects", True, "tracker.max_objects is true; accepted: 1 to 1024"),
        ("prompts.wait", float("nan"), "prompts.wait is nan; accepted: 0 to 60"),
        ("prompts.wait", 2, "prompts.wait is 2; accepted: 0 to 60"),
        ("input.transport", "theora", 'input.transport is "theora"; accepted: raw, compressed'),
        ("tracker.non_overlap", 1, "tracker.non_overlap is 1; accepted: true or false"),
        ("model.name", 5, "model.name is 5; accepted: text"),
        (
            "cameras",
            ["0"],
            'cameras is ["0"]; accepted: a list of different names of letters, digits and _, each beginning with a '
            'letter; [""] = none',
        ),
        (
            "detections.labels",
            ["cup", "a\nb"],
            'detections.labels is ["cup", "a\\nb"]; accepted: a list of different texts of up to 256 printable '
            'characters; [""] = none',
        ),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_accepted(name: str, value: Value, complaint: str) -> None:
    parameters.check(DEFAULTS | {"detections.labels": ["0", "traffic light", "coco/cup"]})
    with pytest.raises(ValueError) as caught:
        parameters.check(DEFAULTS | {name: value})
    assert str(caught.value) == complaint
