"""The layers point downward only, and what runs without torch, ROS 2 or ZeroMQ imports none of them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "sam2_ros"
# From the lowest to the highest; a module imports from its own layer and from those before it.
LAYERS = (
    "allocator", "text", "model", "tracking", "media", "inference", "remote", "ros", "viewer", "simulation",
    "annotation", "evaluation", "training", "bench", "demo", "cli",
)  # fmt: skip
NOT_LAYERS = {"weights", "msg", "srv", "action"}  # data, and what the build generates from msg/, srv/ and action/


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


def layer_of(name: str) -> str:
    """The layer of a module of the package; empty for what is none."""
    parts = name.split(".")
    return parts[1] if parts[0] == "sam2_ros" and len(parts) > 1 and parts[1] in LAYERS else ""


def test_every_folder_is_a_layer() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert (folders | files) - NOT_LAYERS == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_nothing_from_above(layer: str) -> None:
    files = modules(layer) or [PACKAGE / f"{layer}.py"]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in files
        for line, name in imported_names(path)
        if layer_of(name) in above
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_over_others() -> None:
    names = {module_name(path): path for layer in LAYERS for path in modules(layer)}
    graph = {
        name: {known for _, found in imported_names(path) if (known := nearest(found, names)) not in ("", name)}
        for name, path in names.items()
        if path.name != "__init__.py"  # a package's face names its modules, which may name each other's package
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def nearest(name: str, names: Collection[str]) -> str:
    """The module of the package that ``name`` is, or is defined in; empty where it is none of them."""
    parent = name.rpartition(".")[0]
    return name if name in names else parent if parent in names else ""


def test_the_evaluation_loads_neither_ros_nor_torch() -> None:
    names = [module_name(path) for path in modules("evaluation")]
    statement = "\n".join(f"import {name}" for name in names)
    assert loaded_by(statement, "rclpy", "torch", "cv2") == ["cv2"]


def test_the_network_needs_torch_numpy_and_scipy_alone() -> None:
    for path in modules("model"):
        for line, name in imported_names(path):
            top = name.split(".")[0]
            known = top in sys.stdlib_module_names or top in {"sam2_ros", "torch", "numpy", "scipy"}
            known = known or (top == "triton" and path.parent.name == "gpu")  # which is imported where there is one
            known = known or (top in {"openvino", "onnxruntime"} and path.name in {"runtimes.py", "int8.py"})
            assert known, f"{path.relative_to(PACKAGE)}:{line} imports {name}"


def test_tracking_loads_neither_ros_nor_zmq_nor_torch() -> None:
    """Only what works on a GPU imports torch."""
    names = [module_name(path) for path in modules("tracking") if not path.stem.startswith("cuda_")]
    statement = "\n".join(f"import {name}" for name in names)
    assert loaded_by(statement, "rclpy", "zmq", "torch", "scipy") == ["scipy"]


def test_the_node_loads_no_torch() -> None:
    pytest.importorskip("rclpy", reason="the node needs ROS 2")
    names = [module_name(path) for path in [*modules("ros"), *modules("inference"), *modules("remote")]]
    statement = "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))
    assert loaded_by(statement, "rclpy", "torch") == ["rclpy"]


def test_data_sets_are_made_and_reviewed_without_ros() -> None:
    names = [module_name(path) for path in [*modules("annotation"), PACKAGE / "viewer" / "web_server.py"]]
    statement = "\n".join(f"import {name}" for name in names)
    assert loaded_by(statement, "rclpy", "aiohttp") == ["aiohttp"]


def test_the_command_line_answers_without_torch_and_ros() -> None:
    statement = (
        "import contextlib, sam2_ros.cli.main as main\nwith contextlib.suppress(SystemExit): main.main(['--help'])"
    )
    assert loaded_by(statement, "torch", "rclpy", "cv2") == []
