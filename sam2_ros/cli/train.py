"""``sam2_ros train``: trains or fine-tunes a model on labelled videos and photographs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.media.errors import UserError
from sam2_ros.media.whole_files import make_folder
from sam2_ros.text import counted

if TYPE_CHECKING:
    import torch

    from sam2_ros.training.data.videos import Video
    from sam2_ros.training.distributed import World
    from sam2_ros.training.finetune import ClipTraining
    from sam2_ros.training.options import TrainOptions


def register(subparsers: Any) -> None:
    from sam2_ros.training.options import add_arguments

    parser = subparsers.add_parser(
        "train",
        help="train or fine-tune a model on labelled videos and photographs",
        description="Trains a model on clips of labelled videos (DAVIS layout) and on clips made of labelled "
        "photographs (COCO JSON, YOLO polygons), with simulated prompts and corrections. Several processes: "
        "torchrun --nproc-per-node N -m sam2_ros train … . Details: docs/how_to/fine_tune.md.",
        epilog="In DIR: checkpoint.pt (for --model), state.pt (to resume from), train.json, log.jsonl, tensorboard/.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options by name; the command line goes first")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_arguments(parser)
    parser.set_defaults(run=run)


def read_options(args: argparse.Namespace) -> TrainOptions:
    """The options of the command line, then of the configuration file, then the defaults.

    Raises:
        UserError: a wrong option, with what is accepted.
    """
    from sam2_ros.training.options import options_from

    given = {name: value for name, value in vars(args).items() if name not in ("run", "config", "quiet")}
    values: dict[str, Any] = {}
    config: Path | None = args.config
    if config is not None:
        import yaml

        try:
            content = yaml.safe_load(config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{config} is no YAML file: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{config} holds no options; expected lines such as 'steps: 1000'")
        values = {str(name).replace("-", "_"): value for name, value in content.items()}
    try:
        return options_from(values | given)
    except ValueError as error:
        raise UserError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    options = read_options(args)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products need, read at start
    try:
        import torch
    except ImportError as error:
        raise UserError("training needs PyTorch 2.3 or newer: python3 -m pip install torch") from error
    from sam2_ros.training.distributed import connect

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        world, device = connect(options.device)
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error)) from error
    try:
        return _train(options, world, device, args.quiet)
    finally:
        world.close()


def _train(options: TrainOptions, world: World, device: torch.device, quiet: bool) -> int:
    import torch

    from sam2_ros.media.progress import bar
    from sam2_ros.model.bfloat16 import has_bfloat16
    from sam2_ros.training.data.draw import DataError
    from sam2_ros.training.finetune import ClipTraining, open_source, starting_model
    from sam2_ros.training.reports import Reports, open_board

    out = Path(options.out)
    make_folder(out)
    try:
        videos = _validation_videos(options) if world.first else []
        model = starting_model(options, device)
        source = open_source(options, model.config.image_size, world)
        bfloat16 = options.dtype == "bfloat16" or (options.dtype == "auto" and has_bfloat16(device))
        training = ClipTraining(model, options, source, bfloat16, world)
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error)) from error
    if training.step >= options.steps:
        made = shlex.quote(str(out / "checkpoint.pt"))
        if world.first:
            print(
                f"{training.state_path} has done all {counted(options.steps, 'step')}; use it with --model {made}, or "
                f"train it further: --model {made} and another --out"
            )
        return 0
    board = None
    if world.first:
        _begin(out, training, options)
        board = open_board(out / "tensorboard", training.step)
        if board is None:
            print(
                "no TensorBoard curves: install the package 'tensorboard' for them; log.jsonl has the same", flush=True
            )
    try:
        with bar(options.steps, "step", quiet or not world.first, initial=training.step) as progress:
            Reports(training, videos, board, progress).run()
    except DataError as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        print(
            f"sam2_ros: stopped at step {training.step}; the same command goes on from the last save", file=sys.stderr
        )
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory is too small: {error}; use --checkpointing, or fewer --objects, a smaller --clip-length "
            "or --size"
        ) from error
    finally:
        if board is not None:
            board.close()
    if world.first and not quiet:
        print(f"{counted(options.steps, 'step')}; use it with --model {out / 'checkpoint.pt'}")
    return 0


def _validation_videos(options: TrainOptions) -> list[Video]:
    from sam2_ros.training.clip_folder import check_split
    from sam2_ros.training.data.draw import sequence_list
    from sam2_ros.training.data.videos import find_videos

    videos: list[Video] = []
    for name in options.val:
        path = Path(name).expanduser()
        root, names = sequence_list(path) if path.is_file() else (path, None)
        check_split(root, "--val", "train", "choose")
        videos += find_videos(root, names)
    return videos


def _begin(out: Path, training: ClipTraining, options: TrainOptions) -> None:
    """Writes ``train.json``; deletes the curves of a training that this one replaces."""
    import torch

    from sam2_ros.media.whole_files import write_json

    if training.step == 0:
        for path in (out / "tensorboard").glob("events.out.tfevents.*"):
            path.unlink()
    trained = sum(parameter.numel() for parameter in training.trained)
    about = {
        "options": options.to_dict(),
        "model": training.model.config.name,
        "trained_parameters": trained,
        "processes": training.world.size,
        "device": str(training.model.device),
        "bfloat16": training.settings.bfloat16,
        "torch": torch.__version__,
    }
    write_json(out / "train.json", about)
