"""How Sphinx builds these documents: ``make docs``, with every warning as an error."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sam2_ros import __version__ as release  # noqa: E402

project = "sam2_ros"
author = "The sam2_ros authors"
copyright = author
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# The files are written for readers on a forge too: the same heading anchors, tables, and HTML pictures.
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]
highlight_language = "none"  # most blocks without a language are commands or formulas

# The network's libraries are not needed to read the docstrings, and torch would be most of the environment.
autodoc_mock_imports = ["cv2", "msgpack", "PIL", "scipy", "torch", "zmq"]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"sam2_ros {release}"
html_show_sphinx = False
html_copy_source = False


def field_comments(owner: type) -> dict[str, str]:
    """What stands behind the fields of a class as comments (shapes, units), by the field's name."""
    comments: dict[str, str] = {}
    field = ""
    for line in inspect.getsource(owner).splitlines():
        if match := re.match(r"    (\w+)(?:: .*?| = .*?)  # (.+)", line):
            field = match[1]
            comments[field] = match[2]
        elif field and (match := re.match(r"    # (.+)", line)):
            comments[field] += f" {match[1]}"
        else:
            field = ""
    return comments


def add_fields(_app: Any, what: str, _name: str, documented: Any, _options: Any, lines: list[str]) -> None:
    """Lists a data class's fields with their comments as its parameters; autodoc reads ``#:`` alone."""
    if what != "class" or not is_dataclass(documented):
        return
    comments = field_comments(documented)
    lines.append("")
    for field in fields(documented):
        comment = re.sub(r"([*|])", r"\\\1", comments.get(field.name, ""))
        lines.append(f":param {field.name}: {comment}")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", add_fields)
