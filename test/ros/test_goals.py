"""The action ``~/track_object`` over DDS: how goals begin, what they tell, and every way in which they end."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from node_harness import HEIGHT, PATIENCE, WIDTH, Peer, box_prompt, running
from rclpy.action import ActionClient
from sensor_msgs.msg import Image

from sam2_ros.action import TrackObject
from sam2_ros.msg import ObjectPrompt, PromptResult, TrackedObject

Result = TrackObject.Result
BOX = (20, 20, 60, 50)


class Client:
    """Sends goals; keeps the feedback of each."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.client = ActionClient(peer.node, TrackObject, f"{peer.node_name}/track_object")
        peer.wait_until(self.client.server_is_ready, "the action")

    def send(self, prompt: ObjectPrompt | None = None, **goal: Any) -> Goal:
        return Goal(self, TrackObject.Goal(prompt=prompt or ObjectPrompt(), **goal))


class Goal:
    def __init__(self, client: Client, goal: TrackObject.Goal) -> None:
        self.peer = client.peer
        self.feedback: list[TrackObject.Feedback] = []
        tell = lambda message: self.feedback.append(message.feedback)  # noqa: E731
        sent = self.peer.in_executor(client.client.send_goal_async, goal, tell)
        self.peer.wait_until(sent.done, "an answer to the goal")
        self.handle = sent.result()
        self.result = self.peer.in_executor(self.handle.get_result_async) if self.handle.accepted else None

    def end(self) -> tuple[int, Any]:
        """Status and result, while images come in."""
        result = self.result
        assert result is not None

        def ended() -> bool:
            self.peer.send()
            time.sleep(0.03)
            return bool(result.done())

        self.peer.wait_until(ended, "the goal's end")
        answer = result.result()
        return answer.status, answer.result

    def wait_for_feedback(self) -> TrackObject.Feedback:
        count = len(self.feedback)
        self.peer.wait_until(lambda: self.peer.track() and len(self.feedback) > count, "feedback")
        return self.feedback[-1]


@pytest.fixture(scope="module")
def node(folder: Path, parameters_file: Path) -> Iterator[Peer]:
    with running(folder, namespace="/goals", params_file=str(parameters_file)) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        node.track()
        yield node


@pytest.fixture
def client(node: Peer) -> Client:
    node.reset()
    return Client(node)


def test_a_goal_follows_its_prompt_until_the_time_limit(client: Client) -> None:
    goal = client.send(box_prompt(*BOX, name="cup"), time_limit=1.5)
    told = goal.wait_for_feedback()
    assert (told.object.name, told.object.state) == ("cup", TrackedObject.STATE_VISIBLE)
    assert not told.object.mask.data and told.object.bbox.size_x == 40 and told.out_of_sight == 0
    status, result = goal.end()
    assert (status, result.end) == (GoalStatus.STATUS_SUCCEEDED, Result.TIME_LIMIT)
    assert result.object_id == result.object.id == told.object.id and result.object.mask.data
    assert [obj.name for obj in client.peer.list_objects().tracks.objects] == ["cup"], "it stays tracked"


def test_a_goal_is_canceled_and_takes_its_object_with_it(client: Client) -> None:
    goal = client.send(box_prompt(*BOX), remove_at_end=True)
    goal.wait_for_feedback()
    goal.handle.cancel_goal_async()
    status, result = goal.end()
    assert (status, result.end) == (GoalStatus.STATUS_CANCELED, Result.CANCELED)
    client.peer.wait_until(lambda: not client.peer.list_objects().tracks.objects, "the removal")


def test_a_goal_waits_for_a_label_and_several_run_at_once(client: Client) -> None:
    waiting = client.send(wait_for="dish")
    missing = client.send(wait_for="spoon", find_timeout=1.0)
    status, result = missing.end()
    assert (status, result.end, result.object_id) == (GoalStatus.STATUS_ABORTED, Result.NOT_FOUND, 0)
    assert not waiting.feedback
    added = client.peer.add(box_prompt(*BOX, name="cup", label="dish")).results[0].object_id
    assert waiting.wait_for_feedback().object.id == added
    named = client.send(ObjectPrompt(name="cup"))
    assert named.wait_for_feedback().object.id == added
    from sam2_ros.srv import RemoveObject

    client.peer.call(RemoveObject, "remove_object", RemoveObject.Request(object_id="cup"))
    for goal in (waiting, named):
        status, result = goal.end()
        assert (status, result.end, result.object_id) == (GoalStatus.STATUS_ABORTED, Result.REMOVED, added)


def test_an_object_that_stays_out_of_sight(client: Client) -> None:
    """The engine of the test keeps every object in sight, so it is told that the object is not in this frame."""
    goal = client.send(box_prompt(*BOX), lost_timeout=0.5)
    seen = goal.wait_for_feedback().object
    from sam2_ros.srv import RefineObject

    empty = Image(width=WIDTH, height=HEIGHT, step=WIDTH, encoding="mono8", data=bytes(WIDTH * HEIGHT))
    refined = RefineObject.Request(prompt=ObjectPrompt(object_id=seen.id, mask=empty))
    assert client.peer.call(RefineObject, "refine_object", refined).success
    status, result = goal.end()
    assert (status, result.end) == (GoalStatus.STATUS_ABORTED, Result.LOST)
    assert result.object.area == 40 * 30, "as last seen"
    assert goal.feedback[-1].out_of_sight > 0


