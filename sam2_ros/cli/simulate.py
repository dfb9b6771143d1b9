"""``sam2_ros simulate``: tracks a simulated table scene by the node, and compares the tracks with the truth."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam2_ros.cli.options import ROS_MODULES, add_model_arguments, check_positive, require_modules
from sam2_ros.media.errors import UserError
from sam2_ros.media.text_table import align, number
from sam2_ros.media.whole_files import make_folder

COLUMNS = {
    "in sight": ("in sight, found", 2),
    "IoU": ("IoU", 3),
    "hidden": ("hidden", 0),
    "reported": ("hidden, reported", 2),
    "confused": ("confused", 0),
    "whole: mm p50": ("whole: position error p50 [mm]", 1),
    "p95": ("whole: position error p95 [mm]", 1),
    "extent p50": ("whole: extent error p50 [mm]", 1),
    "any: mm p50": ("position error p50 [mm]", 1),
    "any: p95": ("position error p95 [mm]", 1),
}


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="track a simulated table scene with depth over ROS 2, and compare with the truth",
        description="Starts the simulated camera and the tracker node (sim.launch.py), adds every object by its true "
        "box, and compares masks, states and positions in ~/tracks with the truth. Writes a picture, a report and the "
        "log of both processes to --out.",
    )
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the scene (default: 0)")
    add("--frames", type=int, default=150, metavar="N", help="default: 150")
    add("--rate", type=float, default=10.0, help="frames a second of the scene (default: 10)")
    add("--speed", type=float, default=1.0, help="seconds of the scene in a second; below 1: slow motion (default: 1)")
    add("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"), help="pixels")
    add("--noise", type=float, default=1.0, help="faults of image and depth (default: 1; 0 = none)")
    add("--depth-encoding", choices=("16UC1", "32FC1"), default="16UC1", help="default: 16UC1")
    add("--models", type=Path, metavar="DIR", help="textured models, as for synthesize --scenes; default: plain shapes")
    add("--out", type=Path, default=Path("simulate_output"), metavar="DIR", help="default: %(default)s")
    add("--quiet", action="store_true", help="no progress line")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code, 1 when an object was never seen."""
    check_positive(args, "frames", "rate", "speed")
    require_modules(("mujoco",), "MuJoCo renders the scene: python3 -m pip install mujoco")
    require_modules(ROS_MODULES, "in a checkout run 'make setup'; with ROS 2 installed, source it and the workspace")
    from sam2_ros.media.whole_files import write_whole
    from sam2_ros.simulation.scene_picture import scene_picture
    from sam2_ros.simulation.scene_player import Played, play
    from sam2_ros.simulation.scenes.models import folder_models
    from sam2_ros.simulation.score import summaries
    from sam2_ros.simulation.table_scene import Scene

    if args.models:
        Scene(args.seed, folder_models(args.models, "report"))  # refuses unusable ones before anything starts
    make_folder(args.out)
    played, stopped = Played(), None
    try:
        play(args, played)
    except (UserError, KeyboardInterrupt) as error:
        if not played.moments:
            raise
        stopped = error  # the report of what was tracked comes first
    found = summaries([sample for moment in played.moments for sample in moment.samples])
    report = {
        "seed": args.seed, "frames": args.frames, "rate": args.rate, "speed": args.speed, "size": list(args.size),
        "noise": args.noise, "model": args.model, "models": args.models and str(args.models),
        "tracked": len(played.moments), "dropped": played.dropped,
        "objects": found,
    }  # fmt: skip
    path = args.out / "report.json"
    write_whole(path, json.dumps(report, indent=1, default=str).replace("NaN", "null") + "\n")
    picture = args.out / "simulation.png"
    scene_picture(picture, played, args.seed, args.rate, args.models)
    print(f"{len(played.moments)} of {args.frames} frames tracked, {played.dropped} dropped")
    print(table(found))
    for file in (picture, path):
        print(f"  {file}")
    if stopped:
        raise stopped
    never = [name for name, figures in found.items() if not figures["in sight, found"]]
    if never:
        print(f"  never seen: {', '.join(never)}")
    return 1 if never else 0


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as aligned text, a row for each object."""
    rows = [["object", *COLUMNS]]
    for name, figures in found.items():
        rows.append([name, *(number(figures[key], digits) for key, digits in COLUMNS.values())])
    return align(rows)
