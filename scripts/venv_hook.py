"""Makes every Python of the environment see ROS 2 and the built package, without a script to source first.

It is installed into the environment as ``_sam2_ros_env.py``, and a ``.pth`` file imports it when an interpreter starts.
Its configuration is ``_sam2_ros_env.json`` beside it: ``prefixes`` (install prefixes, the first one takes precedence),
``site_packages`` (folders for ``sys.path``), ``wheels`` (whether ROS 2 came as wheels). It runs at every start, so it
imports little and does nothing twice.
"""

import json
import os
import sys


def _prepend(variable: str, entries: list[str]) -> bool:
    """Puts ``entries`` first in a path variable; True if one of them was missing."""
    present = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]
    if all(entry in present for entry in entries):
        return False
    os.environ[variable] = os.pathsep.join([*entries, *(entry for entry in present if entry not in entries)])
    return True


def _apply() -> None:
    with open(os.path.join(os.path.dirname(__file__), "_sam2_ros_env.json"), encoding="utf-8") as file:
        config = json.load(file)
    prefixes = config["prefixes"]
    sys.path.extend(folder for folder in config["site_packages"] if folder not in sys.path)
    _prepend("AMENT_PREFIX_PATH", prefixes)
    _prepend("PATH", [os.path.join(sys.prefix, "bin")])
    if not _prepend("LD_LIBRARY_PATH", [os.path.join(prefix, "lib") for prefix in prefixes]):
        return
    # The loader reads LD_LIBRARY_PATH only when a process starts. So the ROS wheels' own bootstrapper, imported after
    # this module, restarts the interpreter, unless its guard variable is set. A guard inherited from a process of
    # another environment would be wrong here. Without the wheels there is no bootstrapper.
    os.environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    if not config["wheels"]:
        os.execve(sys.executable, sys.orig_argv, os.environ)


_apply()
