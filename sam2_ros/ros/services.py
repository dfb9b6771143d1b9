"""The node's services. A request waits for the engine without blocking the executor, and always gets a response."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import rclpy.task
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import qos_profile_services_default
from std_msgs.msg import Header

from sam2_ros.inference import commands
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.worker import Worker
from sam2_ros.ros import messages, prompt_messages
from sam2_ros.ros.interface import SERVICES
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.srv import AddObjects, ListObjects, RefineObject, RemoveObject, RenameObject, Reset
from sam2_ros.tracking.types import FrameResult, ObjectResult, PromptCode, PromptError, PromptResult

T = TypeVar("T")
Handler = Callable[[Any, Any], Awaitable[None]]


def _publish_calls(node: Node, service: Any) -> None:
    """Publishes requests and responses on ``…/_service_event`` for recordings (not on Humble)."""
    if hasattr(service, "configure_introspection"):
        from rclpy.service_introspection import ServiceIntrospectionState

        state = ServiceIntrospectionState.CONTENTS
        service.configure_introspection(node.get_clock(), qos_profile_services_default, state)


class Services:
    """Offers the services in every state; ``worker`` raises :class:`PromptError` while the node is not active."""

    def __init__(self, node: Node, parameters: NodeParameters, worker: Callable[[], Worker], camera: str = "") -> None:
        """``camera`` becomes part of the services' names where a node has several cameras."""
        self._node = node
        self._parameters = parameters
        self._worker = worker
        self._camera = camera
        # Reentrant: a waiting request does not block others. It awaits a future, so one executor thread serves all.
        group = ReentrantCallbackGroup()
        handlers: dict[str, Handler] = {
            "~/add_objects": self._add_objects,
            "~/refine_object": self._refine_object,
            "~/remove_object": self._remove_object,
            "~/rename_object": self._rename_object,
            "~/list_objects": self._list_objects,
            "~/reset": self._reset,
        }
        for declared in SERVICES:
            service = node.create_service(
                declared.service_type,
                declared.for_camera(camera),
                self._answering(handlers[declared.name]),
                callback_group=group,
            )
            _publish_calls(node, service)

    async def _add_objects(self, request: AddObjects.Request, response: AddObjects.Response) -> None:
        asked = prompt_messages.from_add_objects(request)
        try:
            stamp = messages.to_stamp(request.request_header.stamp)
            results, living = await self._on_frame(
                lambda backend: (commands.add(backend, asked, stamp), commands.living(backend)), stamp
            )
        except PromptError as error:
            response.results = self._to_messages([commands.refusal(error)] * len(asked))
            raise
        response.object_ids, response.object_indices = messages.ids_and_indices(living)
        response.results = self._to_messages(results)
        response.success = bool(results) and all(result.success for result in results)
        response.message = _summary(results)

    async def _refine_object(self, request: RefineObject.Request, response: RefineObject.Response) -> None:
        asked = prompt_messages.from_prompt(request.prompt)
        try:
            stamp = messages.to_stamp(request.request_header.stamp)
            result = await self._on_frame(lambda backend: commands.refine(backend, asked, stamp), stamp)
        except PromptError as error:
            (response.result,) = self._to_messages([commands.refusal(error)])
            raise
        (response.result,) = self._to_messages([result])
        response.success, response.message = result.success, result.message

    async def _remove_object(self, request: RemoveObject.Request, response: RemoveObject.Response) -> None:
        def remove(backend: Backend) -> tuple[int, Sequence[ObjectResult]]:
            return commands.remove(backend, request.object_id), commands.living(backend)

        object_id, living = await self._call(remove)
        response.object_ids, response.object_indices = messages.ids_and_indices(living)
        response.success, response.message = True, f"object {object_id} is forgotten"

    async def _rename_object(self, request: RenameObject.Request, response: RenameObject.Response) -> None:
        object_id = await self._call(
            lambda backend: commands.rename(backend, request.object_id, request.name, request.label)
        )
        response.success = True
        response.message = f"object {object_id} has the name '{request.name}' and the label '{request.label}'"

    async def _list_objects(self, request: ListObjects.Request, response: ListObjects.Response) -> None:
        worker = self._worker()

        def collect(backend: Backend) -> tuple[FrameResult, Header] | None:
            objects, newest = backend.objects(), worker.newest
            return (objects, newest.source) if objects and newest else None

        info, found = await self._call(lambda backend: (backend.info, collect(backend)))
        response.success, response.message = True, "no frame was processed yet"
        if found is None:
            return
        result, header = found
        response.tracks = messages.tracked_objects(
            result, header, worker.counters, info, self._parameters.text("output.mask_encoding"), request.with_masks
        )
        response.tracks.camera = self._camera
        response.message = f"{len(result.objects)} of {info.max_objects} objects"

    async def _reset(self, request: Reset.Request, response: Reset.Response) -> None:
        response.removed = await self._call(lambda backend: backend.reset())
        response.success, response.message = True, f"{response.removed} objects are forgotten"

    def _answering(self, handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
        """Turns exceptions of ``handler`` into responses; they would end the node's executor."""

        async def answer(request: Any, response: Any) -> Any:
            try:
                await handler(request, response)
            except PromptError as refusal:
                response.success, response.message = False, str(refusal)
            except Exception as error:
                self._node.get_logger().error(f"{type(request).__name__} failed: {type(error).__name__}: {error}")
                response.success, response.message = False, f"the engine failed: {type(error).__name__}: {error}"
            return response

        return answer

    async def _call(self, apply: Callable[[Backend], T]) -> T:
        return await self._result_of(self._worker().call(apply))

    async def _on_frame(self, apply: Callable[[Backend], T], stamp: int) -> T:
        """As :meth:`_call`, once the frame of ``stamp`` is there. An error of the engine becomes a FAILED prompt."""
        wait = self._parameters.number("prompts.wait")
        try:
            return await self._result_of(self._worker().call_on_frame(apply, stamp, wait))
        except PromptError:
            raise
        except Exception as error:
            self._node.get_logger().error(f"a prompt failed: {type(error).__name__}: {error}")
            raise PromptError(PromptCode.FAILED, f"the engine failed: {type(error).__name__}: {error}") from error

    async def _result_of(self, future: concurrent.futures.Future[T]) -> T:
        """Awaits a result of the inference thread, which passes through the executor's thread-safe queue."""
        executor = self._node.executor
        assert executor is not None, "services run in an executor"
        done = rclpy.task.Future(executor=executor)
        future.add_done_callback(lambda _: executor.create_task(done.set_result, None))
        await done
        return future.result()

    def _to_messages(self, results: Sequence[PromptResult]) -> list[Any]:
        encoding = self._parameters.text("output.mask_encoding")
        return [messages.prompt_result(result, encoding) for result in results]


def _summary(results: Sequence[PromptResult]) -> str:
    if not results:
        return "the request holds no prompt; fill prompts or the flat fields"
    refused = [result.message for result in results if not result.success]
    accepted = f"{len(results) - len(refused)} of {len(results)} prompts accepted"
    return accepted if not refused else f"{accepted}; first refusal: {refused[0]}"
