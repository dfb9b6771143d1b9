"""``sam2_ros track``: tracks objects through a video, a folder of images or a camera, and writes the tracks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import (
    SERVER_PATIENCE,
    SOURCE_HELP,
    add_endpoint_arguments,
    add_live_arguments,
    add_model_arguments,
    add_tracker_arguments,
    check_live,
    check_positive,
    load_backend,
)
from sam2_ros.media.errors import UserError
from sam2_ros.media.signals import signals_wait
from sam2_ros.text import counted, without_password

if TYPE_CHECKING:
    from sam2_ros.inference.backend import Backend
    from sam2_ros.inference.clip_tracker import ClipTracker, Tracked
    from sam2_ros.media.clip_outputs import ClipOutputs, Input
    from sam2_ros.media.frame_sources import Frame, Source
    from sam2_ros.media.prompts_file import FramePrompt

FPS = (0.1, 1000.0)  # frames a second that a video can have


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
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--prompts", type=Path, metavar="FILE.json", help="which objects, and where")
    which.add_argument(
        "--like", type=Path, action="append", metavar="FILE",
        help="a picture of an object (JPEG or PNG), which is tracked when something that looks like it appears; may be "
        "given again for another object",
    )  # fmt: skip
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
    add_tracker_arguments(parser, "; --windows also draws them into video and picture")
    add_live_arguments(
        parser,
        "play SOURCE at RATE images a second while the engine takes its time; write for every image the masks that a "
        "robot would have when the image comes: the newest ones, carried to it",
    )
    add("--max-frames", type=int, metavar="N", help="stop after N frames")
    add("--fps", type=float, metavar="F", help="frame rate of SOURCE, if its own is missing or wrong")
    add("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sam2_ros.inference.clip_tracker import ClipTracker
    from sam2_ros.media.clip_outputs import ClipOutputs, OutputPaths
    from sam2_ros.media.frame_sources import open_source
    from sam2_ros.media.progress import bar
    from sam2_ros.media.prompts_file import load_prompts

    check_positive(args, "max_frames", "fps")
    check_live(args)
    if args.fps is not None and not FPS[0] <= args.fps <= FPS[1]:
        raise UserError(f"--fps is {args.fps:g}; accepted: {FPS[0]:g} to {FPS[1]:g} frames a second")
    prompts = load_prompts(args.prompts) if args.prompts else [_like(*item) for item in enumerate(args.like, 1)]
    args.named = args.prompts or "--like"
    source = open_source(args.source, args.fps)
    _check_frames(prompts, source.length, args)
    paths = OutputPaths(args.masks_out, args.video_out, args.json_out, args.picture_out)
    paths.check(args.source, _inputs(args, prompts))
    frame_count = min((n for n in (source.length, args.max_frames) if n is not None), default=None)
    object_ids = {prompt.object_id for prompt in prompts}
    with ExitStack() as stack:
        backend = stack.enter_context(closing(load_backend(args, len(object_ids))))
        tracker = ClipTracker(backend, prompts, SERVER_PATIENCE if args.endpoint else 0.0)
        outputs = ClipOutputs(
            paths,
            without_password(args.source),
            source.fps,
            tracker.file_id,
            wide=max(object_ids) > 255,
            windows=bool(args.windows),
        )
        progress = stack.enter_context(bar(frame_count, "frame", args.quiet))
        errors: list[BaseException] = []
        try:
            for tracked in _tracked(tracker, _checked_frames(source, prompts, args), args):
                outputs.add(tracked.frame, tracked.result, tracked.seconds)
                progress.update()
                if outputs.count == args.max_frames:
                    break
        except (Exception, KeyboardInterrupt) as error:
            errors.append(error)
        with signals_wait():
            progress.close()
            errors += _finish(outputs, backend, args.quiet)
            if errors:
                _say_kept(outputs, errors[1:])
                raise errors[0]
    if tracker.pending and args.max_frames is None:
        first = tracker.pending[0].frame
        why = f"{without_password(args.source)} ended after {outputs.count} frames (the first one is frame 0)"
        if args.live is not None and first < outputs.count:
            why = f"{without_password(args.source)} ended before the engine was free for it (see --live)"
        raise UserError(
            f"{args.named}: there is a prompt for frame {first}, but {why}; the prompts before it were applied"
        )
    return 0


def _tracked(tracker: ClipTracker, frames: Iterator[Frame], args: argparse.Namespace) -> Iterator[Tracked]:
    """Every frame with its own result; with --live, with the one that is there when the frame comes."""
    if args.live is None:
        yield from tracker.run(frames)
        return
    from sam2_ros.inference.clip_tracker import Tracked
    from sam2_ros.inference.live_clip import LiveClip
    from sam2_ros.tracking.types import FrameResult

    for live in LiveClip(tracker, args.live, args.latency, deadline=0.0).run(frames):
        height, width = live.frame.rgb.shape[:2]
        nothing = FrameResult(live.frame.index, live.frame.stamp, width, height, ())
        yield Tracked(live.frame, live.carried.result if live.carried else nothing, live.seconds)


def _inputs(args: argparse.Namespace, prompts: Sequence[FramePrompt]) -> list[Input]:
    """What is read, and must not be written."""
    options = (("SOURCE", args.source), ("the --prompts file", args.prompts), ("the --model file", args.model))
    keys = (("the --key file", args.key), ("the --server-key file", args.server_key))
    pictures = [("a picture of the prompts", file) for prompt in prompts for file in prompt.files]
    return [(what, Path(path)) for what, path in (*options, *keys) if path] + pictures


def _like(object_id: int, path: Path) -> FramePrompt:
    """The prompt for an object that looks like a picture."""
    from sam2_ros.media.prompt_pictures import read_picture, shrunk
    from sam2_ros.media.prompts_file import FramePrompt
    from sam2_ros.tracking.types import Prompt

    return FramePrompt(0, object_id, shrunk(Prompt(like=read_picture(path))), files=(path,))


def _check_frames(prompts: Sequence[FramePrompt], length: int | None, args: argparse.Namespace) -> None:
    """Refuses prompts for frames that can't come, before any work starts."""
    last, limit = prompts[-1].frame, args.max_frames
    if length is not None and last >= length:
        raise UserError(
            f"{args.named}: there is a prompt for frame {last}; {without_password(args.source)} has frames 0 to "
            f"{length - 1}"
        )
    if limit is not None and prompts[0].frame >= limit:
        raise UserError(f"{args.prompts}: the first prompt is for frame {prompts[0].frame}; --max-frames is {limit}")


