"""The documents are complete: pages, links and API reference. `make docs` builds them, with warnings as errors."""

from __future__ import annotations

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
API = re.findall(r"^\.\. auto(?:class|function|exception):: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.M)


def test_every_page_is_in_the_contents() -> None:
    trees = re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.S)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    pages = [str(path.relative_to(DOCS).with_suffix("")) for path in PAGES]
    assert sorted(listed) == sorted(set(pages) - {"index"})


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    targets = {link.partition("#")[0] for link in links if "://" not in link} - {""}
    missing = {target for target in targets if not (page.parent / target).exists()}
    assert not missing


def test_the_reference_names_what_exists() -> None:
    assert len(API) > 10
    for name in API:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute).__doc__, name


def test_the_reference_holds_the_public_names_of_the_tracker() -> None:
    public = import_module("sam2_ros.tracking").__all__
    assert {f"sam2_ros.tracking.{name}" for name in public} <= set(API)


def test_sphinx_needs_no_library_that_it_is_not_told_of() -> None:
    """What the documented modules import is in docs.txt, or replaced by a stand-in (docs/conf.py)."""
    (mocked,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((DOCS / "conf.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "autodoc_mock_imports"
    )
    installed = (ROOT / "scripts" / "requirements" / "docs.txt").read_text("utf-8").split()
    for folder in ("model", "tracking", "inference"):
        for path in (ROOT / "sam2_ros" / folder).glob("*.py"):
            found = re.findall(r"^(?:import|from) (\w+)", path.read_text("utf-8"), re.M)
            third = set(found) - set(sys.stdlib_module_names) - {"sam2_ros"}
            assert third <= {*mocked, *installed}, path
