"""The action ``~/track_object``: follows one object for a client until something ends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import rclpy.task
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer

from sam2_ros.action import TrackObject
from sam2_ros.inference import commands
from sam2_ros.ros import messages, prompt_messages
from sam2_ros.ros.depth_input import Space
from sam2_ros.ros.interface import TRACK_OBJECT
from sam2_ros.ros.services import Services
from sam2_ros.text import printable
from sam2_ros.tracking.prompt_checks import text_problem
from sam2_ros.tracking.types import FrameResult, ObjectResult, PromptCode, PromptError

Result = TrackObject.Result

MOST_GOALS = 64  # at a time, for each camera; further ones are rejected
GRACE = 5.0  # seconds until a new object must be part of a frame
PERIOD = 0.1  # seconds between looks at the goals, and so between their feedback


@dataclass(frozen=True)
class Now:
    """What goals are judged by."""

    active: bool  # the node
    result: FrameResult | None  # of the newest processed frame
    space: Space  # of that frame's objects
    image_stamp: int  # ns, of the newest camera image


@dataclass
class _Goal:
    handle: ServerGoalHandle
    ended: rclpy.task.Future
    started: float = field(default_factory=time.monotonic)  # steady seconds, like the next
    begun: float = 0.0  # when its prompt was accepted; 0: not yet
    seen_at: float = 0.0  # when it was in sight last; 0: never
    object_id: int = 0
    found: bool = False  # among the objects of a frame
    object: ObjectResult | None = None  # as last seen
    space: Space = field(default_factory=Space)  # at that time
    told: tuple[int, int] = (-1, -1)  # stamps of image and mask of the newest feedback

    @property
    def asked(self) -> TrackObject.Goal:
        return self.handle.request


class Goals:
    """Offers the action in every state of the node; goals end with NODE_INACTIVE while it is not active.

    Everything runs in the executor: a timer looks at the newest frame while there are goals.
    """

    def __init__(self, node: Node, services: Services, now: Callable[[], Now], camera: str = "") -> None:
        self._node = node
        self._services = services
        self._now = now
        self._goals: list[_Goal] = []
        self._timer: Timer | None = None
        self._group = ReentrantCallbackGroup()
        ActionServer(  # the node holds it

            node, TrackObject, TRACK_OBJECT.for_camera(camera), self._execute, callback_group=self._group,
            goal_callback=self._accepts, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip

    def _accepts(self, _: TrackObject.Goal) -> GoalResponse:
        return GoalResponse.ACCEPT if len(self._goals) < MOST_GOALS else GoalResponse.REJECT

    async def _execute(self, handle: ServerGoalHandle) -> TrackObject.Result:
        goal = _Goal(handle, rclpy.task.Future(executor=self._node.executor))
        self._goals.append(goal)
        try:
            result = await self._follow(goal)
            if goal.object_id and goal.asked.remove_at_end and result.end != Result.REMOVED:
                await self._remove(goal.object_id)
        except Exception as error:  # rclpy would only log it, and leave the client without an answer
            result = _refused(PromptCode.FAILED, f"{type(error).__name__}: {printable(error, 500)}")
        finally:
            self._goals.remove(goal)
            self._stop_looking()
        result.object_id = goal.object_id
        if goal.object is not None:
            result.object = messages.tracked_object(goal.object, "mono8")
            messages.locate(result.object, goal.space.positions, goal.space.motions)
        if result.end == Result.CANCELED:
            handle.canceled()
        elif result.end == Result.TIME_LIMIT:
            handle.succeed()
        else:
            handle.abort()
        return result

    async def _follow(self, goal: _Goal) -> TrackObject.Result:
        try:
            _check(goal.asked)
            goal.object_id = await self._begin(goal.asked)
        except PromptError as refusal:
            if refusal.code is PromptCode.NOT_ACTIVE:
                return _end(Result.NODE_INACTIVE, str(refusal))
            return _refused(refusal.code, str(refusal))
        goal.begun = time.monotonic()
        if self._timer is None:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._timer = self._node.create_timer(PERIOD, self._look, callback_group=self._group, clock=steady)
        result: TrackObject.Result = await goal.ended
        return result

    async def _begin(self, asked: TrackObject.Goal) -> int:
        """The object's id; 0 if it is yet to come.

        Raises:
            PromptError: refused.
        """
        prompt = asked.prompt
        if asked.wait_for:
            await self._services.call(lambda _: None)  # which refuses where the node is not active
            return 0
        if not _draws(prompt) and (prompt.object_id or prompt.name):
            known = prompt.name or str(prompt.object_id)
            return int(await self._services.call(lambda backend: commands.find(backend, known)))
        request = prompt_messages.from_prompt(prompt)
        stamp = messages.to_stamp(asked.request_header.stamp)
        (result,) = await self._services.call(lambda backend: commands.add(backend, [request], stamp), stamp)
        if not result.success:
            raise PromptError(result.code, result.message)
        return int(result.object_id)

    async def _remove(self, object_id: int) -> None:
        with suppress(PromptError):  # it is gone already, or the node is not active
            await self._services.call(lambda backend: backend.remove(object_id))

    def _look(self) -> None:
        now = self._now()
        for goal in list(self._goals):
            if goal.begun and not goal.ended.done() and (result := _judge(goal, now)) is not None:
                goal.ended.set_result(result)

    def _stop_looking(self) -> None:
        if not self._goals and self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None


def _judge(goal: _Goal, now: Now) -> TrackObject.Result | None:
    """Notes what is seen of a goal's object and tells the client; the result if that ends the goal."""
    asked, clock = goal.asked, time.monotonic()
    if goal.handle.is_cancel_requested:
        return _end(Result.CANCELED, "canceled by the client")
    if not now.active:
        return _end(Result.NODE_INACTIVE, "the node is no longer active")
    found = _find(goal, now.result)
    if found is None and goal.object_id and (goal.found or clock - goal.begun > GRACE):
        return _end(Result.REMOVED, f"object {goal.object_id} was removed")
    if found is not None:
        goal.object_id, goal.found = found.object_id, True
        if found.mask.crop.size:
            goal.object, goal.space, goal.seen_at = found, now.space, clock
        _tell(goal, found, now, clock)
    if asked.time_limit and clock - goal.started >= asked.time_limit:
        return _end(Result.TIME_LIMIT, f"followed for {asked.time_limit:g} s")
    if not goal.seen_at:
        if asked.find_timeout and clock - goal.started >= asked.find_timeout:
            return _end(Result.NOT_FOUND, f"not seen within {asked.find_timeout:g} s")
    elif asked.lost_timeout and clock - goal.seen_at >= asked.lost_timeout:
        return _end(Result.LOST, f"out of sight for {asked.lost_timeout:g} s")
    return None


