"""``sam2_ros bench``: latency, throughput and memory of the engine, the node and the way to an inference server."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2_ros.media.errors import UserError

QUICK_SECONDS = 60.0  # of each number of objects, beside filling the memory
_PACKAGES = {
    "official": ("sam2", "--no-deps sam2==1.1.0 hydra-core iopath"),
    "vos": ("sam2", "--no-deps sam2==1.1.0 hydra-core iopath"),
    "huggingface": ("transformers", "'sam2_ros[bench]'"),
}
PEERS = tuple(_PACKAGES)
SECTIONS = ("engine", "rearrangements", "parts", "drift", "input_sizes", "pipeline", "node")  # of bench.everything


def register(subparsers: Any) -> None:
    """Adds the verb to the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="measure latency, throughput and memory, beside the reference implementation",
        description="Runs the engine on a rendered sequence of moving objects, all memory slots full, and the peers "
        "named by --peers on the same frames in turn. Official sizes that were not downloaded get random weights: "
        "timings do not depend on them.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="less of it: tiny at 512, 1 and 4 objects; --endpoint: fewer frames, streams and kills",
    )
    parser.add_argument(
        "--all",
        type=Path,
        metavar="DIR",
        help="every measurement: JSON files, plot and tables; half an hour on two cores",
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, help="--all: measure these again, and leave the rest of DIR as it is"
    )
    parser.add_argument(
        "--node", action="store_true", help="the node: from the camera's stamp to masks elsewhere (ROS 2)"
    )
    parser.add_argument(
        "--endpoint",
        nargs="?",
        const="",
        metavar="ENDPOINT",
        help="the way to an inference server: overhead, eight streams, recovery from 20 kills; with ENDPOINT, the "
        "steps of a server that runs there, without keys; with --model, how eight streams share that network",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="that the streams of --endpoint run (default: 5; with --model: 60)"
    )
    parser.add_argument("--model", nargs="+", metavar="NAME", help="embedded, tiny, ... or paths (default: tiny)")
    parser.add_argument("--image-size", nargs="+", type=int, metavar="PX", help="default: 1024 512; 0: the model's own")
    parser.add_argument("--objects", nargs="+", type=int, metavar="N", help="default: 1 4 16 64")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), help="default: both")
    parser.add_argument(
        "--peers", nargs="*", default=(), choices=PEERS, help="who is measured beside; must be installed"
    )
    parser.add_argument("--compile", action="store_true", help="ours also with model.compile")
    parser.add_argument("--frames", type=int, metavar="N", help="measured of each engine (default: 30; quick: 12)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the latencies")
    parser.add_argument("--quiet", action="store_true", help="do not say on stderr what is being measured")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the node's engine does
    _check(args)
    if args.endpoint is not None:
        return _endpoint(args)
    from sam2_ros.bench import grid, report

    command, tell = _command(), _teller(args)
    if args.all:
        from sam2_ros.bench import everything

        settings = everything.Settings(_device(args.device), args.threads, tuple(args.peers))
        everything.run(args.all, settings, command, tell, args.only or ())
        print(f"\nwrote {args.all / 'README.md'} and what it shows")
        return 0
    if args.node:
        return _node(args, command, tell)

    device = _device(args.device)
    default = ((512,), (1, 4), 12, QUICK_SECONDS) if args.quick else ((1024, 512), (1, 4, 16, 64), 30, float("inf"))
    measured = grid.run(
        grid.Grid(
            models=tuple(args.model or ("tiny",)),
            image_sizes=tuple(args.image_size or default[0]),
            objects=tuple(args.objects or default[1]),
            dtypes=tuple(args.dtype or ("float32", "bfloat16")),
            compiled=(False, True) if args.compile else (False,),
            peers=tuple(args.peers),
            frames=args.frames or default[2],
            seconds=default[3],
            device=device,
            threads=args.threads,
        ),
        tell,
    )
    measured["command"] = command
    measured |= report.headline(measured)
    print(report.table(measured))
    print(report.stages(measured))
    for name in ("ratio_vs_official", "best_vs_best_official"):
        if name in measured:
            print(f"{name}: " + ", ".join(f"{count} objects {value:.2f}" for count, value in measured[name].items()))
    _write(args.json, measured)
    if args.plot:
        report.plot(measured, args.plot)
    return 0


def _endpoint(args: argparse.Namespace) -> int:
    from sam2_ros.bench import endpoint, report
    from sam2_ros.bench.streams import StreamsRun

    count, default = (4, 60) if args.quick else (8, 300)
    if args.model:  # a network in place of the engine that computes nothing: how streams share it
        options = ("--device", args.device, "--threads", str(args.threads))
        shared = StreamsRun(count, args.seconds or 60.0, args.model[0], options=options)
        run = endpoint.EndpointRun(streams=shared, only_streams=True)
    else:
        shared = StreamsRun(count, args.seconds or (1.0 if args.quick else 5.0))
        run = endpoint.EndpointRun(args.endpoint, args.frames or default, shared, kills=2 if args.quick else 20)
    try:
        measured = {"command": _command(), **endpoint.measure(run, _teller(args))}
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(str(error)) from error
    print(report.endpoint(measured))
    _write(args.json, measured)
    return 0


def _node(args: argparse.Namespace, command: str, tell: Any) -> int:
    from sam2_ros.bench import report

    try:
        from sam2_ros.bench import node_latency
    except ImportError as error:
        raise UserError(f"--node needs ROS 2 and the built messages of this package: {error}") from error
    from sam2_ros.bench.everything import NODE_IMAGES, NODE_MODELS
    from sam2_ros.bench.grid import describe_machine

    runs = [
        node_latency.measure(node_latency.NodeRun(model, width, height, objects, frames=args.frames or 300), tell)
        for model in args.model or NODE_MODELS
        for width, height in NODE_IMAGES
        for objects in args.objects or (1,)
    ]
    measured = {"command": command, "machine": describe_machine("cpu"), "runs": runs}
    print(report.node(measured))
    _write(args.json, measured)
    return 0


def _write(path: Path | None, measured: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def _check(args: argparse.Namespace) -> None:
    if args.only and not args.all:
        raise UserError("--only goes with --all DIR")
    for name in ("objects", "frames", "threads", "image_size"):
        given = getattr(args, name)
        least = 0 if name in ("threads", "image_size") else 1
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} is {value}; accepted: {least} or more")
    import importlib.util

    for peer in args.peers:
        package, command = _PACKAGES[peer]
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--peers {peer} needs the package {package}; install it: pip install {command}")


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _command() -> str:
    """What was called, as it is written down: of a path its last part, the others say something of this machine."""
    return "sam2_ros " + shlex.join(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])


def _teller(args: argparse.Namespace) -> Callable[[str], None]:
    return _say if not args.quiet else lambda _: None


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
