"""Definitions of message types for recordings (encoding ``ros2msg``), from the installed ``.msg`` files."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_RULE = "=" * 80
_FIELD_TYPE = re.compile(r"^[ \t]*([A-Z]\w*|\w+/\w+)", re.MULTILINE)  # names of primitive types are lower-case
_SERVICE_EVENT = """service_msgs/ServiceEventInfo info
{package}/{name}_Request[<=1] request
{package}/{name}_Response[<=1] response
"""


@cache
def definition(type_name: str) -> str:
    """The text of a type, followed by the texts of all types that it uses.

    Args:
        type_name: ``sensor_msgs/msg/Image``, or ``sam2_ros/srv/AddObjects_Event`` for calls of a service.

    Raises:
        LookupError: the type's package or file is not installed.
    """
    package, _, name = type_name.split("/")
    texts = {f"{package}/{name}": _text(package, name)}
    waiting = list(texts)
    while waiting:
        used = _used(texts[waiting[0]], waiting.pop(0).partition("/")[0])
        for short in used:
            if short not in texts:
                texts[short] = _text(*short.split("/"))
                waiting.append(short)
    root, *others = texts.items()
    return "\n".join([root[1], *(f"{_RULE}\nMSG: {short}\n{text}" for short, text in others)])


def _used(text: str, package: str) -> list[str]:
    """The types of the fields in a definition, as ``package/Name``, without the primitive ones."""
    return [name if "/" in name else f"{package}/{name}" for name in _FIELD_TYPE.findall(text)]


def _text(package: str, name: str) -> str:
    if name.endswith("_Event"):
        return _SERVICE_EVENT.format(package=package, name=name.removesuffix("_Event"))
    for part, index in (("_Request", 0), ("_Response", 1)):
        if name.endswith(part):
            return _file(package, "srv", f"{name.removesuffix(part)}.srv").split("\n---\n")[index] + "\n"
    return _file(package, "msg", f"{name}.msg")


def _file(package: str, folder: str, file: str) -> str:
    from ament_index_python.packages import get_package_share_directory

    path = Path(get_package_share_directory(package), folder, file)
    if not path.is_file():
        raise LookupError(f"{package} has no {folder}/{file} in {path.parent}")
    return path.read_text(encoding="utf-8")
