"""``sam2_ros synthesize``: clips with occlusion and absence, made of photographs, to train and to evaluate on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sam2_ros.cli.options import check_least
from sam2_ros.media.errors import UserError


def register(subparsers: Any) -> None:
    """Adds the verb to the command line."""
    parser = subparsers.add_parser(
        "synthesize",
        help="make labelled clips with occlusion and absence out of photographs",
        description="Cuts labelled objects out of photographs and lets them move over other ones, be covered, leave "
        "the view and come back. Writes OUT/JPEGImages and OUT/Annotations in the layout of DAVIS, for sam2_ros eval "
        "and train.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not hold clips yet")
    parser.add_argument(
        "--photographs",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="images/ with annotations.json (COCO polygons) or with labels/*.txt (YOLO polygons)",
    )
    parser.add_argument("--clips", type=int, default=24, metavar="N", help="clips to make (default: 24)")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="frames of a clip (default: 40)")
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="side of the square frames (default: 512)")
    parser.add_argument(
        "--objects", type=int, nargs=2, default=(2, 4), metavar=("MIN", "MAX"), help="labelled objects (default: 2 4)"
    )
    parser.add_argument(
        "--passers", type=int, default=1, metavar="N", help="up to N unlabelled things fly past in a clip (default: 1)"
    )
    parser.add_argument(
        "--look-alikes",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="share of clips with a mirrored, unlabelled copy of an object (default: 0.25)",
    )
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal clips (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code."""
    import cv2

    from sam2_ros.media.figures import contact_sheet, spread, write_png
    from sam2_ros.media.label_images import write_labels
    from sam2_ros.media.progress import bar
    from sam2_ros.training.clips import read_stills
    from sam2_ros.training.synthetic import OcclusionClips, SceneSettings, outlined

    low, high = args.objects
    check_least(
        ("--clips", args.clips, 1),
        ("--steps", args.steps, 8),
        ("--size", args.size, 64),
        ("--objects MIN", low, 1),
        ("--objects MAX", high, low),
        ("--passers", args.passers, 0),
        ("--look-alikes", args.look_alikes, 0),
    )
    if (args.out / "JPEGImages").exists():
        raise UserError(f"{args.out} holds clips already; use another folder, or remove that one")
    settings = SceneSettings(passers=args.passers, look_alike=args.look_alikes)
    try:
        stills = [still for root in args.photographs for still in read_stills(root)]
        source = OcclusionClips(stills, args.seed, args.size, args.steps, (low, high), settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    shown = set(spread(args.clips, 4))
    rows = []
    with bar(args.clips, "clip", args.quiet) as progress:
        for index in range(args.clips):
            clip = source[index]
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
                rows += [(outlined(clip, t), f"{name} {t}") for t in spread(args.steps, 8)]
            progress.update()
    about = {
        "seed": args.seed,
        "photographs": len(stills),
        "clips": args.clips,
        "steps": args.steps,
        "size": args.size,
        "objects": [low, high],
        "passers": args.passers,
        "look_alikes": args.look_alikes,
    }
    (args.out / "synthesize.json").write_text(json.dumps(about, indent=1) + "\n")
    write_png(args.out / "preview.png", contact_sheet(rows, columns=8, cell_width=200))
    print(f"{args.out}: {args.clips} clips of {args.steps} frames; see preview.png")
    return 0
