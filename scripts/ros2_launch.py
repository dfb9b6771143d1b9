"""``ros2 launch`` for the environment built from wheels, which has no package ros2launch.

It accepts the two common forms of the original: ``ros2 launch PACKAGE FILE [NAME:=VALUE ...]`` and
``ros2 launch PATH [NAME:=VALUE ...]``, with ``--show-args`` and ``--debug``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from ros2cli.command import CommandExtension


def find_launch_file(package_or_path: str, file_name: str | None) -> Path:
    """The launch file that the arguments name.

    Raises:
        FileNotFoundError: there is none; the message names what exists.
    """
    if file_name is None:
        path = Path(package_or_path)
        if not path.is_file():
            raise FileNotFoundError(f"no launch file '{path}'; name a file, or a package and one of its launch files")
        return path
    try:
        share = Path(get_package_share_directory(package_or_path))
    except PackageNotFoundError as error:
        raise FileNotFoundError(f"no package '{package_or_path}' in AMENT_PREFIX_PATH") from error
    found = sorted(path for path in share.rglob(file_name) if path.is_file())
    if not found:
        known = ", ".join(sorted(path.name for path in share.rglob("*launch*.*"))) or "none"
        raise FileNotFoundError(f"package '{package_or_path}' has no launch file '{file_name}'; it has: {known}")
    return found[0]


class LaunchCommand(CommandExtension):
    """Runs a launch file."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:
        parser.add_argument("-d", "--debug", action="store_true", help="launch's own debug output")
        parser.add_argument("-s", "--show-args", action="store_true", help="show the launch file's arguments and end")
        parser.add_argument("package_name", help="package, or path of a launch file")
        parser.add_argument("rest", nargs="*", metavar="launch_file_name | NAME:=VALUE", help="file, arguments")

    def main(self, *, parser: argparse.ArgumentParser, args: Any) -> int:
        file_name = args.rest.pop(0) if args.rest and ":=" not in args.rest[0] else None
        try:
            path = find_launch_file(args.package_name, file_name)
        except FileNotFoundError as error:
            return str(error)  # type: ignore[return-value]  # ros2cli prints a string and ends with status 1
        arguments = []
        for item in args.rest:
            name, separator, value = item.partition(":=")
            if not separator or not name:
                return f"'{item}' is not of the form NAME:=VALUE"  # type: ignore[return-value]
            arguments.append((name, value))
        source = AnyLaunchDescriptionSource(str(path))
        service = LaunchService(argv=args.rest, debug=args.debug)
        if args.show_args:
            description = source.get_launch_description(service.context)
            print("Arguments (pass arguments as 'NAME:=VALUE'):")
            for argument in description.get_launch_arguments():
                default = "".join(part.describe() for part in argument.default_value or ())
                print(f"\n    '{argument.name}':\n        {argument.description}\n        (default: {default})")
            return 0
        service.include_launch_description(
            LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
        )
        return int(service.run())
