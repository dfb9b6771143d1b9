"""Applies the prompts file to the first frame."""

from __future__ import annotations

from concurrent.futures import Future

from rclpy.impl.rcutils_logger import RcutilsLogger

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.worker import Worker
from sam2_ros.media.prompts_file import load_prompts
from sam2_ros.tracking.types import PromptError, PromptRequest, PromptResult

_A_YEAR = 365 * 24 * 3600.0  # seconds to wait for the first frame


class StartPrompts:
    """Prompts that wait for the first frame after configure, across deactivations too."""

    def __init__(self, path: str) -> None:
        """Reads ``path``; an empty one means no prompts.

        Raises:
            UserError: the file can't be used.
            ValueError: a prompt is for a later frame, which a live camera does not number.
        """
        self._waiting = load_prompts(path) if path else []
        for prompt in self._waiting:
            if prompt.frame != 0:
                raise ValueError(
                    f"prompts_file {path}: a prompt is for frame {prompt.frame}; accepted for a live camera: frame 0, "
                    "the first; send later prompts through ~/add_objects"
                )

    def apply_to_first_frame(self, worker: Worker, logger: RcutilsLogger) -> None:
        if not self._waiting:
            return

        def report(done: Future[list[PromptResult]]) -> None:
            try:
                results = done.result()
            except PromptError:
                return  # deactivated before the first frame: the next activation tries again
            except Exception as error:
                logger.error(f"prompts_file could not be applied: {type(error).__name__}: {error}")
                return
            for result in results:
                # Two lines, because rclpy allows one severity for each calling line.
                if result.success:
                    logger.info(f"prompts_file: {result.message}")
                else:
                    logger.error(f"prompts_file: {result.message}")

        worker.call_on_frame(self._apply, wait=_A_YEAR).add_done_callback(report)

    def _apply(self, backend: Backend) -> list[PromptResult]:
        """Adds an object with its first prompt and corrects it with the others."""
        prompts, self._waiting = self._waiting, []
        ids: dict[int, int] = {}  # of the tracker, by those of the file
        results = []
        for prompt in prompts:
            request = PromptRequest(prompt.prompt, ids.get(prompt.object_id), prompt.name, prompt.label)
            result = backend.add([request])[0] if request.object_id is None else backend.refine(request)
            if result.success:
                ids[prompt.object_id] = result.object_id
            results.append(result)
        return results


def prompts_file_of(path: str, camera: str) -> str:
    """The camera's own file, which the parameter ``prompts_file`` names.

    Raises:
        ValueError: all of several cameras would have the same.
    """
    if path and camera and "{camera}" not in path:
        raise ValueError(
            f"prompts_file is '{path}', and the node has several cameras; accepted: a path with {{camera}} in it, "
            "which stands for each camera's name"
        )
    return path.replace("{camera}", camera) if camera else path
