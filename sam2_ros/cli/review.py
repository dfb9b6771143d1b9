"""``sam2_ros review``: a web page on which a person corrects what ``sam2_ros annotate`` has made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import add_model_arguments, add_page_arguments, check_page, require_modules, serve_page
from sam2_ros.media.errors import engine_errors
from sam2_ros.text import printable

if TYPE_CHECKING:
    from sam2_ros.annotation.review import Review

DEFAULT_PORT = 8643
_CURE = "python3 -m pip install 'sam2_ros[annotate]'"


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "review",
        help="correct an annotated data set in the browser",
        description="Serves a web page with the recordings of a data set that 'sam2_ros annotate' has made: the "
        "doubtful images first. A click or a box corrects an object, which is then tracked both ways until the "
        "annotation agrees. The page saves in the data set's own format. What is not saved when the command ends is "
        "kept, and the same command goes on with it. Only this machine can reach the page, unless --host says "
        "otherwise. Then browsers need a token, which is in the printed address.",
    )
    parser.add_argument("data_set", type=Path, metavar="DIR", help="folder of the data set")
    add_page_arguments(parser, DEFAULT_PORT)
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_page(args)
    require_modules(("pycocotools", "aiohttp"), f"install it: {_CURE}")
    from sam2_ros.annotation.folder import in_use

    with in_use(args.data_set, "review"):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from sam2_ros.annotation.data_set import read_data_set

    data_set = read_data_set(args.data_set)
    with engine_errors():
        from sam2_ros.annotation.corrector import Corrector
        from sam2_ros.annotation.engine import DROP_AFTER
        from sam2_ros.annotation.review import Review
        from sam2_ros.inference.local import LocalBackend, load_shared_model
        from sam2_ros.tracking.config import TrackerConfig
        from sam2_ros.tracking.image_segmenter import ImageSegmenter

        shared = load_shared_model(args.model, args.device, args.dtype, threads=args.threads, runtime=args.runtime)
    window = "on" if data_set.windows else "off"
    made: list[Review] = []

    def backend(objects: int) -> LocalBackend:
        config = TrackerConfig(objects, history=0, drop_after=DROP_AFTER, window=window, window_budget=0.0)
        return LocalBackend(shared, config)

    def review() -> Review:
        made.append(Review(data_set, Corrector(ImageSegmenter(shared)), backend, args.max_side))
        if made[0].unsaved:
            print(f"sam2_ros: with the unsaved corrections of {_names(made[0])}", flush=True)
        return made[0]

    serve_page(args, review, "review", "review.html")
    if made[0].unsaved:
        print(f"sam2_ros: the corrections of {_names(made[0])} are not saved, but kept; "
              "the same command goes on with them")  # fmt: skip
    return 0


def _names(review: Review) -> str:
    return printable(", ".join(review.unsaved), 1000)
