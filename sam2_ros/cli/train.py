"""``sam2_ros train``: trains or fine-tunes a model on labelled videos and photographs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.media.errors import UserError

if TYPE_CHECKING:
    import torch

    from sam2_ros.training.data.videos import Video
    from sam2_ros.training.distributed import World
    from sam2_ros.training.finetune import ClipTraining
    from sam2_ros.training.options import TrainOptions


def register(subparsers: Any) -> None:
    """Adds the verb to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train or fine-tune a model on labelled videos and photographs",
        description="Trains a model on clips of labelled videos (DAVIS layout) and on clips made of labelled "
        "photographs (COCO JSON, YOLO polygons), with simulated prompts and corrections. Several processes: "
        "torchrun --nproc-per-node N -m sam2_ros train … . Details: docs/how_to/fine_tune.md.",
        epilog="In DIR: checkpoint.pt (for --model), state.pt (to go on from), train.json, log.jsonl, tensorboard/.",
        argument_default=argparse.SUPPRESS,  # so that what was not given can come from --config
    )
    _add_main(parser)
    _add_clips(parser.add_argument_group("clips and prompts"))
    _add_optimisation(parser.add_argument_group("optimisation"))
    _add_running(parser.add_argument_group("running"))
    parser.set_defaults(run=run)


