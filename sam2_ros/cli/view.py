"""``sam2_ros view``: a web page with live pictures of running trackers, where a click adds an object."""

from __future__ import annotations

import argparse
import os
from typing import Any

from sam2_ros.cli.options import add_page_arguments, check_page, require_modules, serve_page
from sam2_ros.ros.node_services import node_name

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
    add("--node", type=node_name, metavar="NAME", help="one tracker, or camera of one (default: all)")
    add("--image", default="", metavar="TOPIC", help="topic of the pictures (default: that of the tracker)")
    add_page_arguments(parser, DEFAULT_PORT)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_page(args)
    cure = "source the setup files of ROS 2 and the workspace, and: python3 -m pip install aiohttp"
    require_modules(("rclpy", "sam2_ros.msg", "aiohttp"), cure)
    from sam2_ros.ros.dds_environment import environment

    os.environ.update(environment())  # as the launch files do; before the first ROS context
    from sam2_ros.viewer.hub import RosHub

    serve_page(args, lambda: RosHub(args.node or "", args.image, args.max_side), "viewer", "index.html")
    return 0
