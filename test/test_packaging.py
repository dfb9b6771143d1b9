"""The package is complete and says what it needs: for colcon and rosdep, for pip, and in the environment of make."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

import sam2_ros

ROOT = Path(__file__).resolve().parent.parent
# Modules whose rosdep key, or name for pip, is another one.
ROSDEP_KEYS = {
    "aiohttp": "python3-aiohttp",
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "matplotlib": "python3-matplotlib",
    "msgpack": "python3-msgpack",
    "numpy": "python3-numpy",
    "prometheus_client": "python3-prometheus-client",
    "scipy": "python3-scipy",
    "tf2_ros": "tf2_ros_py",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
    "zmq": "python3-zmq",
}
PIP_NAMES = {"PIL": "Pillow", "cv2": "opencv-python-headless", "yaml": "PyYAML", "zmq": "pyzmq"}
# docs/how_to/install.md and record_replay.md say how to get them; mcap brings lz4 and zstandard.
WITHOUT_ROSDEP_KEY = {"torch", "mcap", "lz4", "zstandard"}
OPTIONAL = {"pycocotools", "openvino", "onnxruntime"}  # the extras "eval" and "openvino"
WITH_TORCH = {"triton"}  # comes with torch for GPUs, and is imported only there
SHIPPED = {".py", ".pt", ".md", ".json", ".html", ".css", ".js", ".svg"}
DEVELOPMENT = {"playwright"}  # drives a browser for pictures, where both are there
ROS_FREE = ("model", "tracking", "inference", "server", "evaluation")


def imported_modules(*folders: str) -> set[str]:
    """Top-level modules, other than Python's own and ours, that the files in these folders import."""
    found: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found.update(alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"sam2_ros"} - WITH_TORCH


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def setup_metadata(field: str) -> str:
    """What setup.py says, asked through setuptools."""
    command = [sys.executable, "setup.py", "--quiet", f"--{field}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_every_file_names_the_same_version() -> None:
    version = sam2_ros.__version__
    assert package_xml().findtext("version") == version
    assert setup_metadata("version") == version
    changes = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert changes[0] == version


def test_release_tools_read_the_changelog(tmp_path: Path) -> None:
    """As they will on the day of the release: until then they skip the section."""
    changelog = pytest.importorskip("catkin_pkg.changelog", reason="bloom's parser comes with colcon")
    text = (
        (ROOT / "CHANGELOG.rst")
        .read_text("utf-8")
        .replace("Forthcoming\n-----------", "0.1.0 (2026-12-01)\n------------------")
    )
    (tmp_path / "CHANGELOG.rst").write_text(text)
    read = changelog.get_changelog_from_path(str(tmp_path), "sam2_ros")
    ((version, _, blocks),) = read.foreach_version()
    entries = sum(len(block.bullets) for block in blocks)
    assert version == "0.1.0" and entries == len(re.findall("^- ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M))


def test_package_xml_declares_every_import() -> None:
    declared = {element.text for element in package_xml() if element.tag in {"depend", "exec_depend"}}
    needed = imported_modules("launch", *(f"sam2_ros/{folder}" for folder in (*ROS_FREE, "ros", "tools", "viewer")))
    keys = {ROSDEP_KEYS.get(name, name) for name in needed - WITHOUT_ROSDEP_KEY - DEVELOPMENT - OPTIONAL}
    assert keys <= declared, f"not in package.xml: {sorted(keys - declared)}"


def test_package_xml_declares_every_message_package() -> None:
    declared = {element.text for element in package_xml().findall("depend")}
    used = set()
    for path in [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv"), *ROOT.glob("action/*.action")]:
        used.update(re.findall(r"^([a-z]\w*)/[A-Z]", path.read_text(encoding="utf-8"), re.M))
    assert used and used <= declared
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    match = re.search(r"set\(interface_packages ([^)]*)\)", cmake)
    assert match and used <= set(match.group(1).split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install .`` builds, from a copy, because a build writes into its source folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("sam2_ros", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copyfile(path, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    return next(target.glob("sam2_ros-*.whl"))


def test_the_wheel_holds_every_module_and_the_weights(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("sam2_ros/")}
    files = (path for path in (ROOT / "sam2_ros").rglob("*") if path.suffix in SHIPPED)
    expected = {str(path.relative_to(ROOT)) for path in files}
    assert packed == expected


def test_the_wheel_requires_what_the_library_imports(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    required = set(re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.M))
    imported = imported_modules(*(f"sam2_ros/{folder}" for folder in ROS_FREE)) - OPTIONAL
    assert {PIP_NAMES.get(name, name) for name in imported} <= required


def test_the_installed_wheel_answers_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    options = ["--no-deps", "--no-index", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, str(tmp_path / "site" / "bin" / "sam2_ros"), "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert sam2_ros.__version__ in done.stdout
    code = "import sam2_ros.tracking as t, sam2_ros.weights as w; print(t.__file__); print(w.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert all(line.startswith(str(tmp_path)) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def prefix() -> Path:
    """Where colcon installed the package."""
    packages = pytest.importorskip("ament_index_python.packages", reason="needs ROS 2")
    return Path(packages.get_package_prefix("sam2_ros"))


def test_colcon_installs_launch_files_and_parameters(prefix: Path) -> None:
    for folder in ("launch", "config"):
        sources = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert sources
        for path in sources:
            assert (prefix / "share" / "sam2_ros" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["lib/sam2_ros/tracker", "lib/sam2_ros/sam2_ros", "bin/sam2_ros"])
def test_colcon_installs_executables(prefix: Path, name: str) -> None:
    assert os.access(prefix / name, os.X_OK)


def test_colcon_installs_every_message_service_and_action(prefix: Path) -> None:
    import sam2_ros.action
    import sam2_ros.msg
    import sam2_ros.srv

    for path in ROOT.glob("msg/*.msg"):
        assert hasattr(sam2_ros.msg, path.stem)
    for path in ROOT.glob("srv/*.srv"):
        assert hasattr(sam2_ros.srv, path.stem)
    for path in ROOT.glob("action/*.action"):
        assert hasattr(sam2_ros.action, path.stem)


@pytest.fixture
def from_wheels() -> None:
    hook = sys.modules.get("_sam2_ros_env")
    if hook is None or not json.loads(Path(hook.__file__ or "").with_suffix(".json").read_text())["wheels"]:
        pytest.skip("not the environment that make setup builds from wheels")


@pytest.mark.usefixtures("from_wheels")
@pytest.mark.parametrize(
    "environment",
    [{}, {"_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}, {"LD_LIBRARY_PATH": "/elsewhere"}],
    ids=["empty", "guard of another environment", "other libraries"],
)
def test_the_environment_needs_nothing_sourced(environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import rclpy, sam2_ros.msg\nfrom ament_index_python.packages import get_package_prefix\n"
        "rclpy.init()\nnode = rclpy.create_node('probe')\n"
        "node.create_publisher(sam2_ros.msg.TrackedObjectArray, 'tracks', 1)\nprint(get_package_prefix('sam2_ros'))"
    )
    keep = {name: os.environ[name] for name in ("HOME", "ROS_DOMAIN_ID") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**keep, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_dir()  # Fast DDS may print errors before it
