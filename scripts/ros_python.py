"""Installs the parts of ROS 2 without wheels of their own: launch, the command line, vision_msgs and a few more.

They are upstream ROS 2 packages under Apache-2.0 and BSD licences inside one large wheel. Only the packages named here
are unpacked, into a cache. The Python packages are copied into the environment, the two interface packages are built.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

BASE = "isaacsim/exts/isaacsim.ros2.core/jazzy/"
PYTHON_PACKAGES = (
    "diagnostic_updater", "launch", "launch_ros", "launch_testing", "launch_testing_ros", "launch_xml", "launch_yaml",
    "message_filters", "osrf_pycommon", "ros2cli", "ros2node", "ros2param", "ros2pkg", "ros2run", "ros2service",
    "ros2topic", "rosidl_runtime_py",
)  # fmt: skip
PYTHON_FILE = "launch_testing_ros_pytest_entrypoint.py"
INTERFACE_PACKAGES = {"composition_interfaces": ("rcl_interfaces",), "vision_msgs": ("std_msgs", "geometry_msgs")}
COMMANDS = {"ros2": "ros2cli.cli", "_ros2_daemon": "ros2cli.daemon"}

CMAKE_TEMPLATE = """\
cmake_minimum_required(VERSION 3.16)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
foreach(package {dependencies})
  find_package(${{package}} REQUIRED)
endforeach()
file(GLOB interfaces RELATIVE "${{CMAKE_CURRENT_SOURCE_DIR}}" msg/*.msg srv/*.srv)
rosidl_generate_interfaces(${{PROJECT_NAME}} ${{interfaces}} DEPENDENCIES {dependencies})
ament_export_dependencies(rosidl_default_runtime)
ament_package()
"""


def unpack(wheel: Path, folder: Path) -> None:
    """Unpacks the packages named above from ``wheel`` to ``folder``: ``python/``, ``share/`` and ``interfaces/``."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            target = _target(name)
            if target is not None and not name.endswith("/"):
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    for name, dependencies in INTERFACE_PACKAGES.items():
        text = CMAKE_TEMPLATE.format(name=name, dependencies=" ".join(dependencies))
        (folder / "interfaces" / name / "CMakeLists.txt").write_text(text, encoding="utf-8")


def _target(name: str) -> str | None:
    """The path of a member of the wheel in the unpacked folder; None for unneeded members."""
    if not name.startswith(BASE):
        return None
    parts = name[len(BASE) :].split("/")
    if parts[0] == "rclpy" and len(parts) > 1:
        package = re.sub(r"-[\d.]+-py[\d.]+\.egg-info$", "", parts[1])
        if package in PYTHON_PACKAGES or name.endswith(PYTHON_FILE):
            return "/".join(["python", *parts[1:]])
    elif parts[0] == "share" and len(parts) > 2:
        if parts[1] in PYTHON_PACKAGES or (parts[1:4] and parts[1] == "ament_index" and parts[-1] in PYTHON_PACKAGES):
            return "/".join(parts) if parts[-2] != "parent_prefix_path" else None
        if parts[1] in INTERFACE_PACKAGES and (parts[2] == "package.xml" or parts[-1].endswith((".msg", ".srv"))):
            return "/".join(["interfaces", *parts[1:]])
    return None


def install(folder: Path, venv: Path, site_packages: Path) -> None:
    """Copies the unpacked Python packages, their ``share`` and the ``ros2`` command into the environment."""
    shutil.copytree(folder / "python", site_packages, dirs_exist_ok=True)
    shutil.copytree(folder / "share", venv / "share", dirs_exist_ok=True)
    for command, module in COMMANDS.items():
        script = venv / "bin" / command
        script.write_text(
            f"#!{venv}/bin/python\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n", encoding="utf-8"
        )
        script.chmod(0o755)
    extension = site_packages / "sam2_ros_ros2launch.py"
    shutil.copyfile(Path(__file__).parent / "ros2_launch.py", extension)
    info = site_packages / "sam2_ros_ros2launch-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sam2_ros_ros2launch\nVersion: 0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[ros2cli.command]\nlaunch = sam2_ros_ros2launch:LaunchCommand\n", encoding="utf-8"
    )


def patch_include_paths(venv: Path, python_include: str, numpy_include: str) -> int:
    """Sets the include folders in the wheels' exported CMake targets to this Python's; returns how many files changed.

    They name folders of the machine that built the wheels. CMake refuses them because they do not exist here.
    """
    changed = 0
    for file in venv.glob("share/*/cmake/*Export.cmake"):
        text = file.read_text(encoding="utf-8")
        fixed = re.sub(r"/[^\";]*/numpy/(_core|core)/include", numpy_include, text)
        fixed = re.sub(r"/[^\";]*/include/python3\.\d+(?=[\";])", python_include, fixed)
        if fixed != text:
            file.write_text(fixed, encoding="utf-8")
            changed += 1
    return changed
