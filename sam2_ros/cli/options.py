"""Options and checks that several verbs share."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.model.config import DTYPES, RUNTIMES, SIZES

if TYPE_CHECKING:
    from sam2_ros.inference.backend import Backend
    from sam2_ros.tracking import TrackerConfig
    from sam2_ros.viewer.session import Hub

ROS_MODULES = ("rclpy", "launch", "sam2_ros.msg")
SOURCE_HELP = (
    "video file; folder of numbered images, or a pattern such as img_%%05d.jpg; camera (0 or /dev/video0); or the "
    "address of a video or live stream (rtsp://, http://, ...)"
)
SERVER_TIMEOUT, SERVER_PATIENCE = 60.0, 30.0  # s, for an answer; for another server when one is lost
RECORDING_CURE = "recordings need ROS 2 and: python3 -m pip install mcap"


def add_model_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """The options that choose the engine, or ``several`` models one after the other."""
    parser.add_argument(
        "--model",
        nargs="+" if several else None,
        default=["embedded"] if several else "embedded",
        metavar="MODEL",
        help=f"embedded (default), a downloaded official model ({SIZES}), or a path: of weights, or of the folder "
        "of an exported network, which needs no PyTorch",
    )
    parser.add_argument("--device", default="auto", help="auto (default: CUDA if there is a GPU), cpu, cuda, cuda:N")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=DTYPES,
        help="auto (default): bfloat16 if the hardware computes in it; else int8 if it has that, and OpenVINO runs the "
        "embedded model; else float32",
    )
    add_runtime_argument(parser)
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: torch's choice)")


def add_runtime_argument(parser: argparse.ArgumentParser) -> None:
    """The option that chooses what runs the network."""
    parser.add_argument(
        "--runtime",
        default="auto",
        choices=RUNTIMES,
        metavar="RUNTIME",
        help=f"what runs the network: {', '.join(RUNTIMES)}; auto (default): OpenVINO for the embedded model on a CPU "
        "if it is installed and works, else torch",
    )


def add_endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose an inference server."""
    add = parser.add_argument
    add(
        "--endpoint",
        action="append",
        metavar="ENDPOINT",
        help="let a server (sam2_ros serve) track with its model: tcp://HOST:PORT or ipc:///PATH; if given several "
        "times, the next server takes over when one fails",
    )
    add(
        "--pixels",
        default="auto",
        choices=("auto", "raw", "jpeg", "shm"),
        help="how frames go to the server (default: shared memory on this machine, else raw)",
    )
    add("--key", metavar="FILE", help="this client's keys (NAME.key_secret), if the server demands keys")
    add("--server-key", metavar="FILE", help="the server's public key (NAME.key)")


def add_page_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """The options of a web page."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1; all: 0.0.0.0)")
    add("--port", type=int, default=port, help=f"0 = a free one (default: {port})")
    add("--token", default="", help="secret that browsers must send (default: none on this machine)")
    add("--max-side", type=int, default=1280, metavar="PX", help="shrink larger pictures (default: 1280)")
    add("--open", action="store_true", help="open the page in this machine's browser")


def check_page(args: argparse.Namespace) -> None:
    """
    Raises:
        UserError: an option of the page can't be.
    """
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port is {args.port}; accepted: 0 to 65535")
    check_least(args, max_side=64)


def serve_page(args: argparse.Namespace, make_hub: Callable[[], Hub], title: str, first_page: str) -> None:
    """Serves a page until SIGINT or SIGTERM; its address is printed.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    from sam2_ros.viewer.web_server import serve

    def ready(address: str) -> None:
        print(f"sam2_ros: {title} at {address}", flush=True)
        if args.open:
            import webbrowser

            webbrowser.open(address)

    asyncio.run(serve(make_hub, args.host, args.port, args.token, ready, first_page))


def add_live_arguments(parser: argparse.ArgumentParser, live_help: str) -> None:
    """The options that play a clip against a simulated clock."""
    add = parser.add_argument
    add("--live", type=float, metavar="RATE", help=live_help)
    add("--latency", type=float, metavar="SECONDS", help="with --live: of the engine (default: what it takes here)")


def check_live(args: argparse.Namespace) -> None:
    """Refuses a rate or times that can't be, and times without a rate.

    Raises:
        UserError: with the option and its value.
    """
    for name, least, most in (("live", 0.1, 1000.0), ("latency", 0.0, 60.0), ("deadline", 0.0, 60.0)):
        value = getattr(args, name, None)
        if value is None:
            continue
        if not least <= value <= most:
            raise UserError(f"--{name} is {value}; accepted: {least:g} to {most:g}")
        if args.live is None:
            raise UserError(f"--{name} belongs to --live RATE, the camera's images a second")


