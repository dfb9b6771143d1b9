"""``sam2_ros synthesize``: labelled clips, rendered or made of photographs, to train and to evaluate on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import check_least, check_positive, require_modules
from sam2_ros.media.errors import UserError
from sam2_ros.media.whole_files import make_folder
from sam2_ros.text import counted

if TYPE_CHECKING:
    from sam2_ros.training.clips import Clip


_OPTIONS = {"scenes": ("models", "split", "rate", "jobs"), "photographs": ("objects", "passers", "look_alikes")}


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "synthesize",
        help="make labelled clips: rendered robot scenes, or photographs with occlusion and absence",
        description="Renders robot scenes: tables with clutter, copies, arms in front, a moving camera. Or cuts "
        "labelled objects out of photographs and lets them move over other ones, be covered, leave the view and come "
        "back. Or renders twins. Writes OUT/JPEGImages and OUT/Annotations in the layout of DAVIS, for sam2_ros eval "
        "and train.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write; only --scenes continues in one that holds clips")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--scenes", action="store_true", help="robot scenes, rendered by MuJoCo")
    kind.add_argument(
        "--photographs",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="images/ with annotations.json (COCO polygons) or with labels/*.txt (YOLO polygons)",
    )
    kind.add_argument(
        "--twins",
        action="store_true",
        help="two equal objects whose paths cross, without photographs, frames of 4:3: do identities switch?",
    )
    add("--clips", type=int, default=24, metavar="N", help="clips to make (default: 24)")
    add("--steps", type=int, metavar="N", help="frames of a clip (default: 40; scenes: 60)")
    add(
        "--size",
        type=int,
        nargs="+",
        metavar="PX",
        help="side of the square frames (default: 512); scenes: width and height (default: 854 480)",
    )
    add("--seed", type=int, default=0, help="equal seeds give equal clips (default: 0)")
    add("--quiet", action="store_true", help="no progress bar")
    scenes = parser.add_argument_group("with --scenes").add_argument
    scenes(
        "--models",
        type=Path,
        metavar="DIR",
        help="textured models: NAME/textured.obj (metres, z up) with texture_map.png beside it, as in the YCB set; "
        "default: plain shapes",
    )
    scenes(
        "--split",
        choices=("train", "choose", "report"),
        default="train",
        help="which models and scenes: to train on, to choose between models, or to report. None is in two splits "
        "(default: train)",
    )
    scenes("--rate", type=float, default=24.0, metavar="HZ", help="frames a second of the scene (default: 24)")
    scenes("--jobs", type=int, default=1, metavar="N", help="clips at a time (default: 1)")
    photographs = parser.add_argument_group("with --photographs").add_argument
    photographs(
        "--objects", type=int, nargs=2, default=(2, 4), metavar=("MIN", "MAX"), help="labelled objects (default: 2 4)"
    )
    photographs(
        "--passers", type=int, default=1, metavar="N", help="up to N unlabelled objects fly past in a clip (default: 1)"
    )
    photographs(
        "--look-alikes",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="share of clips with a mirrored, unlabelled copy of an object (default: 0.25)",
    )
    parser.set_defaults(run=run, default_of=parser.get_default)


def run(args: argparse.Namespace) -> int:
    for kind, options in _OPTIONS.items():
        for option in options:
            if not getattr(args, kind) and getattr(args, option) != args.default_of(option):
                raise UserError(f"--{option.replace('_', '-')} belongs to --{kind}")
    args.steps = args.steps or (60 if args.scenes else 40)
    args.size = args.size or ([854, 480] if args.scenes else [512])
    wanted = 2 if args.scenes else 1
    if len(args.size) != wanted or min(args.size) < 64:
        what = "width and height, 64 or more each" if args.scenes else "one number, 64 or more"
        raise UserError(f"--size is {' '.join(map(str, args.size))}; accepted: {what}")
    return _run_scenes(args) if args.scenes else _run_drawn(args)


def _run_scenes(args: argparse.Namespace) -> int:
    check_least(args, clips=1, steps=2, jobs=1, seed=0)
    check_positive(args, "rate")
    require_modules(("mujoco",), "MuJoCo renders the scenes: python3 -m pip install mujoco")
    from sam2_ros.media.progress import bar
    from sam2_ros.simulation.scenes.models import folder_models
    from sam2_ros.training.clip_folder import read_about, write_about
    from sam2_ros.training.robot_clips import RobotClips
    from sam2_ros.training.robot_folder import render_robot_clips, robot_clip_name

    settings = RobotClips(args.split, args.seed, args.size[0], args.size[1], args.steps, args.rate)
    names = [thing.name for thing in folder_models(args.models, args.split)] if args.models else []
    about = asdict(settings) | {"scenes": True, "models": names}
    if (args.out / "JPEGImages").exists():
        there = read_about(args.out)
        if changed := [key for key in about if there.get(key) != about[key]]:
            raise UserError(
                f"{args.out} holds clips of other settings ({', '.join(changed)} differ); use another folder, or "
                "remove that one"
            )
    make_folder(args.out)
    write_about(args.out, about)
    with bar(args.clips, "clip", args.quiet) as progress:
        for _ in render_robot_clips(args.out, settings, args.models, args.clips, args.jobs):
            progress.update()
    _preview(args.out, [robot_clip_name(index) for index in range(args.clips)], args.steps)
    print(f"{args.out}: {counted(args.clips, 'clip')} of {counted(args.steps, 'frame')}; see preview.png")
    return 0


def _run_drawn(args: argparse.Namespace) -> int:
    from sam2_ros.media.progress import bar
    from sam2_ros.training.clip_folder import write_about, write_clip

    (args.size,) = args.size
    check_least(args, clips=1, steps=8, objects=1, passers=0, look_alikes=0)
    least, most = args.objects
    if most < least:
        raise UserError(f"--objects MAX is {most}; accepted: {least} or more")
    if (args.out / "JPEGImages").exists():
        raise UserError(f"{args.out} holds clips already; use another folder, or remove that one")
    make_clip = _twins(args) if args.twins else _photograph_clips(args)
    make_folder(args.out)
    names = [f"clip{index:04d}" for index in range(args.clips)]
    with bar(args.clips, "clip", args.quiet) as progress:
        for index, name in enumerate(names):
            write_clip(args.out, name, make_clip(index))
            progress.update()
    options = ["seed", "clips", "steps", "size", "twins"]
    if not args.twins:
        options += ["objects", "passers", "look_alikes"]
    write_about(args.out, {option: getattr(args, option) for option in options})
    _preview(args.out, names, args.steps)
    print(f"{args.out}: {counted(args.clips, 'clip')} of {counted(args.steps, 'frame')}; see preview.png")
    return 0


def _preview(out: Path, names: Sequence[str], steps: int) -> None:
    """Writes a sheet of eight frames of each of four clips, from their files."""
    from sam2_ros.media.figures import contact_sheet, spread, write_png
    from sam2_ros.training.clips import read_rgb
    from sam2_ros.training.data.videos import read_labels
    from sam2_ros.training.synthetic import outlined

    sheet = []
    for name in (names[index] for index in spread(len(names), 4)):
        for t in spread(steps, 8):
            frame = read_rgb(out / "JPEGImages" / name / f"{t:05d}.jpg")
            sheet.append((outlined(frame, read_labels(out / "Annotations" / name / f"{t:05d}.png")), f"{name} {t}"))
    write_png(out / "preview.png", contact_sheet(sheet, columns=8, cell_width=200))


def _twins(args: argparse.Namespace) -> Callable[[int], Clip]:
    from sam2_ros.training.twins import twins_clip

    return lambda index: twins_clip(args.seed + index, args.steps, args.size, args.size * 3 // 4)


def _photograph_clips(args: argparse.Namespace) -> Callable[[int], Clip]:
    from sam2_ros.training.data.stills import read_stills
    from sam2_ros.training.synthetic import OcclusionClips, SceneSettings

    settings = SceneSettings(passers=args.passers, look_alike=args.look_alikes)
    try:
        stills = [still for root in args.photographs for still in read_stills(root)]
        clips = OcclusionClips(stills, args.seed, args.size, args.steps, tuple(args.objects), settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    return clips.__getitem__
