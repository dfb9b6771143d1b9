"""Environment variables for fast transfer of large images, for launch files and command lines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sam2_ros import allocator

TRANSPORTS = ("shared_memory", "large_data", "default")

_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # of Fast DDS 2 and 3
_BUILTIN_VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"


def environment(transport: str = "shared_memory", present: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables to set, without those that ``present`` (default: the environment of this process) has already.

    Args:
        transport: "shared_memory": the package's ``config/fastdds.xml``, compatible with Fast DDS's default settings.
            "large_data": Fast DDS's mode of this name (TCP and shared memory), which does not connect to processes
            with the default settings. "default": sets nothing.

    Raises:
        ValueError: another transport.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport is '{transport}'; accepted: {', '.join(TRANSPORTS)}")
    present = os.environ if present is None else present
    wanted = dict(allocator.VARIABLES)
    if not any(name in present for name in (*_PROFILE_VARIABLES, _BUILTIN_VARIABLE)):
        if transport == "shared_memory":
            wanted[profile_variable()] = str(profile_file())
        elif transport == "large_data":
            wanted[_BUILTIN_VARIABLE] = "LARGE_DATA"
    return {name: value for name, value in wanted.items() if name not in present}


def profile_file() -> Path:
    """The installed ``config/fastdds.xml``."""
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("sam2_ros"), "config", "fastdds.xml")


def profile_variable() -> str:
    """The variable that names the profiles of the installed Fast DDS. With both, version 3 (from Kilted on) would read
    the file twice and print errors."""
    from ament_index_python import get_search_paths

    return _PROFILE_VARIABLES[any(Path(prefix, "share", "fastdds").is_dir() for prefix in get_search_paths())]
