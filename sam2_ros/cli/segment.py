"""``sam2_ros segment``: segments images by boxes, clicks and masks, or everything in them. Nothing is tracked."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import add_model_arguments, check_least
from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.media.signals import signals_wait
from sam2_ros.media.whole_files import make_folder
from sam2_ros.text import counted, printable
from sam2_ros.tracking.everything_settings import SMALL_MODEL, EverythingSettings
from sam2_ros.tracking.settings import settings_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sam2_ros.media.segmented_files import Segmented
    from sam2_ros.tracking.image_segmenter import ImageSegmenter
    from sam2_ros.tracking.types import Prompt

_POINTS_HELP = "X,Y on it, X,Y,0 not on it"
_MOST_OBJECTS = 100


class _Mark(argparse.Action):
    """Collects --box, --point and --mask in one list, each with its values; every option is one object."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        namespace.marks = [*(namespace.marks or []), (option, values)]


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "segment",
        help="segment images by boxes, clicks or masks, or everything in them",
        description="Segments an image, or each image of a folder. Each --box, --point and --mask is one object, in "
        "pixels of the image; clicks after a box or a mask correct it. Writes for each image NAME a label image "
        "(NAME.png), masks with predicted IoU, stability and the three candidates (NAME.json, COCO run lengths), and a "
        "picture (NAME_overlay.jpg). One that can't be read, or is too small for the prompts, does not stop the "
        "rest of a folder: it is named at the end, and the exit code is 1.",
    )
    add = parser.add_argument
    add("images", type=Path, metavar="IMAGE|FOLDER", help="an image, or a folder of images in any sizes")
    add(
        "--box",
        dest="marks",
        action=_Mark,
        nargs="+",
        metavar="VALUE",
        help=f"X0,Y0,X1,Y1, then clicks: {_POINTS_HELP}",
    )
    add("--point", dest="marks", action=_Mark, nargs="+", metavar="X,Y", help=f"clicks on one object: {_POINTS_HELP}")
    add("--mask", dest="marks", action=_Mark, nargs="+", metavar="VALUE", help="PNG (> 0 = object), then clicks")
    add("--candidate", type=int, choices=(1, 2, 3), help="which mask a single click means (default: the best)")
    add("--everything", action="store_true", help="find every object, without prompts")
    add("--out", type=Path, default=Path("segment_output"), metavar="DIR", help="default: segment_output")
    add("--max-masks", type=int, default=_MOST_OBJECTS, metavar="N", help=f"the N largest (default: {_MOST_OBJECTS})")
    everything = parser.add_argument_group("with --everything").add_argument
    for each in settings_of(EverythingSettings()):
        kind, shown = type(each.default), f"{each.default:.2f}" if isinstance(each.default, float) else each.default
        small = f" (embedded: {SMALL_MODEL[each.name]:.2f})" if each.name in SMALL_MODEL else ""
        text = f"{each.description} Default: {shown}{small}."
        everything(f"--{each.name.replace('_', '-')}", type=kind, metavar="N", help=text)
    add_model_arguments(parser)
    add("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sam2_ros.media.image_folder import images_of, read_image
    from sam2_ros.media.progress import bar
    from sam2_ros.media.segmented_files import output_paths, write_segmented

    if bool(args.marks) == args.everything:
        raise UserError("give --box, --point or --mask, or --everything; one of the two")
    check_least(args, max_masks=1)
    given = {each.name: getattr(args, each.name) for each in settings_of(EverythingSettings())}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not args.everything:
        raise UserError(f"--{next(iter(given)).replace('_', '-')} belongs to --everything")
    try:
        EverythingSettings(**given)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-', 1)}") from None
    prompts = [_prompt(option, values, args.candidate) for option, values in args.marks or []]
    images = images_of(args.images)
    paths = output_paths(args.out, images)
    make_folder(args.out)
    with engine_errors():
        from sam2_ros.inference.local import load_shared_model
        from sam2_ros.tracking.image_segmenter import ImageSegmenter

        shared = load_shared_model(args.model, args.device, args.dtype, threads=args.threads, runtime=_runtime(args))
    segmenter = ImageSegmenter(shared)
    settings = segmenter.everything_settings(**given)
    about = {"model": shared.model.config.name, "dtype": shared.dtype}
    done = masks = 0
    problems: list[str] = []  # of images that could not be segmented
    work = _points(settings) if args.everything else 1
    try:
        with bar(work * len(images), "point" if args.everything else "image", args.quiet) as progress:
            for image in images:
                stopped = None
                try:
                    rgb = read_image(image)
                    if args.everything:
                        found, stopped = _everything(segmenter, rgb, settings, progress, args.max_masks)
                    else:
                        found = _segment(segmenter, rgb, prompts, image)
                        progress.update()
                except UserError as error:
                    if len(images) == 1:
                        raise
                    problems.append(str(error))
                    progress.update(work)
                    continue
                with signals_wait():
                    write_segmented(paths[image], image, rgb, found, about | {"complete": stopped is None})
                    done, masks = done + (stopped is None), masks + len(found)
                if stopped is not None:
                    raise stopped
        if not args.quiet:
            print(f"{counted(masks, 'mask')} in {counted(done, 'image')}; written to {args.out}")
    except KeyboardInterrupt:
        print(f"sam2_ros: {done} of {len(images)} images are complete, in {args.out}", file=sys.stderr)
        raise
    finally:
        for problem in problems:
            print(f"sam2_ros: {printable(problem, 1000)}", file=sys.stderr)
    return 1 if problems else 0


def _segment(segmenter: ImageSegmenter, rgb: NDArray[Any], prompts: Sequence[Prompt], image: Path) -> list[Segmented]:
    from sam2_ros.media.segmented_files import Segmented
    from sam2_ros.tracking.types import PromptError

    try:
        answers = segmenter.segment(segmenter.encode(rgb), prompts)
    except (PromptError, ValueError) as error:
        raise UserError(f"{image}: {error}") from None
    return [Segmented(each.mask, each.predicted_iou, each.stability, each.candidates) for each in answers]


def _everything(
    segmenter: ImageSegmenter, rgb: NDArray[Any], settings: EverythingSettings, progress: Any, most: int
) -> tuple[list[Segmented], KeyboardInterrupt | None]:
    """What was found, the largest first, and what has stopped the search."""
    from sam2_ros.media.segmented_files import Segmented

    finder, total, stopped = segmenter.finder(rgb, settings), _points(settings), None
    begin = progress.n
    try:
        for share in finder.steps():
            progress.update(begin + round(share * total) - progress.n)
    except KeyboardInterrupt as error:
        stopped = error
    found = sorted(finder.found, key=lambda each: -each.mask.area)[:most]
    return [Segmented(each.mask, each.predicted_iou, each.stability, point=each.point) for each in found], stopped


def _runtime(args: argparse.Namespace) -> str:
    """What runs the network. Everything is found by many prompts, of which PyTorch decodes a batch at once."""
    from sam2_ros.model.graph_folder import is_graph_folder
    from sam2_ros.model.runtimes import AUTO, TORCH

    batches = args.everything and args.runtime == AUTO and not is_graph_folder(Path(args.model).expanduser())
    return TORCH if batches and find_spec("torch") else args.runtime


def _points(settings: EverythingSettings) -> int:
    """Points in an image and its crops."""
    from sam2_ros.tracking.everything import points_in

    return sum(4**layer * points_in(layer, settings) ** 2 for layer in range(settings.crop_layers + 1))


def _prompt(option: str, values: Sequence[str], candidate: int | None) -> Prompt:
    """
    Raises:
        UserError: values that can't be read.
    """
    import numpy as np

    from sam2_ros.media.label_images import read_mask
    from sam2_ros.tracking.types import Prompt

    box = mask = None
    clicks = list(values)
    if option == "--box":
        box = np.array(_numbers(option, clicks.pop(0), (4,), "X0,Y0,X1,Y1", "--box 120,80,260,300"), np.float32)
    elif option == "--mask":
        mask = read_mask(Path(clicks.pop(0)))
    points = [_numbers(option, click, (2, 3), "X,Y or X,Y,0", "--point 120,80") for click in clicks]
    single = option == "--point" and len(points) == 1
    return Prompt(
        points=np.array([point[:2] for point in points], np.float32) if points else None,
        labels=np.array([1 if len(point) == 2 else int(point[2]) for point in points], np.int32) if points else None,
        box=box, mask=mask, candidate=candidate if single else None,
    )  # fmt: skip


def _numbers(option: str, text: str, lengths: tuple[int, ...], accepted: str, example: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) in lengths and all(map(math.isfinite, numbers)):
            return numbers
    except ValueError:
        pass
    raise UserError(f"{option} {text[:40]}: accepted: {accepted} in pixels, without spaces, for example {example}")
