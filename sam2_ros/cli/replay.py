"""``sam2_ros replay``: tracks a recording again, the same images and prompts, and compares."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from sam2_ros.cli.options import RECORDING_CURE, require_modules
from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.model.config import HIERA
from sam2_ros.text import counted, printable

DIFFERENT = 1  # exit code: the tracks are not the same


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "replay",
        help="track a recording again and compare",
        description="Feeds the images that the tracker processed, and the prompts as they were applied, to the engine "
        "once more, and compares every mask with the recorded one. Exit code 1 where they differ. A file that is "
        "damaged or cut is replayed up to there.",
    )
    parser.add_argument("file", type=Path, help="what 'sam2_ros record' wrote")
    parser.add_argument("--model", help="another model (default: the recorded one, if it was no path)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not args.file.is_file():
        raise UserError(f"{args.file}: no such file")
    require_modules(("mcap", "rclpy"), RECORDING_CURE)
    from sam2_ros.inference import make_backend
    from sam2_ros.media.progress import bar
    from sam2_ros.ros.parameters import tracker_config
    from sam2_ros.ros.recording_reader import Recording
    from sam2_ros.ros.recording_replay import Comparison, replay

    recording = Recording(args.file)
    values = recording.parameters
    model = args.model or _known_model(str(values["model.name"]), args.file)
    with engine_errors():
        backend = make_backend(
            model, args.device, values["model.dtype"], tracker_config(values),
            image_size=values["model.image_size"], threads=values["model.threads"],
            runtime=values.get("model.runtime", "torch"), ahead=values.get("model.encode_ahead", False),
        )  # fmt: skip
    comparison = Comparison()
    with closing(backend), bar(len(recording.frames), "frame", args.quiet) as progress:
        for masks, recorded in replay(recording, backend):
            comparison.add(masks, recorded)
            progress.update()
    if not comparison.masks:
        raise UserError(
            f"{args.file}: nothing to compare: in its {comparison.frames} frames no object was tracked whose prompt is "
            "recorded; start the recorder before you add objects"
        )
    told = str(comparison)
    others = {obj.id for frame in recording.frames for obj in frame.tracks.objects} - comparison.ids
    if others and comparison.same < comparison.masks:
        told += (
            f"; {counted(len(others), 'object')} without a recorded prompt left out, which may be why: start the "
            "recorder before you add objects"
        )
    print(told)
    return 0 if comparison.same == comparison.masks else DIFFERENT


def _known_model(name: str, file: Path) -> str:
    """The recorded model. A file may name one that is known, but not the path of a checkpoint to load."""
    from sam2_ros.inference.null import is_null_model  # here, because --help does without NumPy

    if name in ("embedded", *HIERA):
        return name
    if is_null_model(name):
        return "null"  # without the recorded delay
    raise UserError(f"{file} was recorded with the model '{printable(name)}'; give it with --model if you trust it")
