"""``sam2_ros synthesize``: labelled clips with occlusion and absence, to train and to evaluate on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import check_least
from sam2_ros.media.errors import UserError

if TYPE_CHECKING:
    from sam2_ros.training.clips import Clip


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "synthesize",
        help="make labelled clips with occlusion and absence out of photographs",
        description="Cuts labelled objects out of photographs and lets them move over other ones, be covered, leave "
        "the view and come back; or renders twins. Writes OUT/JPEGImages and OUT/Annotations in the layout of DAVIS, "
        "for sam2_ros eval and train.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write; must not hold clips yet")
    kind = parser.add_mutually_exclusive_group(required=True)
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
    add("--steps", type=int, default=40, metavar="N", help="frames of a clip (default: 40)")
    add("--size", type=int, default=512, metavar="PX", help="side of the square frames (default: 512)")
    add("--objects", type=int, nargs=2, default=(2, 4), metavar=("MIN", "MAX"), help="labelled objects (default: 2 4)")
    add(
        "--passers", type=int, default=1, metavar="N", help="up to N unlabelled objects fly past in a clip (default: 1)"
    )
    add(
        "--look-alikes",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="share of clips with a mirrored, unlabelled copy of an object (default: 0.25)",
    )
    add("--seed", type=int, default=0, help="equal seeds give equal clips (default: 0)")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import cv2

    from sam2_ros.media.figures import contact_sheet, spread, write_png
    from sam2_ros.media.label_images import write_labels
    from sam2_ros.media.progress import bar
    from sam2_ros.training.synthetic import outlined

    check_least(args, clips=1, steps=8, size=64, objects=1, passers=0, look_alikes=0)
    least, most = args.objects
    if most < least:
        raise UserError(f"--objects MAX is {most}; accepted: {least} or more")
    if (args.out / "JPEGImages").exists():
        raise UserError(f"{args.out} holds clips already; use another folder, or remove that one")
    make_clip = _twins(args) if args.twins else _photograph_clips(args)
    shown = set(spread(args.clips, 4))
    preview = []
    with bar(args.clips, "clip", args.quiet) as progress:
        for index in range(args.clips):
            clip = make_clip(index)
            name = f"clip{index:04d}"
            images, labels = args.out / "JPEGImages" / name, args.out / "Annotations" / name
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for t, (frame, label) in enumerate(zip(clip.frames, clip.labels, strict=True)):
                bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
                if not cv2.imwrite(str(images / f"{t:05d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95]):
                    raise OSError(f"{images} can't be written")
                write_labels(labels / f"{t:05d}.png", label)
            if index in shown:
                preview += [(outlined(clip, t), f"{name} {t}") for t in spread(args.steps, 8)]
            progress.update()
    options = ["seed", "clips", "steps", "size", "twins"]
    if not args.twins:
        options += ["objects", "passers", "look_alikes"]
    about = {option: getattr(args, option) for option in options}
    (args.out / "synthesize.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_png(args.out / "preview.png", contact_sheet(preview, columns=8, cell_width=200))
    print(f"{args.out}: {args.clips} clips of {args.steps} frames; see preview.png")
    return 0


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
