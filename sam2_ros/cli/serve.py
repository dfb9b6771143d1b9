"""``sam2_ros serve``: one network for many cameras."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import add_model_arguments
from sam2_ros.media.errors import UserError, engine_errors

if TYPE_CHECKING:
    from sam2_ros.remote.server.security import Security

DEFAULT_BIND = "tcp://127.0.0.1:5555"


def register(subparsers: Any) -> None:
    """Adds the verb to the command line."""
    parser = subparsers.add_parser(
        "serve",
        help="serve one network to many cameras over ZeroMQ",
        description="Loads a network and tracks for every camera that connects: the node with inference.endpoint, or "
        "'sam2_ros track --endpoint'. After Ctrl-C or SIGTERM it answers the frames under way, then ends.",
    )
    parser.add_argument(
        "--bind",
        action="append",
        metavar="ENDPOINT",
        help=f"ipc:///PATH or tcp://ADDRESS:PORT, also several times (default: {DEFAULT_BIND})",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--image-size", type=int, default=0, metavar="PX", help="side of the network's input (0: the model's own)"
    )
    parser.add_argument("--keys", type=Path, metavar="FILE", help="the server's keys, NAME.key_secret; needs --clients")
    parser.add_argument("--clients", type=Path, metavar="DIR", help="public keys (*.key) of accepted clients")
    parser.add_argument(
        "--insecure", action="store_true", help="without keys, allow addresses that other machines can reach"
    )
    parser.add_argument("--max-streams", type=int, default=16, metavar="N", help="cameras at a time (default: 16)")
    parser.add_argument("--max-objects", type=int, default=64, metavar="N", help="objects of each camera (default: 64)")
    parser.add_argument(
        "--max-bytes", type=int, default=64 << 20, metavar="N", help="bytes of a message (default: 64 MiB)"
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=60.0,
        metavar="S",
        help="forget a camera after so many silent seconds (default: 60)",
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve /metrics (Prometheus) and /health there")
    parser.add_argument(
        "--grace", type=float, default=10.0, metavar="S", help="seconds to finish frames under way (default: 10)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code."""
    import zmq

    from sam2_ros.inference import BackendFactory
    from sam2_ros.remote.server import Limits, Server
    from sam2_ros.remote.server.metrics import Metrics, MetricsPage
    from sam2_ros.remote.server.security import check_endpoints
    from sam2_ros.tracking.config import TrackerConfig

    endpoints = args.bind or [DEFAULT_BIND]
    with engine_errors():
        security = _security(args)
        check_endpoints(endpoints, security, args.insecure)
        limits = Limits(args.max_streams, args.max_objects, args.max_bytes, args.idle)
        factory = BackendFactory(args.model, args.device, args.dtype, args.image_size, args.threads)
        first = factory.make(TrackerConfig(max_objects=1))
    info = first.info
    first.close()
    metrics = Metrics()
    metrics.watch_batches(lambda: factory.batches)
    try:
        server = Server(factory.make, endpoints, limits, security, metrics)
    except zmq.ZMQError as error:
        raise UserError(f"can't bind to {', '.join(endpoints)}: {error}") from error
    page = _metrics_page(args.metrics, metrics, server.health, MetricsPage) if args.metrics else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    about = f"{info.model} on {info.device} ({info.dtype}), up to {limits.streams} streams"
    keys = "clients need a key" if security else "no keys"
    print(f"serving {about}, on {', '.join(server.endpoints)}; {keys}", flush=True)
    if page is not None:
        print(f"metrics and health on port {page.port}", flush=True)
    try:
        server.run(args.grace)
    finally:
        if page is not None:
            page.close()
    print("stopped", file=sys.stderr)
    return 0


def _security(args: argparse.Namespace) -> Security | None:
    from sam2_ros.remote.server.security import Security

    if args.keys is None and args.clients is None:
        return None
    if args.keys is None or args.clients is None:
        raise ValueError("--keys and --clients belong together: the server's keys, and the folder of its clients'")
    return Security(args.keys, args.clients)


def _metrics_page(where: str, metrics: Any, health: Any, page: Any) -> Any:
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"--metrics is {where!r}; accepted: HOST:PORT, e.g. 127.0.0.1:9464")
    return page(metrics, host.strip("[]"), int(port), health)
