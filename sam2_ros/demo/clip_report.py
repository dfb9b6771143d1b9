"""The demo's files for a clip: video, contact sheet, timeline, and the tracks as tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sam2_ros.media.figures import contact_sheet, spread, timeline, write_png
from sam2_ros.media.frame_sources import VideoFile
from sam2_ros.media.overlay import Rgb, draw_overlay
from sam2_ros.media.track_table import FrameRecord, record, summary_table, write_csv
from sam2_ros.media.video_writer import VideoWriter
from sam2_ros.media.whole_files import write_whole
from sam2_ros.text import counted
from sam2_ros.tracking.types import FrameResult, ObjectState

SHEET_CELLS = 12


@dataclass(frozen=True)
class Report:
    """The result of a clip."""

    name: str
    frames: int  # tracked
    dropped: int  # replaced by newer frames while the engine was busy
    rate: float  # tracked frames a second
    visible: int  # frames in which the object was seen
    files: tuple[Path, ...]
    stopped: BaseException | None = None  # what ended it before the clip's end: an error or a signal


class ReportWriter:
    """Collects the tracked frames of a clip. Writes ``NAME_overlay.mp4`` as they come, the other files at the end.

    The video runs at ``fps`` by the frames' stamps: each frame stays until the next tracked one, so that dropped frames
    are visible.
    """

    def __init__(self, folder: Path, name: str, fps: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name, self._fps = folder, name, fps
        self._video_path = folder / f"{name}_overlay.mp4"
        self._video = VideoWriter(self._video_path, fps)
        self._records: list[FrameRecord] = []
        self._shown: Rgb | None = None  # the newest frame with its objects
        self._written = 0

    @property
    def frames(self) -> int:
        return len(self._records)

    @property
    def visible(self) -> int:
        """Frames so far in which at least one object was seen."""
        return sum(any(row.state is ObjectState.VISIBLE for row in frame.objects) for frame in self._records)

    def add(self, rgb: Rgb, result: FrameResult) -> None:
        """Appends a frame (``uint8 [H, W, 3]``) with its result; frames come in the order of their stamps."""
        index = len(self._records)
        row = record(result, index, f"{index:06d}")
        seconds = (row.stamp - (self._records[0] if self._records else row).stamp) / 1e9
        self._hold_until(round(seconds * self._fps))
        self._shown = draw_overlay(rgb, result, caption=f"{seconds:.1f} s")
        self._records.append(row)  # last, so that an interrupt leaves no record without its picture

    def finish(self, dropped: int, rate: float, stopped: BaseException | None = None) -> Report:
        """Completes the video and writes the pictures and tables.

        Raises:
            ValueError: no frame was added.
        """
        if not self._records:
            raise ValueError(f"no frame of {self._name} was tracked")
        self._hold_until(self._written + 1)
        self._video.close()
        sheet, graph, table, text = (
            self._folder / f"{self._name}_{suffix}"
            for suffix in ("contact_sheet.png", "timeline.png", "tracks.csv", "tracks.txt")
        )
        wanted = set(spread(self._written, SHEET_CELLS))
        frames = [(frame.rgb, "") for frame in VideoFile(self._video_path) if frame.index in wanted]
        write_png(sheet, contact_sheet(frames))
        write_png(graph, timeline(self._records, title=f"{self._name}: state, visibility and predicted IoU"))
        write_csv(table, self._records)
        heading = f"{self._name}: {counted(self.frames, 'frame')} tracked at {rate:.1f} frames/s, {dropped} dropped"
        write_whole(text, f"{heading}\n\n{summary_table(self._records)}\n")
        files = (self._video_path, sheet, graph, table, text)
        return Report(self._name, self.frames, dropped, rate, self.visible, files, stopped)

    def close(self) -> None:
        """Completes the video as it is."""
        self._video.close()

    def _hold_until(self, count: int) -> None:
        """Repeats the last frame until the video has ``count`` frames."""
        while self._shown is not None and self._written < count:
            self._video.write(self._shown)
            self._written += 1
