"""``sam2_ros download``: fetches an official SAM 2 checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sam2_ros.media.errors import UserError
from sam2_ros.media.whole_files import make_folder
from sam2_ros.model.config import SIZES


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "download",
        help="fetch an official SAM 2 checkpoint",
        description="Fetches an official SAM 2 checkpoint (Apache-2.0, Meta) into the cache and verifies its SHA-256.",
        epilog=f"Names: {SIZES} (SAM 2.1; the same with -2.0 for SAM 2.0). "
        "Cache: checkpoints/ in $SAM2_ROS_CACHE, else in $XDG_CACHE_HOME/sam2_ros, else in ~/.cache/sam2_ros.",
    )
    parser.add_argument("name", metavar="NAME", help=f"{SIZES}; with -2.0 for SAM 2.0")
    parser.add_argument("--dir", type=Path, help="folder for the file, instead of the cache")
    parser.add_argument("--base-url", metavar="URL", help="mirror with the official layout (or $SAM2_ROS_BASE_URL)")
    parser.add_argument("--force", action="store_true", help="fetch again, even if the file exists")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sam2_ros.media.progress import bar
    from sam2_ros.model.download import DownloadError, checkpoint_url, download, find_checkpoint

    try:
        checkpoint = find_checkpoint(args.name)
        if args.dir:
            make_folder(args.dir)
        url = checkpoint_url(checkpoint, args.base_url)
        print(f"{checkpoint.file_name}, {checkpoint.size / 1e6:.0f} MB, from {url}")
        with bar(checkpoint.size, "B", args.quiet, unit_scale=True) as progress:

            def show(have: int, total: int) -> None:
                progress.update(have - progress.n)

            path = download(args.name, args.dir, args.base_url, args.force, show)
    except DownloadError as error:
        raise UserError(str(error)) from error
    print(f"verified: {path}")
    return 0
