"""``sam2_ros bench``: latency, throughput and memory of the engine, of the node, and through an inference server."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from sam2_ros.cli.options import ROS_MODULES, check_least, require_modules
from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.model.config import DTYPES, RUNTIMES

Keep = Callable[[dict[str, Any]], None]
QUICK_SECONDS = 60.0  # of each number of objects, beside filling the memory
_PACKAGES = {
    "official": ("sam2", "--no-deps sam2==1.1.0 hydra-core iopath"),
    "vos": ("sam2", "--no-deps sam2==1.1.0 hydra-core iopath"),
    "huggingface": ("transformers", "'sam2_ros[bench]'"),
}
PLOT_SUFFIXES = (".png", ".svg", ".pdf")
NODE_MODELS = ("null", "embedded")
NODE_IMAGES = ((640, 480), (1280, 720))  # width, height, pixels


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure latency, throughput and memory, beside the reference implementation",
        description="Runs the engine on a rendered sequence of moving objects with all memory slots full. The engines "
        "that --peers names take turns with it on the same frames. Official sizes that were not downloaded get random "
        "weights: timings do not depend on them.",
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="measure less: tiny at 512, 1 and 4 objects; with --endpoint, fewer frames, streams and kills",
    )
    add("--node", action="store_true", help="measure the node: camera stamp to masks in another process (ROS 2)")
    add(
        "--endpoint",
        nargs="?",
        const="",
        metavar="ENDPOINT",
        help="measure an inference server: overhead, eight streams, recovery from 20 kills; with ENDPOINT, the steps "
        "of a server that runs there, without keys; with --model, how eight streams share that network",
    )
    add("--seconds", type=float, metavar="S", help="duration of --endpoint's streams (default: 5; with --model: 60)")
    add("--model", nargs="+", metavar="NAME", help="embedded, tiny, ... or paths (default: tiny)")
    add("--image-size", nargs="+", type=int, metavar="PX", help="default: 1024 512; 0: the model's own")
    add("--objects", nargs="+", type=int, metavar="N", help="default: 1 4 16 64")
    add("--dtype", nargs="+", choices=DTYPES[1:], help="default: float32 and bfloat16")
    add("--peers", nargs="*", default=(), choices=[*_PACKAGES], help="engines to compare with; they must be installed")
    add(
        "--compile",
        action="store_true",
        help="only compile what --peers vos needs, which takes minutes; cut short, the same command goes on where it "
        "ended. Without --compile, the same command then measures",
    )
    add("--frames", type=int, metavar="N", help="measured of each engine (default: 30; quick: 12)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads (default: torch's choice)")
    add(
        "--runtime",
        nargs="+",
        default=["auto"],
        choices=RUNTIMES,
        metavar="RUNTIME",
        help=f"what runs our network, taking turns (default: auto): {', '.join(RUNTIMES)}",
    )
    add("--json", type=Path, metavar="FILE", help="write the report here")
    add("--plot", type=Path, metavar="FILE.png", help="draw the latencies")
    add("--quiet", action="store_true", help="print no progress to stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sam2_ros.media.whole_files import check_writable, write_json
    from sam2_ros.model.download import cache_dir

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the node's engine does
    check_least(args, objects=1, frames=1, threads=0, image_size=0)
    for peer in args.peers:
        package, command = _PACKAGES[peer]
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--peers {peer} needs the package {package}; install it: pip install {command}")
    if args.compile and ("vos" not in args.peers or args.node or args.endpoint is not None):
        raise UserError("--compile is for the peer that is compiled; add --peers vos, without --node and --endpoint")
    if "vos" in args.peers:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
    for file in (args.json, args.plot):
        if file:
            check_writable(file)
    if args.plot and args.plot.suffix.lower() not in PLOT_SUFFIXES:
        raise UserError(f"--plot is {args.plot}; accepted: a name that ends in {', '.join(PLOT_SUFFIXES)}")
    tell = (lambda _: None) if args.quiet else _tell
    measure = _endpoint if args.endpoint is not None else _node if args.node else _engine

    def keep(measured: dict[str, Any]) -> None:
        """Writes what was measured so far, because a run takes long and may be interrupted."""
        if args.json:
            write_json(args.json, {"command": _command()} | measured, allow_nan=True)

    if measured := measure(args, tell, keep):
        keep(measured)
    return 0


def _engine(args: argparse.Namespace, tell: Any, keep: Keep) -> dict[str, Any]:
    from sam2_ros.bench import grid, report
    from sam2_ros.model.device import find_device
    from sam2_ros.model.runtimes import choose_runtime

    with engine_errors():
        device = find_device(args.device)
        for name in args.runtime:
            choose_runtime(name, device.type, "")  # says now what can't be used
    default = ((512,), (1, 4), 12, QUICK_SECONDS) if args.quick else ((1024, 512), (1, 4, 16, 64), 30, float("inf"))
    wanted = grid.Grid(
        models=tuple(args.model or ("tiny",)),
        image_sizes=tuple(args.image_size or default[0]),
        objects=tuple(args.objects or default[1]),
        dtypes=tuple(args.dtype or ("float32", "bfloat16")),
        peers=tuple(args.peers),
        frames=args.frames or default[2],
        seconds=default[3],
        device=str(device),
        threads=args.threads,
        runtimes=args.runtime,
    )
    if args.compile:
        ready = 0
        try:
            for line in grid.compile_peers(wanted, tell):
                ready += 1
                print(line, flush=True)
        except RuntimeError as error:
            raise UserError(str(error)) from error
        if not ready:
            raise UserError("--compile found nothing to compile: --peers vos runs the official sizes; add --model tiny")
        return {}
    measured = grid.run(wanted, tell, keep)
    if not any(combination["engines"] for combination in measured["combinations"]):
        raise UserError(f"nothing was measured: no chosen runtime computes in {' or '.join(wanted.dtypes)} here")
    print(report.engine(measured))
    headline = report.headline(measured)
    for name, values in headline.items():
        print(f"{name}: " + ", ".join(f"{count} objects {value:.2f}" for count, value in values.items()))
    if args.plot:
        report.plot(measured, args.plot)
    return measured | headline


def _endpoint(args: argparse.Namespace, tell: Any, _: Keep) -> dict[str, Any]:
    from sam2_ros.bench import endpoint, report
    from sam2_ros.bench.streams import StreamsRun

    count, default, kills = (4, 60, 2) if args.quick else (8, 300, 20)
    if args.model:  # a network in place of the null engine: how streams share it
        options = ("--device", args.device, "--threads", str(args.threads))
        streams = StreamsRun(count, args.seconds or 60.0, args.model[0], options)
        address, frames = "", 0
    else:
        streams = StreamsRun(count, args.seconds or (1.0 if args.quick else 5.0))
        address, frames = args.endpoint, args.frames or default
    try:
        measured = endpoint.measure(address, frames, streams, kills, tell)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(str(error)) from error
    print(report.endpoint(measured))
    return measured


def _node(args: argparse.Namespace, tell: Any, keep: Keep) -> dict[str, Any]:
    require_modules(ROS_MODULES, "source ROS 2's setup file and that of the workspace")
    from sam2_ros.bench import node_latency, report
    from sam2_ros.bench.grid import describe_machine

    runs: list[dict[str, Any]] = []
    measured = {"machine": describe_machine("cpu"), "runs": runs}
    for model, (width, height), objects in product(args.model or NODE_MODELS, NODE_IMAGES, args.objects or (1,)):
        run = node_latency.NodeRun(model, width, height, objects, frames=args.frames or 300)
        runs.append(node_latency.measure(run, tell))
        keep(measured)
    print(report.node(measured))
    return measured


def _command() -> str:
    """The command line for the report; of an absolute path the last part, because the rest names this machine."""
    return "sam2_ros " + shlex.join(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
