"""``sam2_ros export``: a network as ONNX files, for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sam2_ros.cli.options import check_least
from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.media.whole_files import make_folder
from sam2_ros.model.config import SIZES


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a network as ONNX files",
        description="Writes a network as ONNX files in float32, constants.npz, and graphs.json, which describes them; "
        "runs each beside PyTorch and prints the largest difference. With the folder as its model, the engine needs no "
        "PyTorch. Where there is PyTorch, it makes its own files with --runtime or model.runtime.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"embedded, a downloaded official model ({SIZES}), or a path")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    add("--image-size", type=int, default=0, metavar="PX", help="side of the network's input (0: the model's own)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_least(args, image_size=0)
    with engine_errors():
        from sam2_ros.model import load_model
        from sam2_ros.model.export import TOLERANCE, export_folder
        from sam2_ros.model.graph_folder import METADATA

        model = load_model(args.model, image_size=args.image_size)
        make_folder(args.out)
        wrong = []
        print(f"{'file':<28} {'MB':>7}  largest difference from PyTorch")
        for written in export_folder(model, args.out):
            print(f"{written.name + '.onnx':<28} {written.bytes / 1e6:7.1f}  {written.difference:.1e}", flush=True)
            if not written.difference <= TOLERANCE:  # not so for NaN
                wrong.append(written.name)
    if wrong:
        (args.out / METADATA).unlink()  # without it nothing loads them
        raise UserError(
            f"{', '.join(wrong)}: differs from PyTorch by more than {TOLERANCE:g}; accepted: up to that. "
            "Do not use the files; export with the PyTorch that 'make setup' installs"
        )
    print(f"written: {args.out / METADATA}")
    return 0
