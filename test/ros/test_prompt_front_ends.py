"""Every front end refuses the same prompts in the same words: messages of the node, files, the page, the terminal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_prompts import BAD, BAD_NAMES, NEEDS_THE_IMAGE
from PIL import Image as Picture
from sensor_msgs.msg import Image
from vision_msgs.msg import Point2D

from sam2_ros.media.errors import UserError
from sam2_ros.media.prompts_file import load_prompts
from sam2_ros.msg import ObjectPrompt
from sam2_ros.ros import prompt_messages
from sam2_ros.ros.messages import bounding_box, byte_array
from sam2_ros.ros.node_services import prompt_message
from sam2_ros.ros.prompt_messages import from_add_objects, from_prompt, to_message
from sam2_ros.srv import AddObjects
from sam2_ros.tracking.prompt_checks import MAX_PROMPTS
from sam2_ros.tracking.types import Prompt, PromptError, PromptRequest
from sam2_ros.viewer.page_commands import BadCommand
from sam2_ros.viewer.service_calls import ServiceCalls

GOOD = Prompt(box=np.array([1, 1, 9, 9], np.float32))
Refuse = Callable[[PromptRequest, Path], str]


def refused_by_the_node(request: PromptRequest, folder: Path) -> str:
    prompt = request.prompt
    message = ObjectPrompt(name=request.name, label=request.label, candidate=prompt.candidate or 0)
    if prompt.box is not None:
        message.box = [bounding_box(prompt.box.tolist())]
    if prompt.points is not None:
        message.points = [Point2D(x=x, y=y) for x, y in prompt.points.tolist()]
    message.point_labels = [] if prompt.labels is None else prompt.labels.tolist()
    if prompt.mask is not None:
        height, width = prompt.mask.shape
        message.mask = Image(
            height=height, width=width, step=width, encoding="mono8", data=byte_array(prompt.mask.view(np.uint8))
        )
    asked = from_prompt(message)
    return str(asked) if isinstance(asked, PromptError) else ""


def as_json(request: PromptRequest) -> dict[str, Any]:
    prompt = request.prompt
    arrays = {key: getattr(prompt, key) for key in ("points", "labels", "box")}
    entry = {key: array.tolist() for key, array in arrays.items() if array is not None}
    return entry | {"name": request.name, "label": request.label}


def refused_by_a_file(request: PromptRequest, folder: Path) -> str:
    entry = as_json(request) | {"frame": 0, "object_id": 1}
    if request.prompt.mask is not None:
        Picture.fromarray(request.prompt.mask.view(np.uint8)).save(folder / "mask.png")
        entry["mask"] = "mask.png"
    path = folder / "prompts.json"
    path.write_text(json.dumps([entry]), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_prompts(path)
    return str(caught.value).removeprefix(f"{path}: entry 0: ")


def refused_by_the_page(request: PromptRequest, folder: Path) -> str:
    command = as_json(request) | {"type": "add", "candidate": request.prompt.candidate or 0}
    with pytest.raises(BadCommand) as caught:
        ServiceCalls(None, "/tracker").call(command)  # the node is never asked
    return str(caught.value)


def refused_by_the_terminal(request: PromptRequest, folder: Path) -> str:
    prompt = request.prompt
    points: list[Any] = [] if prompt.points is None else prompt.points.tolist()
    labels: list[int] = [] if prompt.labels is None else prompt.labels.tolist()
    marked = list(zip(points, labels, strict=True))
    arguments = argparse.Namespace(
        box=None if prompt.box is None else prompt.box.tolist(), mask=None, name=request.name, label=request.label,
        point=[point for point, label in marked if label], negative=[point for point, label in marked if not label],
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        prompt_message(arguments)
    return str(caught.value)


# What a front end's format can't say.
FRONT_ENDS: dict[Refuse, set[str]] = {
    refused_by_the_node: {"no points", "points of three", "box of three", "mask of numbers"},
    refused_by_a_file: {name for name in BAD if name.startswith("candidate")} | {"no points", "mask of numbers"},
    refused_by_the_page: {"no points", "box turned over", "mask and box", "mask of numbers"},
    refused_by_the_terminal: set(BAD) - {"not finite", "too many points", "infinite box", "box turned over"},
}
CASES = [
    pytest.param(refuse, name, id=f"{refuse.__name__}-{name}")
    for refuse, unsayable in FRONT_ENDS.items()
    for name in BAD
    if name not in unsayable | NEEDS_THE_IMAGE
]


@pytest.mark.parametrize(("refuse", "name"), CASES)
def test_a_bad_prompt_is_refused_in_the_same_words(refuse: Refuse, name: str, tmp_path: Path) -> None:
    prompt, message = BAD[name]
    assert refuse(PromptRequest(prompt), tmp_path) == message


@pytest.mark.parametrize("refuse", FRONT_ENDS)
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_in_the_same_words(refuse: Refuse, name: str, tmp_path: Path) -> None:
    fields, message = BAD_NAMES[name]
    assert refuse(replace(PromptRequest(GOOD), **fields), tmp_path) == message


def test_a_message_comes_back_as_the_request_that_it_was_made_of() -> None:
    points, labels = np.array([[1.5, 2], [3, 4]], np.float32), np.array([1, 0], np.int32)
    mask = np.eye(4, dtype=np.bool_)
    for prompt in (
        Prompt(points, labels, np.array([0.1, 1, 7, 9], np.float32), replace=True),
        Prompt(mask=mask),
        Prompt(candidate=2),
    ):
        request = PromptRequest(prompt, 7, "cup", "dish", 0.5)
        back = from_prompt(to_message(request))
        assert isinstance(back, PromptRequest)
        np.testing.assert_equal(vars(back.prompt), vars(prompt))
        assert (back.object_id, back.name, back.label, back.label_score) == (7, "cup", "dish", 0.5)


def test_a_call_holds_a_limited_number_of_prompts() -> None:
    names, boxes = [f"object {number}" for number in range(25)], [bounding_box((1, 1, 9, 9))] * 25
    request = AddObjects.Request(prompts=[ObjectPrompt()] * 1000, bbox_object_ids=names, bbox_coords=boxes)
    (refused,) = from_add_objects(request)
    assert str(refused) == "there are 1025 prompts; accepted: up to 1024; send fewer"
    assert len(from_add_objects(AddObjects.Request(prompts=[ObjectPrompt()] * MAX_PROMPTS))) == MAX_PROMPTS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": [ObjectPrompt()] * 1025}, "there are 1025 prompts; accepted: up to 1024; send fewer"),
        (
            {"bbox_object_ids": [""] * 100_000, "bbox_coords": [bounding_box((1, 1, 9, 9))] * 100_000},
            "there are 100000 bbox_coords; accepted: up to 1024; send fewer",
        ),
        (
            {"point_object_ids": ["cup"] * 16385, "point_coords": [Point2D()] * 16385, "point_labels": [1] * 16385},
            "there are 16385 point_coords; accepted: up to 16384; send fewer",
        ),
    ],
    ids=["prompts", "boxes", "points"],
)
def test_a_call_that_is_too_large_is_refused_before_it_is_read(
    fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = AddObjects.Request(**fields)
    monkeypatch.setattr(prompt_messages, "ObjectPrompt", None)  # none is made
    monkeypatch.setattr(prompt_messages, "from_prompt", None)
    (refused,) = from_add_objects(request)
    assert str(refused) == message


def test_a_refusal_shows_a_name_as_one_short_line() -> None:
    names = ["\x1b[31m\n" + "x" * 1000] * 2
    (refused,) = from_add_objects(
        AddObjects.Request(bbox_object_ids=names, bbox_coords=[bounding_box((1, 1, 9, 9))] * 2)
    )
    assert str(refused).isprintable() and len(str(refused)) < 200
