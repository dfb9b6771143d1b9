"""The layers point downward only, and what runs without torch, ROS 2 or ZeroMQ imports none of them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "sam2_ros"
# From the lowest to the highest; a module imports from its own layer and from those before it.
LAYERS = ("model", "tracking", "inference", "ros")
# Files, pictures and prompts as the command line reads them; the node reads them the same way. They stand below the
# layers: of these, they import from tracking at most.
SHARED_TOOLS = ("errors", "masks", "overlay", "prompts", "sources")
# What the evaluation takes from the command line besides: the same engine loop and pictures. It stands above them and
# below the verb and the training, which use it.
EVALUATION_TOOLS = (*SHARED_TOOLS, "pictures", "run")


def modules(layer: str) -> list[Path]:
    """The layer's source files."""
    return sorted((PACKAGE / layer).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports, also inside functions."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def loaded_by(statement: str, *names: str) -> list[str]:
    """Which of the top-level modules ``names`` a fresh interpreter has loaded after ``statement``."""
    code = f"import json, sys\n{statement}\nprint(json.dumps([n for n in {names!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_nothing_from_above(layer: str) -> None:
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "tools", "server", "viewer", "evaluation", "training", "bench"}
    files = modules(layer)
    assert files, f"no sources in {PACKAGE / layer}"
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in files
        for line, name in imported_names(path)
        if name.startswith("sam2_ros.") and name.split(".")[1] in above and not (layer == "ros" and is_shared(name))
    ]
    assert not wrong, "\n".join(wrong)


def is_shared(name: str) -> bool:
    """Whether an imported name is, or belongs to, one of the shared tools."""
    return any(f"{name}.".startswith(f"sam2_ros.cli.{tool}.") for tool in SHARED_TOOLS)


@pytest.mark.parametrize("tool", SHARED_TOOLS)
def test_a_shared_tool_stands_below_the_node(tool: str) -> None:
    for line, name in imported_names(PACKAGE / "tools" / f"{tool}.py"):
        known = is_shared(name) or name.startswith("sam2_ros.tracking.")
        assert known or not name.startswith("sam2_ros."), f"tools/{tool}.py:{line} imports {name}"


def test_the_evaluation_stands_below_its_verb_and_the_training() -> None:
    files = modules("evaluation")
    assert files
    for path in files:
        for line, name in imported_names(path):
            parts = name.split(".")
            if parts[0] == "sam2_ros" and len(parts) > 2:
                known = parts[1] in ("model", "tracking", "inference", "evaluation")
                known = known or (parts[1] == "tools" and parts[2] in EVALUATION_TOOLS)
                assert known, f"{path.relative_to(PACKAGE)}:{line} imports {name}"


def test_the_evaluation_loads_neither_ros_nor_torch() -> None:
    names = [module_name(path) for path in modules("evaluation")]
    statement = "\n".join(f"import {name}" for name in names)
    assert loaded_by(statement, "rclpy", "torch", "cv2") == ["cv2"]


def test_the_network_needs_torch_and_numpy_alone() -> None:
    for path in modules("model"):
        for line, name in imported_names(path):
            top = name.split(".")[0]
            known = top in sys.stdlib_module_names or top in {"sam2_ros", "torch", "numpy"}
            known = known or (top == "triton" and path.parent.name == "gpu")  # which is imported where there is one
            assert known, f"{path.relative_to(PACKAGE)}:{line} imports {name}"


def test_tracking_loads_neither_ros_nor_zmq() -> None:
    statement = "import sam2_ros.tracking\nsam2_ros.tracking.Tracker"
    assert loaded_by(statement, "rclpy", "zmq", "torch") == ["torch"]


def test_the_node_loads_no_torch() -> None:
    pytest.importorskip("rclpy", reason="the node needs ROS 2")
    names = [module_name(path) for path in [*modules("ros"), *modules("inference")]]
    names.remove("sam2_ros.inference.local")
    statement = "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))
    assert loaded_by(statement, "rclpy", "torch") == ["rclpy"]


def test_the_command_line_answers_without_torch_and_ros() -> None:
    statement = (
        "import contextlib, sam2_ros.cli.main as main\nwith contextlib.suppress(SystemExit): main.main(['--help'])"
    )
    assert loaded_by(statement, "torch", "rclpy", "cv2") == []
