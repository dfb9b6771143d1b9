"""``sam2_ros serve``: one network for many cameras."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from sam2_ros.cli.options import add_model_arguments
from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.text import counted

DEFAULT_BIND = "tcp://127.0.0.1:5555"


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="serve one network to many cameras over ZeroMQ",
        description="Loads a network and tracks for every camera that connects: the node with inference.endpoint, or "
        "'sam2_ros track --endpoint'. After Ctrl-C or SIGTERM it answers the frames under way, then ends.",
    )
    add = parser.add_argument
    add(
        "--bind",
        action="append",
        metavar="ENDPOINT",
        help=f"ipc:///PATH or tcp://ADDRESS:PORT, also several times (default: {DEFAULT_BIND})",
    )
    add_model_arguments(parser)
    add("--image-size", type=int, default=0, metavar="PX", help="side of the network's input (0: the model's own)")
    add("--keys", type=Path, metavar="FILE", help="the server's keys, NAME.key_secret; needs --clients")
    add("--clients", type=Path, metavar="DIR", help="public keys (*.key) of accepted clients")
    add(
        "--insecure",
        action="store_true",
        help="without keys, allow addresses that other machines can reach, also for --metrics",
    )
    add("--max-streams", type=int, default=16, metavar="N", help="cameras at a time (default: 16)")
    add("--max-objects", type=int, default=64, metavar="N", help="objects of each camera (default: 64)")
    add("--max-bytes", type=int, default=64 << 20, metavar="N", help="bytes of a message (default: 64 MiB)")
    add(
        "--max-memory",
        type=int,
        default=4 << 30,
        metavar="N",
        help="bytes of all cameras' memory banks and stored frames; one camera may have a quarter (default: 4 GiB)",
    )
    add(
        "--idle",
        type=float,
        default=60.0,
        metavar="S",
        help="forget a camera after so many silent seconds (default: 60)",
    )
    add("--metrics", metavar="HOST:PORT", help="serve /metrics (Prometheus) and /health there")
    add("--grace", type=float, default=10.0, metavar="S", help="seconds to finish frames under way (default: 10)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sam2_ros.inference import BackendFactory, window_side
    from sam2_ros.remote.server import Limits, Server
    from sam2_ros.remote.server.limits import engine_sizes
    from sam2_ros.remote.server.metrics import Metrics, MetricsPage
    from sam2_ros.remote.server.security import Security, check_endpoints, check_page_address
    from sam2_ros.tracking.config import TrackerConfig

    endpoints = args.bind or [DEFAULT_BIND]
    if (args.keys is None) != (args.clients is None):
        raise UserError("--keys and --clients belong together: the server's keys, and the folder of its clients'")
    page_at = _host_and_port(args.metrics) if args.metrics else None
    with engine_errors():
        if page_at is not None:
            check_page_address(*page_at, args.insecure)
        security = Security(args.keys, args.clients) if args.keys else None
        check_endpoints(endpoints, security, args.insecure)
        limits = Limits(args.max_streams, args.max_objects, args.max_bytes, args.idle, engine_bytes=args.max_memory)
        config = TrackerConfig(max_objects=1)
        side = window_side(args.model, args.image_size, config)
        factory = BackendFactory(
            args.model, args.device, args.dtype, args.image_size, args.threads, runtime=args.runtime, window_side=side
        )
        first = factory.make(config)
    info = first.info
    first.close()
    del first  # with its memory bank
    metrics = Metrics(lambda: factory.batches)
    try:
        server = Server(factory.make, endpoints, limits, security, metrics, engine_sizes(info, config))
    except OSError as error:
        raise UserError(error.strerror or str(error)) from error
    try:
        page = MetricsPage(metrics, *page_at, server.health) if page_at is not None else None
    except OSError as error:
        server.close()
        raise UserError(f"can't bind to --metrics {args.metrics}: {error.strerror or error}") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    about = f"{info.model} on {info.device} ({info.dtype}), up to {counted(limits.streams, 'stream')}"
    keys = "clients need a key" if security else "no keys"
    print(f"serving {about}, on {', '.join(server.endpoints)}; {keys}", flush=True)
    if page is not None:
        print(f"metrics and health on port {page.port}", flush=True)
    if factory.runtime:
        print(f"the network is run by {factory.runtime}", flush=True)
    try:
        server.run(args.grace)
    finally:
        if page is not None:
            page.close()
    print("stopped", file=sys.stderr)
    return 0


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"--metrics is {text!r}; accepted: HOST:PORT, e.g. 127.0.0.1:9464")
    return host.strip("[]"), int(port)