def _add_main(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        action="append",
        metavar="PATH",
        help="folder with JPEGImages/ and Annotations/, or a list of sequences in one; folder with images/ and "
        "annotations.json, or with images/ and labels/; may be given several times",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for all that is written")
    parser.add_argument("--model", metavar="MODEL", help="embedded (default), tiny, small, …, or a path")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options by name; the command line goes first")
    parser.add_argument("--init", help="weights (default): start from the model's; random: only its sizes are taken")
    parser.add_argument("--size", type=int, metavar="PX", help="side of the network's input (default: the model's)")
    parser.add_argument("--val", action="append", metavar="PATH", help="held-out videos, in the DAVIS layout")
    parser.add_argument("--val-every", type=int, metavar="N", help="steps between validations (default: --save-every)")
    parser.add_argument("--val-prompt", metavar="KIND", help="box (default), mask or click, on the first frame")


def _add_clips(group: Any) -> None:
    group.add_argument("--shares", type=float, nargs="+", metavar="S", help="of the clips, by --data (default: equal)")
    group.add_argument("--clip-length", type=int, metavar="N", help="frames of a clip (default: 8)")
    group.add_argument("--clips", type=int, metavar="N", help="clips of a step, for each process (default: 2)")
    group.add_argument("--objects", type=int, metavar="N", help="at most this many objects of a clip (default: 3)")
    group.add_argument("--stride", type=int, metavar="N", help="take every 1st to Nth frame of a video (default: 2)")
    group.add_argument("--camera", type=float, metavar="S", help="share of videos that a virtual camera films (0.5)")
    group.add_argument("--occlusion", type=float, metavar="S", help="share of clips of stills with occlusions (0.5)")
    group.add_argument("--pieces", type=int, metavar="N", help="at most this many objects fly over a still (3)")
    group.add_argument("--prompts", metavar="SHARES", help="default: mask=0.5,box=0.25,click=0.25")
    group.add_argument("--prompted-frames", type=int, metavar="N", help="at most, 1 or 2 (default: 2)")
    group.add_argument("--corrected-frames", type=int, metavar="N", help="at most; 0: no corrections (default: 2)")
    group.add_argument("--clicks", type=int, metavar="N", help="at most, on a corrected frame (default: 7)")


def _add_optimisation(group: Any) -> None:
    group.add_argument("--steps", type=int, metavar="N", help="updates (default: 1000)")
    group.add_argument("--lr", type=float, metavar="R", help="learning rate (default: 2e-5)")
    group.add_argument("--encoder-lr", type=float, metavar="R", help="of the image encoder (default: 0.3 of --lr)")
    group.add_argument("--layer-decay", type=float, metavar="F", help="rate of an encoder block by the next one's (1)")
    group.add_argument("--weight-decay", type=float, metavar="F", help="(default: 0.01)")
    group.add_argument("--warmup", type=int, metavar="N", help="steps (default: a twentieth, at most 500)")
    group.add_argument("--gradient-norm", type=float, metavar="F", help="gradients are clipped to it (default: 0.1)")
    group.add_argument("--ema", type=float, metavar="F", help="decay of the averaged weights; 0: none (default: 0.999)")
    group.add_argument("--freeze", nargs="+", metavar="PART", help="of encoder, prompts, decoder, memory")
    group.add_argument("--seed", type=int, metavar="N", help="of all that is drawn (default: 0)")


def _add_running(group: Any) -> None:
    group.add_argument("--dtype", help="auto (default), float32 or bfloat16; the weights stay float32")
    group.add_argument("--device", help="auto (default: CUDA where there is one), cpu, cuda, cuda:N")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of a process (default: torch's choice)")
    group.add_argument("--checkpointing", action="store_true", help="recompute activations: less memory, more time")
    group.add_argument("--workers", type=int, metavar="N", help="processes that draw clips ahead (default: 0)")
    group.add_argument("--save-every", type=int, metavar="N", help="steps between saved states (default: 100)")
    group.add_argument("--log-every", type=int, metavar="N", help="steps between lines of the log (default: 10)")
    group.add_argument("--resume", help="auto (default): go on from DIR/state.pt; never: begin anew")
    group.add_argument("--quiet", action="store_true", help="no progress")


def read_options(args: argparse.Namespace) -> TrainOptions:
    """What was asked for: the command line, then the configuration file, then defaults.

    Raises:
        UserError: what is wrong with it.
    """
    from sam2_ros.training.options import options_from

    given = {name: value for name, value in vars(args).items() if name not in ("run", "config", "quiet")}
    values: dict[str, Any] = {}
    config: Path | None = getattr(args, "config", None)
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
    """Runs the verb; returns the exit code."""
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
        return _train(options, world, device, quiet=getattr(args, "quiet", False))
    finally:
        world.close()


def _train(options: TrainOptions, world: World, device: torch.device, quiet: bool) -> int:
    import torch

    from sam2_ros.media.progress import bar
    from sam2_ros.training.board import Board
    from sam2_ros.training.data.draw import DataError
    from sam2_ros.training.finetune import ClipTraining, open_source, starting_model
    from sam2_ros.training.reports import Reports

    out = Path(options.out)
    try:
        videos = _validation_videos(options) if world.first else []
        model = starting_model(options, device)
        source = open_source(options, model.config.image_size, world)
        training = ClipTraining(model, options, source, _bfloat16(options.dtype, device), world)
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error)) from error
    if training.step >= options.steps:
        print(f"{training.state_path} has done all {options.steps} steps; give more --steps and another --out to go on")
        return 0
    board = None
    if world.first:
        _begin(out, training, options)
        board = Board(out / "tensorboard", training.step)
        if not board.there:
            print(
                "no TensorBoard curves: install the package 'tensorboard' for them; log.jsonl has the same", flush=True
            )
    try:
        with bar(options.steps, "step", quiet or not world.first, initial=training.step) as progress:
            Reports(training, options, videos, board, progress).run(out / "log.jsonl")
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
        print(f"{options.steps} steps; use it with --model {out / 'checkpoint.pt'}")
    return 0


def _bfloat16(dtype: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16."""
    import torch

    from sam2_ros.inference.local import cpu_has_bfloat16

    if dtype != "auto":
        return dtype == "bfloat16"
    # GPUs before Ampere (8.0) emulate it.
    return cpu_has_bfloat16() if device.type == "cpu" else torch.cuda.get_device_capability(device)[0] >= 8


def _validation_videos(options: TrainOptions) -> list[Video]:
    from sam2_ros.training.data.draw import sequence_list
    from sam2_ros.training.data.videos import find_videos

    videos: list[Video] = []
    for name in options.val:
        path = Path(name).expanduser()
        root, names = sequence_list(path) if path.is_file() else (path, None)
        videos += find_videos(root, names)
    return videos


def _begin(out: Path, training: ClipTraining, options: TrainOptions) -> None:
    """Writes what is going to be done; clears the curves of a training that this one replaces."""
    import torch

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
    (out / "train.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