def test_a_goal_that_waits_for_its_frame_is_not_taken_for_another(client: Client) -> None:
    """While one goal runs and another waits for an image that never comes; its object is none of those there."""
    other = client.peer.add(box_prompt(*BOX)).results[0].object_id
    running = client.send(ObjectPrompt(object_id=other))
    running.wait_for_feedback()
    header = client.peer.image().header
    header.stamp.sec += 1000
    waiting = client.send(box_prompt(*BOX), request_header=header, remove_at_end=True)
    status, result = waiting.end()
    assert (status, result.end, result.object_id) == (GoalStatus.STATUS_ABORTED, Result.REFUSED, 0)
    assert not waiting.feedback
    assert [obj.id for obj in client.peer.list_objects().tracks.objects] == [other]
    running.handle.cancel_goal_async()
    assert running.end()[1].end == Result.CANCELED


@pytest.mark.parametrize(
    ("goal", "code", "reason"),
    [
        ({}, PromptResult.INVALID_PROMPT, "neither a prompt, an object nor wait_for"),
        ({"wait_for": "cup", "prompt": box_prompt(*BOX)}, PromptResult.INVALID_PROMPT, "both wait_for and a prompt"),
        ({"wait_for": "a\nb"}, PromptResult.INVALID_PROMPT, "wait_for"),
        ({"prompt": box_prompt(*BOX), "time_limit": -1.0}, PromptResult.INVALID_PROMPT, "time_limit is -1; accepted"),
        ({"prompt": box_prompt(*BOX), "find_timeout": math.nan}, PromptResult.INVALID_PROMPT, "find_timeout is nan"),
        ({"prompt": box_prompt(60, 50, 20, 20)}, PromptResult.INVALID_PROMPT, "box"),
        ({"prompt": ObjectPrompt(name="nobody")}, PromptResult.UNKNOWN_OBJECT, "no living object has the name"),
    ],
)
def test_goals_that_are_refused_say_why(client: Client, goal: dict[str, Any], code: int, reason: str) -> None:
    status, result = client.send(**goal).end()
    assert (status, result.end, result.prompt_code) == (GoalStatus.STATUS_ABORTED, Result.REFUSED, code)
    assert reason in result.message


def test_goals_end_with_the_nodes_activity(client: Client) -> None:
    goal = client.send(box_prompt(*BOX))
    goal.wait_for_feedback()
    assert client.peer.change_state(Transition.TRANSITION_DEACTIVATE)
    status, result = goal.end()
    assert (status, result.end) == (GoalStatus.STATUS_ABORTED, Result.NODE_INACTIVE)
    status, result = client.send(box_prompt(*BOX)).end()
    assert (status, result.end) == (GoalStatus.STATUS_ABORTED, Result.NODE_INACTIVE)
    assert client.peer.change_state(Transition.TRANSITION_ACTIVATE)
    client.peer.track()
    assert client.send(box_prompt(*BOX), time_limit=0.1).end()[0] == GoalStatus.STATUS_SUCCEEDED


def follow(peer: Peer, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sam2_ros", "follow", "--node", peer.node_name, "--timeout", "60", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_line_follows(client: Client) -> None:
    """To the time limit, and to Ctrl-C; and it says what it can't do."""
    peer = client.peer
    with peer.camera():
        with follow(peer, "--box", "20", "20", "60", "50", "--name", "cup", "--time-limit", "1") as limited:
            out, err = limited.communicate(timeout=PATIENCE)
        assert limited.returncode == 0, err
        first, *_, last = out.splitlines()
        assert re.fullmatch(r"\d+ cup visible 1\.00, middle 40 35, 1200 px, mask \d+\.\d\d s old", first)
        assert last == "followed for 1 s"
        with follow(peer, "--object", "cup", "--remove") as stopped:
            assert stopped.stdout is not None and "cup visible" in stopped.stdout.readline()
            stopped.send_signal(signal.SIGINT)
            assert stopped.wait(PATIENCE) == 130
        peer.wait_until(lambda: not peer.list_objects().tracks.objects, "the removal")
        for options, code, reason in (
            (("--object", "cup"), 1, "no living object has the name or id 'cup'"),
            ((), 2, "give one of: a prompt"),
            (("--wait-for", "cup", "--find-timeout", "0.5"), 1, "not seen within 0.5 s"),
        ):
            with follow(peer, *options) as refused:
                out, err = refused.communicate(timeout=PATIENCE)
            assert refused.returncode == code and reason in out + err


def test_the_command_line_says_that_its_node_has_died(folder: Path, parameters_file: Path) -> None:
    """Another process takes its place with the object, but knows nothing of the goal."""
    arguments = {"params_file": str(parameters_file), "use_respawn": "true"}
    with running(folder, namespace="/dying", **arguments) as node:
        node.wait_for_state("active")
        node.wait_for_reliable()
        assert node.launched is not None
        with node.camera(), follow(node, "--box", "20", "20", "60", "50", "--name", "cup") as following:
            assert following.stdout is not None and "cup visible" in following.stdout.readline()
            os.kill(node.launched.node_pid(), signal.SIGKILL)
            _, err = following.communicate(timeout=PATIENCE)
        assert following.returncode == 2 and "/dying/tracker/track_object is gone; the node has ended" in err
        assert [obj.name for obj in node.list_objects().tracks.objects] == ["cup"]
