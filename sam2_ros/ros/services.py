"""The node's services. A request waits for the engine without blocking the executor, and always gets a response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import rclpy.task
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import qos_profile_services_default
from std_srvs.srv import Trigger

from sam2_ros.inference import commands
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.worker import Worker
from sam2_ros.ros import messages, prompt_messages
from sam2_ros.ros.image_requests import ImageRequest
from sam2_ros.ros.interface import SERVICES
from sam2_ros.ros.node_parameters import NodeParameters
from sam2_ros.srv import AddObjects, ListObjects, RefineObject, RemoveObject, RenameObject, Reset, SegmentImage
from sam2_ros.text import counted, printable
from sam2_ros.tracking.types import PromptCode, PromptError, PromptResult

T = TypeVar("T")
Handler = Callable[[Any, Any], Awaitable[None]]


class Services:
    """Offers the services in every state; ``worker`` raises :class:`PromptError` while the node is not active."""

    def __init__(
        self,
        node: Node,
        parameters: NodeParameters,
        worker: Callable[[], Worker],
        search: Callable[[], Future[list[int]]],
        camera: str = "",
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._worker = worker
        self._search = search  # for what no track covers; gives the ids of new objects
        self._segmenting = False
        self._camera = camera
        # Reentrant: a waiting request does not block others. It awaits a future, so one executor thread serves all.
        group = ReentrantCallbackGroup()
        for declared in SERVICES:
            handler = getattr(self, declared.name.replace("~/", "_"))  # ~/add_objects: _add_objects
            service = node.create_service(
                declared.ros_type, declared.for_camera(camera), self._answering(handler), callback_group=group
            )
            # For recordings; not on Humble. Of other services it would publish whole images and masks.
            if declared.recorded and hasattr(service, "configure_introspection"):
                from rclpy.service_introspection import ServiceIntrospectionState

                contents = ServiceIntrospectionState.CONTENTS
                service.configure_introspection(node.get_clock(), qos_profile_services_default, contents)

    async def _add_objects(self, request: AddObjects.Request, response: AddObjects.Response) -> None:
        asked = prompt_messages.from_add_objects(request)
        try:
            stamp = messages.to_stamp(request.request_header.stamp)
            results, living = await self.call(
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
            result = await self.call(lambda backend: commands.refine(backend, asked, stamp), stamp)
        except PromptError as error:
            (response.result,) = self._to_messages([commands.refusal(error)])
            raise
        (response.result,) = self._to_messages([result])
        response.success, response.message = result.success, result.message

    async def _remove_object(self, request: RemoveObject.Request, response: RemoveObject.Response) -> None:
        object_id, living = await self.call(
            lambda backend: (commands.remove(backend, request.object_id), commands.living(backend))
        )
        response.object_ids, response.object_indices = messages.ids_and_indices(living)
        response.success, response.message = True, f"object {object_id} is forgotten"

    async def _rename_object(self, request: RenameObject.Request, response: RenameObject.Response) -> None:
        object_id = await self.call(
            lambda backend: commands.rename(backend, request.object_id, request.name, request.label)
        )
        response.success = True
        response.message = f"object {object_id} has the name '{request.name}' and the label '{request.label}'"

    async def _list_objects(self, request: ListObjects.Request, response: ListObjects.Response) -> None:
        worker = self._worker()
        info, result, newest = await self.call(lambda backend: (backend.info, backend.objects(), worker.newest))
        response.success, response.message = True, "no frame was processed yet; if none comes, the node's log says why"
        if result is None or newest is None:
            return
        encoding = self._parameters.text("output.mask_encoding")
        response.tracks = messages.tracked_objects(
            result, newest.source, worker.counters, info, encoding, request.with_masks
        )
        response.tracks.camera = self._camera
        response.message = f"{len(result.objects)} of {info.max_objects} objects"

    async def _segment_image(self, request: SegmentImage.Request, response: SegmentImage.Response) -> None:
        asked = ImageRequest(request, self._worker())
        if self._segmenting:
            raise PromptError(PromptCode.FAILED, "another image is being segmented; wait for its answer")
        self._segmenting = True
        try:
            slices, found = await self.call(asked.begin), None
            while found is None:
                found = await self.call(lambda backend: commands.advance(slices))
        finally:
            self._segmenting = False
        results = asked.results(found)
        response.header, response.results = asked.header, self._to_messages(results)
        response.success = all(result.success for result in results)
        response.message = f"{counted(len(results), 'object')} found" if request.everything else _summary(results)

    async def _discover(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self._worker()  # which refuses where the node is not active
        added = await self._result(self._search())
        listed = f": {', '.join(map(str, added))}" if added else "; tracks cover all that was found"
        response.success, response.message = True, f"{counted(len(added), 'object')} added{listed}"

    async def _reset(self, request: Reset.Request, response: Reset.Response) -> None:
        response.removed = await self.call(lambda backend: backend.reset())
        response.success, response.message = True, f"{counted(response.removed, 'object')} forgotten"

    def _answering(self, handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
        """Turns exceptions of ``handler`` into responses; they would end the node's executor."""

        async def answer(request: Any, response: Any) -> Any:
            try:
                await handler(request, response)
            except PromptError as refusal:
                response.success, response.message = False, str(refusal)
            except Exception as error:
                problem = f"{type(error).__name__}: {printable(error, 500)}"
                failed = f"{type(request).__name__} failed: {problem} (logged every 5 s at most)"
                self._node.get_logger().error(failed, throttle_duration_sec=5.0)
                response.success, response.message = False, f"the engine failed: {problem}"
            return response

        return answer

    async def call(self, apply: Callable[[Backend], T], stamp: int | None = None) -> T:
        """The result of ``apply`` in the inference thread; with a ``stamp`` once that frame is there.

        Raises:
            PromptError: refused; FAILED for an error of the engine.
        """
        worker = self._worker()
        if stamp is None:
            future = worker.call(apply)
        else:
            future = worker.call_on_frame(apply, stamp, self._parameters.number("prompts.wait"))
        return await self._result(future)

    async def _result(self, future: Future[T]) -> T:
        """The result of ``future``; raises as :meth:`_call`."""
        executor = self._node.executor
        assert executor is not None, "services run in an executor"
        done = rclpy.task.Future(executor=executor)
        future.add_done_callback(lambda _: executor.create_task(done.set_result, None))  # its queue is thread-safe
        await done
        try:
            return future.result()
        except PromptError:
            raise
        except Exception as error:
            problem = f"the engine failed: {type(error).__name__}: {printable(error, 500)}"
            self._node.get_logger().error(f"{problem} (logged every 5 s at most)", throttle_duration_sec=5.0)
            raise PromptError(PromptCode.FAILED, problem) from error

    def _to_messages(self, results: Sequence[PromptResult]) -> list[Any]:
        encoding = self._parameters.text("output.mask_encoding")
        return [messages.prompt_result(result, encoding) for result in results]


def _summary(results: Sequence[PromptResult]) -> str:
    if not results:
        return "the request holds no prompt; fill prompts or the flat fields"
    refused = [result.message for result in results if not result.success]
    accepted = f"{len(results) - len(refused)} of {len(results)} prompts accepted"
    return accepted if not refused else f"{accepted}; first refusal: {refused[0]}"
