"""``sam2_ros demo``: plays camera footage over a ROS 2 topic, tracks an object in it and writes pictures."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import ROS_MODULES, add_model_arguments, check_positive, load_backend, require_modules
from sam2_ros.media.errors import UserError
from sam2_ros.media.whole_files import make_folder
from sam2_ros.text import counted

if TYPE_CHECKING:
    from sam2_ros.demo.clip_report import Report
    from sam2_ros.demo.footage import Clip

DEFAULT_RATE = 10.0  # Hz; two CPU cores drop few frames at this rate
CAMERA_FRAMES = 300


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="track an object in camera footage over ROS 2 and write pictures",
        description="Publishes camera footage (fetched once, then cached; offline a rendered scene), starts the node, "
        "adds an object by its service, and writes video, pictures and tables to --out.",
    )
    parser.add_argument("--source", metavar="VIDEO", help="your own: any SOURCE of 'sam2_ros track'")
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="the object in the first frame of --source, in pixels (default: a click in the middle of the image)",
    )
    parser.add_argument("--out", type=Path, default=Path("demo_output"), metavar="DIR", help="default: demo_output")
    parser.add_argument("--frames", type=int, metavar="N", help=f"play N frames (default: all; camera {CAMERA_FRAMES})")
    parser.add_argument("--rate", type=float, default=DEFAULT_RATE, help="frames published a second (default: 10)")
    parser.add_argument("--rendered", action="store_true", help="play the rendered scene, without a download")
    parser.add_argument("--no-ros", action="store_true", help="run the engine directly, every frame, without ROS 2")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code, 1 when an object was never seen."""
    if args.box is not None and args.source is None:
        raise UserError("--box belongs to --source; the demo's own clips have theirs")
    check_positive(args, "rate", "frames")
    if not args.no_ros:
        require_modules(
            ROS_MODULES,
            "in a checkout run 'make demo', which sets ROS 2 up; with ROS 2 installed, source its setup file and that "
            "of the workspace; or run without ROS: sam2_ros demo --no-ros",
        )
    if args.frames is None and args.source is not None and _is_live(args.source):
        args.frames = CAMERA_FRAMES
    reports: list[Report] = []
    for clip in _choose_clips(args):
        if args.no_ros:
            from sam2_ros.demo.without_ros import track

            with closing(load_backend(args, 1)) as backend:
                reports.append(track(clip, backend, args.out, args.frames, args.quiet))
        else:
            from sam2_ros.demo.clip_player import play

            reports.append(play(clip, args))
        if reports[-1].stopped:
            break
    _print_summary(reports)
    if reports[-1].stopped:
        raise reports[-1].stopped
    return 0 if all(report.visible for report in reports) else 1


def _is_live(source: str) -> bool:
    return "://" in source or source.startswith("/dev/") or (source.isdecimal() and not Path(source).exists())


def _choose_clips(args: argparse.Namespace) -> list[Clip]:
    from sam2_ros.demo.footage import Clip, NoFootageError, real_clips, rendered_clip

    make_folder(args.out)
    if args.source is not None:
        if args.box is None:
            _say("without --box, the object in the middle of the first frame is tracked")
        name = f"camera{args.source}" if args.source.isdecimal() else Path(args.source).stem
        return [Clip(args.source, name, "object", tuple(args.box) if args.box else None)]
    if not args.rendered:
        try:
            return real_clips(_say)
        except NoFootageError as error:
            _say(f"no real footage: {error}; playing a rendered scene instead")
    return [rendered_clip(args.out)]


def _print_summary(reports: list[Report]) -> None:
    for report in reports:
        print(
            f"\n{report.name}: {counted(report.frames, 'frame')} tracked at {report.rate:.1f} frames/s, "
            f"{report.dropped} dropped; the object was seen in {report.visible}"
        )
        for file in report.files:
            print(f"  {file}")
        if not report.visible:
            print("  the object was never seen")


def _say(text: str) -> None:
    print(f"sam2_ros: {text}", file=sys.stderr)
