"""Tracks the objects of a prompts file through a sequence of frames, every frame processed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sam2_ros.inference.backend import Backend, FrameDropped, FrameRefused
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import Frame
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking.types import FrameResult, PromptCode, PromptRequest

_RETRY_PERIOD = 0.05  # s


@dataclass(frozen=True)
class Tracked:
    """A frame, its objects with the prompts of this frame applied, and the seconds that the engine took."""

    frame: Frame
    result: FrameResult
    seconds: float


class ClipTracker:
    """Applies each prompt on its frame: the first one of an object adds it, later ones correct it.

    The engine hands out its own ids; :meth:`file_id` gives the prompts file's id for one of them, or for the negative
    one that :meth:`engine_id` gives for an object that has none yet. ``pending`` are the prompts whose frame has not
    come.

    Args:
        patience: seconds for which a frame or prompt waits for another server when its own is lost. Less than the
            time that an answer may take, so that nothing is asked twice of a server that is only slow.
    """

    def __init__(self, backend: Backend, prompts: Sequence[FramePrompt], patience: float = 0.0) -> None:
        self._backend = backend
        self._patience = patience
        self._frame: Frame | None = None  # the present one
        self.pending = sorted(prompts, key=lambda prompt: prompt.frame)
        self._engine_ids: dict[int, int] = {}  # by the file's id
        self._file_ids: dict[int, int] = {}  # by the engine's id

    def file_id(self, engine_id: int) -> int:
        """The prompts file's id for one of the engine's."""
        return self._file_ids[engine_id] if engine_id > 0 else -engine_id

    def engine_id(self, file_id: int) -> int:
        """The engine's id for one of the prompts file, or a negative one before the first prompt was applied."""
        return self._engine_ids.get(file_id, -file_id)

    def run(self, frames: Iterable[Frame]) -> Iterator[Tracked]:
        """Yields every frame with its result.

        Raises:
            UserError: the engine refused a prompt, or can't be reached; or a prompt's frame is missing.
        """
        for frame in frames:
            start = time.perf_counter()
            self._frame = frame
            result = self._step()
            due = [prompt for prompt in self.pending if prompt.frame <= frame.index]
            if due and due[0].frame < frame.index:
                raise UserError(f"there is a prompt for frame {due[0].frame}, which could not be read")
            if due:
                self.pending = self.pending[len(due) :]
                result = self.correct(due)
            yield Tracked(frame, result, time.perf_counter() - start)

    def _step(self) -> FrameResult:
        """Tracks the present frame; when its server is lost, by the next one that answers."""
        frame, deadline = self._frame, time.monotonic() + self._patience
        assert frame is not None
        while True:
            try:
                return self._backend.step(frame.rgb, frame.stamp)
            except (FrameDropped, FrameRefused) as error:
                if isinstance(error, FrameRefused) or time.monotonic() >= deadline:
                    raise UserError(f"frame {frame.index} ({frame.name}) was not tracked: {error}") from error
            time.sleep(_RETRY_PERIOD)

    def correct(self, prompts: Sequence[FramePrompt]) -> FrameResult:
        """Applies prompts to the newest frame and returns its objects.

        Raises:
            UserError: the engine refused a prompt.
        """
        for prompt in prompts:
            self._apply(prompt)
        result = self._backend.objects()
        assert result is not None, "a prompt was applied before the first frame"
        return result

    def _apply(self, prompt: FramePrompt) -> None:
        engine_id = self._engine_ids.get(prompt.object_id)
        request = PromptRequest(prompt.prompt, engine_id, prompt.name, prompt.label)
        deadline = time.monotonic() + self._patience
        while (answer := self._backend.add([request])[0]).code is PromptCode.FAILED and time.monotonic() < deadline:
            self._step()  # the server was lost, and the next one has to see the frame first
        if not answer.success:
            raise UserError(f"prompt for object {prompt.object_id} on frame {prompt.frame}: {answer.message}")
        self._engine_ids[prompt.object_id] = answer.object_id
        self._file_ids[answer.object_id] = prompt.object_id
