"""``sam2_ros track``: tracks objects through a video, a folder of images or a camera, and writes the tracks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import SOURCE_HELP, add_endpoint_arguments, add_model_arguments, check_positive, load_backend
from sam2_ros.media.errors import UserError

if TYPE_CHECKING:
    from sam2_ros.inference.backend import Backend
    from sam2_ros.inference.clip_tracker import Tracked
    from sam2_ros.media.frame_sources import Source
    from sam2_ros.media.prompts_file import FramePrompt
    from sam2_ros.media.track_table import FrameRecord

OUTPUTS = ("masks_out", "video_out", "json_out", "picture_out")


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "track",
        help="track objects through a video, a folder of images or a camera",
        description="Tracks the objects of a prompts file through SOURCE; every frame is processed. A damaged video "
        "is tracked as far as it can be read. Frames after a hole keep their numbers. If frames are missing at the "
        "end, or at a place that can't be told, the exit code is 2.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help=SOURCE_HELP)
    add("--prompts", type=Path, required=True, metavar="FILE.json", help="which objects, and where")
    add_model_arguments(parser)
    add_endpoint_arguments(parser)
    add("--masks-out", type=Path, metavar="DIR", help="label images as PNG, one for each frame")
    add("--video-out", type=Path, metavar="FILE", help="the frames with the objects drawn in: .mp4, .gif or .webp")
    add("--json-out", type=Path, metavar="FILE.json", help="states, boxes and scores of every frame")
    add(
        "--picture-out",
        type=Path,
        metavar="FILE.png",
        help="one picture: frames around changes of state, and states and scores over time",
    )
    add("--max-frames", type=int, metavar="N", help="stop after N frames")
    add("--fps", type=float, metavar="F", help="frame rate of SOURCE, if its own is missing or wrong")
    add("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sam2_ros.inference.clip_tracker import ClipTracker
    from sam2_ros.media.frame_sources import open_source
    from sam2_ros.media.progress import bar
    from sam2_ros.media.prompts_file import load_prompts

    check_positive(args, "max_frames", "fps")
    prompts = load_prompts(args.prompts)
    source = open_source(args.source, args.fps)
    _check_outputs(args)
    _check_frames(prompts, source.length, args)
    frame_count = min((n for n in (source.length, args.max_frames) if n is not None), default=None)
    object_ids = {prompt.object_id for prompt in prompts}
    with ExitStack() as stack:
        backend = stack.enter_context(closing(load_backend(args, len(object_ids))))
        tracker = ClipTracker(backend, prompts)
        outputs = stack.enter_context(closing(_Outputs(args, source, tracker, wide=max(object_ids) > 255)))
        progress = stack.enter_context(bar(frame_count, "frame", args.quiet))
        try:
            for tracked in tracker.run(source):
                outputs.add(tracked)
                progress.update()
                if outputs.count == args.max_frames:
                    break
        except KeyboardInterrupt:
            print("sam2_ros: stopped; the tracks so far are written", file=sys.stderr)
        outputs.write(backend)
        if not args.quiet:
            progress.close()
            print(outputs.summary(backend))
    if tracker.pending and args.max_frames is None:
        raise UserError(
            f"{args.prompts}: there is a prompt for frame {tracker.pending[0].frame}, but {args.source} ended after "
            f"{outputs.count} frames (the first one is frame 0); the other prompts were applied"
        )
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuses to overwrite the inputs."""
    for name in OUTPUTS:
        output = getattr(args, name)
        for what, read in (("SOURCE", Path(args.source)), ("the --prompts file", args.prompts)):
            if output and output.exists() and read.exists() and output.samefile(read):
                kind = "folder" if output.is_dir() else "file"
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} {output} is {what} itself and would be overwritten; use another {kind}")


def _check_frames(prompts: Sequence[FramePrompt], length: int | None, args: argparse.Namespace) -> None:
    """Refuses prompts for frames that can't come, before any work starts."""
    last, limit = prompts[-1].frame, args.max_frames
    if length is not None and last >= length:
        raise UserError(
            f"{args.prompts}: there is a prompt for frame {last}; {args.source} has frames 0 to {length - 1}"
        )
    if limit is not None and prompts[0].frame >= limit:
        raise UserError(f"{args.prompts}: the first prompt is for frame {prompts[0].frame}; --max-frames is {limit}")


class _Outputs:
    """The files that the user asked for."""

    def __init__(self, args: argparse.Namespace, source: Source, tracker: Any, wide: bool) -> None:
        from sam2_ros.media.figures import Storyboard
        from sam2_ros.media.video_writer import VideoWriter

        self._args, self._source, self._tracker, self._wide = args, source, tracker, wide
        self._records: list[FrameRecord] = []
        self._seconds: list[float] = []
        self._size = (0, 0)
        if args.masks_out:
            args.masks_out.mkdir(parents=True, exist_ok=True)
        for file in (args.video_out, args.json_out, args.picture_out):
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
        self._video = VideoWriter(args.video_out, source.fps) if args.video_out else None
        title = f"{Path(args.source).name}: state, visibility and predicted IoU"
        self._story = Storyboard(title) if args.picture_out else None

    @property
    def count(self) -> int:
        return len(self._records)

    def add(self, tracked: Tracked) -> None:
        from sam2_ros.media.label_images import compose_labels, write_labels
        from sam2_ros.media.overlay import draw_overlay
        from sam2_ros.media.track_table import record

        frame, result, file_id = tracked.frame, tracked.result, self._tracker.file_id
        self._size = (result.width, result.height)
        self._records.append(record(result, frame.index, frame.name, file_id))
        self._seconds.append(tracked.seconds)
        if self._args.masks_out:
            objects = [(file_id(obj.object_id), obj) for obj in result.objects]
            labels = compose_labels(objects, result.height, result.width, self._wide)
            write_labels(self._args.masks_out / f"{frame.name}.png", labels)
        if self._video or self._story:
            drawn = draw_overlay(frame.rgb, result, ids=file_id)
            if self._video:
                self._video.write(drawn)
            if self._story:
                self._story.add(drawn, self._records[-1])

    def write(self, backend: Backend) -> None:
        """Writes the picture and the table."""
        from sam2_ros.media.figures import write_png
        from sam2_ros.media.track_table import write_json

        if self._story and self._records:
            write_png(self._args.picture_out, self._story.draw())
        if self._args.json_out:
            info, (width, height) = backend.info, self._size
            about = {"source": self._args.source, "model": info.model, "device": info.device, "dtype": info.dtype}
            about |= {"width": width, "height": height, "fps": self._source.fps}
            write_json(self._args.json_out, self._records, about)

    def summary(self, backend: Backend) -> str:
        from sam2_ros.media.track_table import summary_table

        seconds = sum(self._seconds)
        rate = f"{len(self._seconds) / seconds:.1f}" if seconds else "-"
        size = f"{self._size[0]}x{self._size[1]}"
        line = f"{self.count} frames of {size}, {backend.info.model} on {backend.info.device}: {rate} frames/s"
        written = [f"written: {file}" for name in OUTPUTS if (file := getattr(self._args, name))]
        return "\n".join([summary_table(self._records), line, *written])

    def close(self) -> None:
        if self._video:
            self._video.close()
