"""Fixtures of the node's tests; the other side of the node is in node_harness."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def parameters_file(folder: Path) -> Path:
    """Parameters for quick tests: no network, frequent diagnostics, short waits."""
    file = folder / "parameters.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    model.name: 'null'\n    diagnostics.period: 0.1\n    input.timeout: 0.3\n"
        "    prompts.wait: 0.5\n    tracker.max_objects: 4\n"
    )
    return file