def _checked_frames(source: Source, prompts: Sequence[FramePrompt], args: argparse.Namespace) -> Iterator[Frame]:
    """The frames of ``source``. Refuses prompts that do not fit the first one, before it is tracked.

    Raises:
        UserError: there is no frame, or a prompt does not fit.
    """
    from sam2_ros.tracking.prompt_checks import check_request
    from sam2_ros.tracking.types import PromptError, PromptRequest

    frames = iter(source)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{without_password(args.source)}: there is no frame")
    height, width = first.rgb.shape[:2]
    known: set[int] = set()
    for prompt in prompts:
        number = prompt.object_id if prompt.object_id in known else None
        known.add(prompt.object_id)
        try:
            check_request(PromptRequest(prompt.prompt, number, prompt.name, prompt.label), (width, height))
        except PromptError as error:
            raise UserError(
                f"{args.named}: prompt for object {prompt.object_id} on frame {prompt.frame}: {error}"
            ) from None
    yield from chain([first], frames)


def _finish(outputs: ClipOutputs, backend: Backend, quiet: bool) -> list[Exception]:
    """Completes the files and prints the summary; returns the errors."""
    info = backend.info
    errors = outputs.finish({"model": info.model, "device": info.device, "dtype": info.dtype})
    if outputs.count and not quiet:
        print(outputs.summary(info.model, info.device))
        if outputs.removed:
            print(f"removed: {counted(outputs.removed, 'label image')} of the run before")
    return errors


def _say_kept(outputs: ClipOutputs, further: Sequence[BaseException]) -> None:
    """Says what an error left; ``further`` came while the files were completed."""
    for error in further:
        print(f"sam2_ros: {error}", file=sys.stderr)
    if outputs.count:
        kept = ", ".join(map(str, outputs.written)) or "nothing"
        print(f"sam2_ros: {counted(outputs.count, 'frame')} tracked; written: {kept}", file=sys.stderr)