def _find(goal: _Goal, result: FrameResult | None) -> ObjectResult | None:
    objects = result.objects if result is not None else ()
    if goal.object_id:
        return next((obj for obj in objects if obj.object_id == goal.object_id), None)
    return next((obj for obj in objects if goal.asked.wait_for in (obj.name, obj.label)), None)


def _tell(goal: _Goal, found: ObjectResult, now: Now, clock: float) -> None:
    """Sends feedback if there is anything new."""
    assert now.result is not None
    stamps = now.result.stamp, found.last_seen
    if stamps == goal.told:
        return
    goal.told = stamps
    feedback = TrackObject.Feedback(object=messages.tracked_object(found, "mono8", with_mask=False))
    messages.locate(feedback.object, now.space.positions, now.space.motions)
    feedback.stamp = messages.to_time(now.result.stamp)
    feedback.mask_age = max(0, now.image_stamp - found.last_seen) / 1e9 if found.last_seen else math.inf
    feedback.out_of_sight = 0.0 if found.mask.crop.size else clock - (goal.seen_at or goal.started)
    goal.handle.publish_feedback(feedback)


def _check(asked: TrackObject.Goal) -> None:
    """
    Raises:
        PromptError: times that are none, or a goal that names nothing or two things.
    """
    for name in ("find_timeout", "lost_timeout", "time_limit"):
        seconds = getattr(asked, name)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise _invalid(f"{name} is {seconds:g}; accepted: seconds from 0 on, 0 = no limit")
    if problem := text_problem(asked.wait_for):
        raise _invalid(f"wait_for {problem}")
    prompt = asked.prompt
    given = _draws(prompt) or bool(prompt.object_id or prompt.name)
    if given == bool(asked.wait_for):
        both = "both wait_for and a prompt" if given else "neither a prompt, an object nor wait_for"
        raise _invalid(f"the goal has {both}; give a prompt, the id or name of an object, or wait_for")


def _draws(prompt: Any) -> bool:
    """Whether a prompt says where or what the object is."""
    return bool(prompt.box or prompt.points or prompt.mask.width or prompt.like.width)


def _invalid(problem: str) -> PromptError:
    return PromptError(PromptCode.INVALID_PROMPT, problem)


def _refused(code: PromptCode, problem: str) -> TrackObject.Result:
    result = _end(Result.REFUSED, problem)
    result.prompt_code = int(code)
    return result


def _end(end: int, message: str) -> TrackObject.Result:
    return Result(end=end, message=message)
