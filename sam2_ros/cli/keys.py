"""``sam2_ros keys``: CURVE keys for the inference server and its clients."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sam2_ros.media.errors import UserError
from sam2_ros.media.whole_files import make_folder


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "keys",
        help="make keys for the inference server and its clients",
        description="Keys for 'sam2_ros serve --keys --clients' and for its clients.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make a pair of keys",
        description="Writes NAME.key, which is public, and NAME.key_secret, which stays on this machine.",
    )
    new.add_argument("name", metavar="NAME", help="the owner, e.g. server or robot1")
    new.add_argument("--dir", type=Path, default=Path("."), metavar="DIR", help="folder (default: the current one)")
    new.set_defaults(run=run_new)


def run_new(args: argparse.Namespace) -> int:
    """Makes a pair of keys; returns the exit code."""
    from sam2_ros.remote.keys import new_keys

    make_folder(args.dir)
    try:
        public, secret = new_keys(args.dir, args.name)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"public: {public}\nsecret: {secret}")
    return 0