def add_tracker_arguments(parser: argparse.ArgumentParser, more: str = "") -> None:
    """``--windows`` and ``--no-windows``, of which the first also does what ``more`` says, ``--window-budget``, and
    ``--edges`` and ``--no-edges``."""
    parser.add_argument(
        "--windows",
        action=argparse.BooleanOptionalAction,
        help="look through windows that follow the objects, which shows small ones larger (tracker.window: on, or "
        f"off){more}; default: with the embedded model",
    )
    parser.add_argument(
        "--window-budget",
        type=float,
        metavar="FACTOR",
        help="with windows: time of a frame, as a multiple of that without (tracker.window_budget; default: 1; 0: all "
        "objects on every frame)",
    )
    parser.add_argument(
        "--edges",
        action=argparse.BooleanOptionalAction,
        help="draw the edges of masks where the image has them (tracker.edges: on, or off); default: with the embedded "
        "model",
    )


def tracker_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of the tracker that :func:`add_tracker_arguments` choose.

    Raises:
        UserError: they are not accepted.
    """
    from sam2_ros.tracking import TrackerConfig

    windows, budget = getattr(args, "windows", None), getattr(args, "window_budget", None)
    if budget is not None and windows is False:
        raise UserError("--window-budget came with --no-windows; it belongs to windows")
    switch = {None: "auto", True: "on", False: "off"}
    chosen: dict[str, Any] = {"window": switch[windows], "edges": switch[getattr(args, "edges", None)]}
    chosen |= {} if budget is None else {"window_budget": budget}
    try:
        TrackerConfig(**chosen)
    except ValueError as error:
        raise UserError(f"--window-budget: {error}") from None
    return chosen


def load_backend(args: argparse.Namespace, objects: int) -> Backend:
    """The engine that ``args`` choose, with room for ``objects``.

    Raises:
        UserError: the model can't be loaded.
    """
    from sam2_ros.inference import make_backend
    from sam2_ros.tracking import TrackerConfig

    config = TrackerConfig(max_objects=max(1, objects), **tracker_settings(args))
    if getattr(args, "endpoint", None):
        return _connect(args, config)
    with engine_errors():
        return make_backend(args.model, args.device, args.dtype, config, threads=args.threads, runtime=args.runtime)


def _connect(args: argparse.Namespace, config: TrackerConfig) -> Backend:
    from sam2_ros.remote.client import ClientKeys, RemoteBackend
    from sam2_ros.remote.endpoints import check_endpoint

    for option in ("model", "device", "dtype", "runtime", "threads"):
        if getattr(args, option) not in ("embedded", "auto", 0):
            raise UserError(f"--{option} does not go with --endpoint; give it to the server: sam2_ros serve --{option}")
    if bool(args.key) != bool(args.server_key):
        raise UserError("--key and --server-key belong together: this client's keys, and the server's public key")
    client_keys = ClientKeys(args.key, args.server_key) if args.key else None
    try:
        for endpoint in args.endpoint:
            check_endpoint("--endpoint", endpoint)
        # No frame is dropped here, so a slow one may take its time.
        backend = RemoteBackend(
            args.endpoint, config, timeout=SERVER_TIMEOUT, pixels=args.pixels, client_keys=client_keys
        )
        backend.connect(wait=5.0)
    except (ValueError, ConnectionError) as error:
        raise UserError(str(error)) from error
    return backend


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Refuses numbers up to 0 and those that are not finite; None is accepted.

    Raises:
        UserError: with the option and its value.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} is {value}; accepted: more than 0")


def check_least(args: argparse.Namespace, **least: float) -> None:
    """Refuses numbers below their ``least`` and those that are not finite, also in a list; None is accepted.

    Raises:
        UserError: with the option and its value.
    """
    for name, limit in least.items():
        given = getattr(args, name)
        for value in given if isinstance(given, list | tuple) else (given,):
            if value is not None and not limit <= value < math.inf:
                raise UserError(f"--{name.replace('_', '-')} is {value}; accepted: {limit} or more")


def require_modules(modules: Sequence[str], cure: str) -> None:
    """
    Raises:
        UserError: a module can't be imported; ``cure`` says what to do.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"this verb needs {module} ({error}); {cure}") from None
