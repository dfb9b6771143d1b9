"""Objects that are there from the start: the prompts file, applied to the first frame."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from rclpy.impl.rcutils_logger import RcutilsLogger

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.worker import Worker
from sam2_ros.tracking.types import AddRequest, PromptError, PromptResult

if TYPE_CHECKING:
    from sam2_ros.media.prompts_file import FramePrompt

_A_YEAR = 365 * 24 * 3600.0  # seconds; the first frame may take its time


class StartPrompts:
    """Prompts that wait for the first frame after configure, over deactivations too."""

    def __init__(self, prompts: list[FramePrompt]) -> None:
        self._waiting = prompts

    @classmethod
    def load(cls, path: str) -> StartPrompts:
        """Reads ``path``; an empty one means no prompts.

        Raises:
            UserError: the file can't be used.
            ValueError: a prompt is for another frame than the first, which on a live camera nobody can name.
        """
        if not path:
            return cls([])
        from sam2_ros.media.prompts_file import load_prompts

        prompts = load_prompts(path)
        for prompt in prompts:
            if prompt.frame != 0:
                raise ValueError(
                    f"prompts_file {path}: a prompt is for frame {prompt.frame}; accepted for a live camera: frame 0, "
                    "the first; send later prompts through ~/add_objects"
                )
        return cls(prompts)

    def apply_to_first_frame(self, worker: Worker, logger: RcutilsLogger) -> None:
        if not self._waiting:
            return

        def report(done: Future[list[PromptResult]]) -> None:
            try:
                results = done.result()
            except PromptError:
                return  # deactivated before the first frame; the next activation tries again
            except Exception as error:
                logger.error(f"prompts_file could not be applied: {type(error).__name__}: {error}")
                return
            for result in results:
                # Two calls in two lines: rclpy ties a severity to the line that logs.
                if result.success:
                    logger.info(f"prompts_file: {result.message}")
                else:
                    logger.error(f"prompts_file: {result.message}")

        worker.call_on_frame(self._apply, wait=_A_YEAR).add_done_callback(report)

    def _apply(self, backend: Backend) -> list[PromptResult]:
        """The first prompt of a file's object makes it, the following ones correct it."""
        prompts, self._waiting = self._waiting, []
        ids: dict[int, int] = {}  # the file's to the tracker's
        results = []
        for each in prompts:
            request = AddRequest(each.prompt, ids.get(each.object_id), each.name, each.label)
            if request.object_id is None:
                (result,) = backend.add([request])
                if result.success:
                    ids[each.object_id] = result.object_id
            else:
                result = backend.refine(request)
            results.append(result)
        return results
