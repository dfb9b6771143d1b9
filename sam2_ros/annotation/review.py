"""Correcting a data set on a page: what a person asks for, one thing after the other, and what becomes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from operator import methodcaller
from typing import Any

from sam2_ros.annotation.corrections import Corrections, Version
from sam2_ros.annotation.corrector import Corrector
from sam2_ros.annotation.data_set import DataSet, write_data_set
from sam2_ros.annotation.edits import EDITS, Answer, frame_of, no, no_object, yes
from sam2_ros.annotation.propagation import propagate
from sam2_ros.annotation.recordings import Images
from sam2_ros.annotation.results import UNSAVED, forget_result, read_unsaved, write_result
from sam2_ros.annotation.reviewed import Reviewed
from sam2_ros.annotation.two_ways import ANYTHING
from sam2_ros.inference.backend import Backend
from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import note
from sam2_ros.text import counted
from sam2_ros.tracking.types import PromptError
from sam2_ros.viewer.page_commands import BadCommand, Command, read_number, read_request, read_stamp, short
from sam2_ros.viewer.session import Browser

KEPT_S = 5.0  # at most, until a correction is on the disk
_TOLD_S = 0.5  # between two messages of work that goes on
_BUSY = "the review is busy; wait for the end, or press Stop"


class Review:
    """The recordings of a data set on the page (:class:`~sam2_ros.viewer.session.Hub`).

    Corrections wait on the disk, beside the data set, until they are saved.

    Args:
        make_backend: a backend without objects, for so many.
        max_side: of the pictures, in pixels.
    """

    def __init__(
        self, data_set: DataSet, corrector: Corrector, make_backend: Callable[[int], Backend], max_side: int = 1280
    ) -> None:
        self._data_set, self._corrector, self._make_backend = data_set, corrector, make_backend
        self._loop = asyncio.get_running_loop()
        self._sessions: frozenset[Browser] = frozenset()
        self.cameras: dict[str, Reviewed] = {}
        for recording in data_set.recordings:
            unsaved = read_unsaved(data_set.out, recording)
            images = Images(data_set.out / data_set.images / recording.name, recording.images)
            corrections = Corrections(recording, unsaved)
            self.cameras[recording.name] = Reviewed(corrections, images, max_side, self._wake)
        self._worker = ThreadPoolExecutor(1, "review")  # changes everything, one after the other
        self._stop = threading.Event()
        self._busy = False  # with what takes long
        self._on_disk = {name: each.corrections.now for name, each in self.cameras.items()}
        self._disk = threading.Lock()  # guards what is written
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep_all, name="keeper", daemon=True)
        self._keeper.start()

    @property
    def unsaved(self) -> list[str]:
        """The recordings with corrections that are not in the data set."""
        return [name for name, each in self.cameras.items() if each.corrections.changed]

    # -- for the sessions, in the event loop ---------------------------------------------------------------------

    def camera_names(self) -> list[str]:
        return list(self.cameras)

    def join(self, session: Browser) -> None:
        self._sessions |= {session}

    def leave(self, session: Browser) -> None:
        self._sessions -= {session}

    def now(self) -> int:
        return time.time_ns()

    def log(self, text: str) -> None:
        note(text)

    def close(self) -> None:
        """Ends what goes on. Corrections that were not saved stay on the disk."""
        self._stop.set()
        self._worker.shutdown()
        self._closed.set()
        self._keeper.join()

    async def call(self, command: dict[str, Any]) -> Answer:
        """See :class:`~sam2_ros.viewer.session.Hub`."""
        kind = command.get("type")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise BadCommand(f"unknown command {short(kind)}; accepted: {', '.join(_KINDS)}")
        name = str(command.get("camera", ""))
        if name not in self.cameras:
            raise BadCommand(f"no recording '{name[:100]}'; there are: {', '.join(self.cameras)[:1000]}")
        reviewed = self.cameras[name]
        work = partial(_KINDS[kind], self, reviewed, command)
        if kind in ("seek", "stop"):
            return work()
        if self._busy:
            return no(_BUSY)
        try:
            return await self._loop.run_in_executor(self._worker, self._unless_busy, work)
        except PromptError as error:
            raise BadCommand(str(error)) from error
        except UserError as error:
            return no(str(error))

    def _unless_busy(self, work: Callable[[], Answer]) -> Answer:
        """Does it, unless a command that came just before began something that takes long."""
        return no(_BUSY) if self._busy else work()

    # -- commands; all but seek and stop in the worker's thread --------------------------------------------------

    def _seek(self, reviewed: Reviewed, command: Command) -> Answer:
        return yes(number=reviewed.show(frame_of(reviewed, command.get("frame"))))

    def _end(self, reviewed: Reviewed, command: Command) -> Answer:
        self._stop.set()
        return yes()

    def _prompt(self, reviewed: Reviewed, command: Command) -> Answer:
        request = read_request(command)
        if request.prompt.like is not None:
            raise BadCommand("a picture is looked for in a stream; accepted here: clicks and boxes")
        frame = frame_of(reviewed, read_stamp(command))
        now = reviewed.corrections.now
        adds = command["type"] == "add"
        if not adds and request.object_id not in now.labels:
            raise BadCommand(no_object(reviewed, request.object_id))
        key = max(now.labels, default=0) + 1 if adds or request.object_id is None else request.object_id
        mask, answer = self._corrector.segment(reviewed, frame, key, request.prompt)
        if not answer.mask.crop.size:
            return no("the network finds nothing there; mark it with a box")
        if adds:
            now = now.with_label(key, request.label or _usual(now.labels))
        self._add(reviewed, now.with_masks({(frame, key): mask}, by_person=True))
        offered = answer.candidates if adds and request.prompt.box is None else ()
        return yes(
            object_id=key, name=now.labels[key], area=answer.mask.area, predicted_iou=round(answer.predicted_iou, 3),
            candidates=[{"index": c.index, "area": c.mask.area, "predicted_iou": c.predicted_iou} for c in offered],
        )  # fmt: skip

    def _edit(self, reviewed: Reviewed, command: Command) -> Answer:
        before = reviewed.corrections.now
        version, answer = EDITS[command["type"]](reviewed, command)
        if version.masks is not before.masks:
            self._corrector.forget()
        self._add(reviewed, version)
        return answer

    def _undo(self, reviewed: Reviewed, command: Command) -> Answer:
        if not reviewed.corrections.can_undo:
            return no("there is nothing to take back")
        reviewed.corrections.undo()
        self._corrector.forget()
        self._shown(reviewed)
        return yes()

    def _propagate(self, reviewed: Reviewed, command: Command) -> Answer:
        """Which objects are propagated: the chosen one, or all that were corrected in this image."""
        frame, now = frame_of(reviewed, command.get("frame")), reviewed.corrections.now
        wanted = read_number(command.get("object_id", 0))
        here = (key for at, key in now.corrected if at == frame and (at, key) in now.masks)
        keys = [wanted] if wanted else sorted(here)
        if self._data_set.stills:
            return no("the images are no sequence (--stills): there is nothing to track")
        if not keys:
            return no("nothing was corrected in this image; correct an object, or choose one")
        if (frame, keys[0]) not in now.masks:
            return no(f"object {keys[0]} has no mask in this image; mark it first")
        self._begin(reviewed, "tracking", partial(self._track, reviewed, frame, keys))
        return yes()

    def _save(self, reviewed: Reviewed, command: Command) -> Answer:
        self._begin(reviewed, "saving", self._write)
        return yes()

    # -- work that takes long: the page is told at the end -------------------------------------------------------

    def _begin(self, reviewed: Reviewed, what: str, work: Callable[[], str]) -> None:
        self._busy = True
        self._stop.clear()
        reviewed.work = what
        self._tell(reviewed.overview())
        self._worker.submit(self._finish, reviewed, work)

    def _finish(self, reviewed: Reviewed, work: Callable[[], str]) -> None:
        said, level = "", "info"
        try:
            said = work()
        except Exception as error:  # it ends the work, not the review
            said, level = str(error) or type(error).__name__, "error"
            self.log(said)
        finally:
            reviewed.work = ""
            self._busy = False
            self._shown(reviewed)
            self._tell({"type": "notice", "level": level, "message": said})

    def _track(self, reviewed: Reviewed, frame: int, keys: list[int]) -> str:
        corrections = reviewed.corrections
        # The mask from which it goes is right: it ends other ways that come by.
        start = corrections.now.with_masks({(frame, key): corrections.now.masks[frame, key] for key in keys}, True)
        corrections.add(start)
        self._corrector.forget()
        reached = {1: frame, -1: frame}
        told, changed = 0.0, 0
        for step in (1, -1):
            for changes in propagate(self._make_backend(len(keys)), reviewed.images, start, frame, keys, step):
                corrections.now = corrections.now.with_masks(changes, by_person=False)
                reached[step] += step
                changed += len(changes)
                if self._stop.is_set():
                    return f"stopped: {counted(changed, 'mask')} changed"
                if time.monotonic() - told > _TOLD_S:
                    told = time.monotonic()
                    reviewed.work = f"tracking, image {reached[step]}"
                    self._tell(reviewed.overview())
        return f"tracked to images {reached[-1]} and {reached[1]}: {counted(changed, 'mask')} changed"

    def _write(self) -> str:
        out, unsaved = self._data_set.out, self.unsaved
        results = [each.corrections.result() for each in self.cameras.values()]
        with self._disk:
            for name in unsaved:  # first, so that a save that is interrupted can be done again
                self._keep(name, self.cameras[name].corrections)
                self.cameras[name].corrections.saving()
            for result in results:
                if result.name in unsaved:
                    write_result(out, result)
            doubtful = write_data_set(out, self._data_set.format, results)
            for name, each in self.cameras.items():
                forget_result(out, name, UNSAVED)
                each.corrections.saved()
                self._on_disk[name] = each.corrections.now
                self._tell(each.overview())
        masks = sum(len(result.masks) for result in results)
        saved = f"saved in {out}: {counted(masks, 'mask')} in {counted(len(results), 'recording')}"
        return f"{saved}, {counted(doubtful, 'image')} to look at"

    # -- what follows from them ----------------------------------------------------------------------------------

    def _add(self, reviewed: Reviewed, version: Version) -> None:
        reviewed.corrections.add(version)
        self._shown(reviewed)

    def _shown(self, reviewed: Reviewed) -> None:
        reviewed.show()
        self._tell(reviewed.overview())

    def _keep_all(self) -> None:
        """In the keeper's thread: writes what is not on the disk yet, until the end."""
        ended = False
        while not ended:
            ended = self._closed.wait(KEPT_S)
            for name, each in self.cameras.items():
                try:
                    with self._disk:
                        self._keep(name, each.corrections)
                except UserError as error:
                    note(str(error))

    def _keep(self, name: str, corrections: Corrections) -> None:
        now = corrections.now
        if now is self._on_disk[name]:
            return
        if corrections.changed:
            write_result(self._data_set.out, corrections.result(), UNSAVED)
        else:
            forget_result(self._data_set.out, name, UNSAVED)
        self._on_disk[name] = now

    def _wake(self) -> None:
        self._for_all(methodcaller("wake"))

    def _tell(self, message: Mapping[str, object]) -> None:
        self._for_all(methodcaller("send", message))

    def _for_all(self, tell: Callable[[Browser], None]) -> None:
        """Calls ``tell`` for every session, in the event loop."""

        def run() -> None:
            for session in self._sessions:
                tell(session)

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(run)


_KINDS: dict[str, Callable[[Review, Reviewed, Command], Answer]] = {
    "seek": Review._seek, "stop": Review._end, "add": Review._prompt, "refine": Review._prompt,
    "undo": Review._undo, "propagate": Review._propagate, "save": Review._save, **dict.fromkeys(EDITS, Review._edit),
}  # fmt: skip


def _usual(labels: Mapping[int, str]) -> str:
    """The label that most objects have."""
    return Counter(labels.values()).most_common(1)[0][0] if labels else ANYTHING
