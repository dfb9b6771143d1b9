"""``sam2_ros annotate``: makes a data set of recordings: masks, boxes, ids and labels for every image."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import add_model_arguments, check_least, require_modules
from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.media.whole_files import make_folder
from sam2_ros.text import counted, printable

if TYPE_CHECKING:
    from sam2_ros.annotation.engine import Engine, EngineSettings
    from sam2_ros.annotation.recordings import Recording

_EVERY, _EVERY_SEARCHED = 5, 30  # images
_MOST_OBJECTS = 32
_DETECTORS = "a detector's ONNX file, people, recorded:TOPIC, everything, or a prompts file (.json)"
_CURE = "python3 -m pip install 'sam2_ros[annotate]'"


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "annotate",
        help="make a data set of recordings: a detector finds the objects, the tracker follows them",
        description="Writes images, masks, boxes, ids and labels of recordings as a data set. A detector looks at "
        "every few images; the tracker follows what it finds both ways in time. review.json lists the images that a "
        "person should look at. Run it again to go on after an interruption: finished recordings are skipped. One "
        "that can't be read does not stop the rest; it is named at the end, and the exit code is 1.",
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folders of images, videos, rosbag2 folders and MCAP files; ROS is not needed",
    )
    add("--detector", required=True, metavar="DETECTOR", help=f"what finds the objects: {_DETECTORS}")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the data set")
    add("--format", default="coco", choices=("coco", "yolo", "davis", "mots"), help="of the data set (default: coco)")
    add(
        "--labels", default="", metavar="FILE", help="names of the detector's classes, one a line, if its file has none"
    )
    add("--min-score", type=float, default=0.5, metavar="S", help="leave out detections below it (default: 0.5)")
    add(
        "--every",
        type=int,
        metavar="N",
        help=f"detect on every N-th image (default: {_EVERY}; everything: {_EVERY_SEARCHED})",
    )
    add("--topic", default="", metavar="TOPIC", help="of a bag's images, if it has several")
    add("--stills", action="store_true", help="the images of a folder are no sequence: nothing is tracked")
    add("--windows", action="store_true", help="look through windows that follow the objects, for small ones; slower")
    add("--max-objects", type=int, default=_MOST_OBJECTS, metavar="N", help=f"at a time (default: {_MOST_OBJECTS})")
    add(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="spread the recordings over a Ray cluster, which sees DIR and the sources under the same paths (without "
        "ADDRESS: over this machine; auto: the one that runs here)",
    )
    add_model_arguments(parser)
    add("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    require_modules(("pycocotools",), f"install it: {_CURE}")
    from sam2_ros.annotation.recordings import find_recordings

    check_least(args, every=1, max_objects=1)
    if not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}; accepted: 0 to 1")
    args.every = args.every or (_EVERY_SEARCHED if args.detector == "everything" else _EVERY)
    recordings = find_recordings(args.sources, args.out)
    if args.detector.endswith(".json") and len(recordings) > 1:
        raise UserError(f"a prompts file belongs to one recording; there are {len(recordings)}")
    with engine_errors():
        from sam2_ros.annotation.engine import EngineSettings
        from sam2_ros.annotation.folder import in_use

        settings = EngineSettings(**{each.name: getattr(args, each.name) for each in fields(EngineSettings)})
        engine = settings.make()
    make_folder(args.out)
    with in_use(args.out, "annotate"):
        return _annotate(args, recordings, settings, engine)


def _annotate(
    args: argparse.Namespace, recordings: Sequence[Recording], settings: EngineSettings, engine: Engine
) -> int:
    from sam2_ros.annotation.data_set import open_data_set
    from sam2_ros.annotation.job import Report, annotate, one_by_one
    from sam2_ros.media.progress import bar

    given = {recording.name for recording in recordings}
    others = [name for name in open_data_set(args.out, settings) if name not in given]
    report = Report()
    with bar(None, "image", args.quiet) as progress:

        def say(line: str) -> None:
            if not args.quiet:
                progress.clear()
                print(line, flush=True)

        try:
            say(engine.method.about)
            work = one_by_one(engine)
            if args.ray:
                from sam2_ros.annotation.cluster import on_ray

                work = on_ray(settings, args.ray)
            annotate(recordings, args.out, settings, work, report, progress, say)
        except (UserError, KeyboardInterrupt):
            progress.close()
            print(
                f"sam2_ros: {len(report.finished)} of {len(recordings)} recordings are finished, in {args.out}; the "
                "same command goes on with the rest",
                file=sys.stderr,
            )
            raise
    if not args.quiet:
        if report.finished:
            masks = sum(len(each.masks) for each in report.finished)
            order = ", the most doubtful first" if report.doubtful else ""
            print(f"{counted(masks, 'mask')} in {counted(len(report.finished), 'recording')}; "
                  f"{counted(report.doubtful, 'image')} to look at{order}: "
                  f"sam2_ros review {shlex.quote(str(args.out))}")  # fmt: skip
        if report.annotated:
            print(report.speed)
        if others and report.finished:
            print(f"{counted(len(others), 'recording')} of earlier commands left out: "
                  f"{printable(', '.join(others))}; name them too to have them in the data set")  # fmt: skip
        if failed := len(recordings) - len(report.finished):
            print(f"{failed} of {len(recordings)} recordings failed")
    paths = {recording.name: recording.path for recording in recordings}
    for name, problem in report.problems.items():
        # A problem of the file itself begins with its path, which tells more than the name.
        named = problem if problem.startswith(f"{paths[name]}:") else f"{name}: {problem}"
        print(f"sam2_ros: {printable(named, 1000)}", file=sys.stderr)
    return 1 if report.problems else 0
