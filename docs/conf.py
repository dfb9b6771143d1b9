"""How Sphinx builds these documents: ``make docs``, with every warning as an error."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sam2_ros import __version__ as release  # noqa: E402

project = "sam2_ros"
author = "The sam2_ros authors"
copyright = author
version = release
extensions = ["myst_parser"]

# The files are written for readers on a forge too: the same heading anchors, tables, and HTML pictures.
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]
suppress_warnings = ["myst.xref_missing"]  # links into the source tree; test/test_docs.py checks every link
highlight_language = "none"  # most blocks without a language are commands or formulas

html_theme = "furo"
html_title = f"sam2_ros {release}"
html_show_sphinx = False
html_copy_source = False
