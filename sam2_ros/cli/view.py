"""``sam2_ros view``: a web page with live pictures of running trackers, where a click adds an object."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

from sam2_ros.cli.options import check_least, require_modules
from sam2_ros.media.errors import UserError

DEFAULT_PORT = 8642


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "view",
        help="show running trackers in the browser, and click on objects",
        description="Serves a web page with the picture, masks, states and timeline of every running tracker; a click "
        "adds or refines an object. It is a client of the node's topics and services. Only this machine can reach it, "
        "unless --host says otherwise. Then browsers need a token, which is in the printed address.",
    )
    add = parser.add_argument
    add("--node", default="", metavar="NAME", help="one tracker, or camera of one (default: all)")
    add("--image", default="", metavar="TOPIC", help="topic of the pictures (default: that of the tracker)")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1; all: 0.0.0.0)")
    add("--port", type=int, default=DEFAULT_PORT, help=f"0 = a free one (default: {DEFAULT_PORT})")
    add("--token", default="", help="secret that browsers must send (default: none on this machine)")
    add("--max-side", type=int, default=1280, metavar="PX", help="shrink larger pictures (default: 1280)")
    add("--open", action="store_true", help="open the page in this machine's browser")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port is {args.port}; accepted: 0 to 65535")
    check_least(args, max_side=64)
    cure = "source the setup files of ROS 2 and the workspace, and: python3 -m pip install aiohttp"
    require_modules(("rclpy", "sam2_ros.msg", "aiohttp"), cure)
    from sam2_ros.ros.dds_environment import environment

    os.environ.update(environment())  # as the launch files do; before the first ROS context
    from sam2_ros.viewer.hub import RosHub
    from sam2_ros.viewer.web_server import serve

    def ready(address: str) -> None:
        print(f"sam2_ros: viewer at {address}", flush=True)
        if args.open:
            import webbrowser

            webbrowser.open(address)

    asyncio.run(serve(lambda: RosHub(args.node, args.image, args.max_side), args.host, args.port, args.token, ready))
    return 0
