"""The command line: ``sam2_ros VERB …``, one module for each verb.

To add a verb, write ``cli/VERB.py`` and name it in :data:`VERBS`. Its function ``register(subparsers)`` adds a parser
and sets the default ``run``, a function from parsed arguments to exit code. Heavy imports stand inside ``run``, so that
``--help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from sam2_ros import __version__
from sam2_ros.allocator import keep_freed_memory
from sam2_ros.media.errors import UserError
from sam2_ros.media.signals import exit_code, signals_unwind

VERBS = (
    "track", "segment", "annotate", "review", "eval", "synthesize", "download", "export", "demo", "simulate", "train",
    "add", "list", "remove", "refine", "rename", "reset", "follow", "view", "record", "replay", "bench", "serve",
    "keys",
)  # fmt: skip
USER_ERROR = 2  # as argparse's own


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb that is installed."""
    parser = argparse.ArgumentParser(
        prog="sam2_ros", description="Real-time object tracking for ROS 2 with a streaming implementation of SAM 2."
    )
    parser.add_argument("--version", action="version", version=f"sam2_ros {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        module = f"sam2_ros.cli.{verb}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for an error of the user, 128 + N after signal N."""
    # FFmpeg prints comments on streams that it decodes well; show only fatal errors, also of child processes.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
    args = build_parser().parse_args(argv)
    keep_freed_memory()
    try:
        with signals_unwind(background=False):
            code: int = args.run(args)
    except (UserError, OSError) as error:
        told = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            told = f"{error.filename}: {error.strerror}"
        print(f"sam2_ros: error: {told}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        print("sam2_ros: interrupted", file=sys.stderr)
        return exit_code(error)
    return code


if __name__ == "__main__":
    sys.exit(main())
