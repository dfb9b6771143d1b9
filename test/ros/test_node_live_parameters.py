"""Parameters of the engine that are set while it tracks: at once and all together, or not at all with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_harness import Peer, box_prompt, running
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.time import Time
from served import ServerProcess

from sam2_ros.msg import PromptResult


@pytest.fixture(scope="module", params=["here", "server"])
def node(request: pytest.FixtureRequest, folder: Path) -> Iterator[Peer]:
    """An active node whose engine runs in its process, or in a server."""
    where = str(request.param)
    file = folder / f"live_{where}.yaml"
    settings = "/**:\n  ros__parameters:\n    model.name: 'null'\n    diagnostics.period: 0.1\n"
    if where == "here":
        file.write_text(settings)
        with running(folder, namespace=f"/live_{where}", params_file=str(file)) as peer:
            peer.wait_for_state("active")
            yield peer
        return
    server = ServerProcess()
    try:
        file.write_text(f"{settings}    inference.endpoint: {server.endpoint}\n")
        with running(folder, namespace=f"/live_{where}", params_file=str(file)) as peer:
            peer.wait_for_state("active")
            yield peer
    finally:
        server.close()


def set_all(node: Peer, **values: Any) -> Any:
    wanted = [Parameter(f"tracker.{name}", value=value).to_parameter_msg() for name, value in values.items()]
    request = SetParametersAtomically.Request(parameters=wanted)
    return node.call(SetParametersAtomically, "set_parameters_atomically", request).result


def code_of_a_prompt_beside_its_frame(node: Peer) -> int:
    """What becomes of a prompt that is stamped 50 ms before the frame it is nearest to."""
    stamp = Time.from_msg(node.track().header.stamp).nanoseconds - 50_000_000
    (result,) = node.add(box_prompt(5, 5, 20, 20), request_header=header(stamp)).results
    return int(result.code)


def header(stamp: int) -> Any:
    from std_msgs.msg import Header

    return Header(stamp=Time(nanoseconds=stamp).to_msg())


def test_what_may_change_counts_from_the_next_frame_or_prompt_on(node: Peer) -> None:
    assert code_of_a_prompt_beside_its_frame(node) == PromptResult.OK
    assert set_all(node, history_tolerance=0.001, lost_after=5, reject_strays=False).successful
    assert code_of_a_prompt_beside_its_frame(node) != PromptResult.OK
    assert set_all(node, history_tolerance=0.1).successful
    assert code_of_a_prompt_beside_its_frame(node) == PromptResult.OK


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("max_objects", 3, "since the memory bank is allocated for it; clean it up first"),
        ("history", 2, "since the stored frames are allocated for it; clean it up first"),
        ("prompted_slots", 5, "since the memory bank is allocated for it; clean it up first"),
        ("click_candidate", "first", "accepted: best, stable, largest, smallest"),
    ],
)
def test_what_may_not_is_refused_with_the_reason_and_all_that_is_set_with_it(
    node: Peer, name: str, value: Any, reason: str
) -> None:
    refused = set_all(node, history_tolerance=0.001, **{name: value})
    assert not refused.successful and reason in refused.reason
    assert code_of_a_prompt_beside_its_frame(node) == PromptResult.OK


def test_a_fixed_parameter_may_be_set_to_what_it_is(node: Peer) -> None:
    """As loading a parameter file into the running node does."""
    assert set_all(node, max_objects=16, history=8, history_tolerance=0.1).successful


def test_an_empty_list_keeps_its_type(node: Peer) -> None:
    wanted = [Parameter("detections.labels", Parameter.Type.STRING_ARRAY, []).to_parameter_msg()]
    request = SetParametersAtomically.Request(parameters=wanted)
    assert node.call(SetParametersAtomically, "set_parameters_atomically", request).result.successful
