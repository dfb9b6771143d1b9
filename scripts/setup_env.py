"""Builds the development environment. ``make setup`` calls it; steps that are up to date are skipped.

There are two kinds: ROS 2 from wheels, which needs only Python, a C++ compiler and make, or on top of a sourced ROS 2
installation. The environment lies in the checkout (``.venv``, ``build``, ``install``, ``log``); downloads are cached
outside.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import locks
import ros_python
from steps import Console, Step, StepError, answers, cache_entry, digest, works

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
REQUIREMENTS = SCRIPTS / "requirements"
PYTHON_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
TORCH_VERSION = next(entry.version for entry in locks.entries(locks.path_of("torch")) if entry.name == "torch")

WHEEL_DISTROS = ("jazzy", "kilted")
PACKAGES_DOWNLOAD = (
    "NumPy, OpenCV, MuJoCo, OpenVINO, Triton, Ray, transformers, pytest, ruff, mypy, 573 MB, BSD, MIT, Apache-2.0"
)
REFERENCE_DOWNLOAD = (
    "what the tests compare with: sam2, vos-benchmark, and as wheels edgetam-dimos, efficient-track-anything, timm; "
    "3 MB, Apache-2.0 and MIT"
)
ROS_PYTHON_DOWNLOAD = (
    "isaacsim-ros2 6.2.0.0, 133 MB: as a whole under NVIDIA's Omniverse licence; only the upstream ROS 2 packages in "
    "it (Apache-2.0, BSD) are unpacked"
)
# Set by a sourced ROS installation or another environment; an environment of wheels must not see them.
FOREIGN_VARIABLES = (
    "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)  # fmt: skip


def names_in(*folders: str) -> list[str]:
    """Names of the checkout's files in these folders, without Python's caches."""
    files = (path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    return [str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts]


class Setup:
    """The steps for one distribution; its folders end with ``suffix`` (``-kilted``)."""

    def __init__(self, distro: str, suffix: str, sourced: bool, torch_version: str, torch_index: str) -> None:
        self.distro, self.sourced = distro, sourced
        self.torch_version, self.torch_index = torch_version, torch_index
        self.venv = ROOT / f".venv{suffix}"
        self.build_base = ROOT / f"build{suffix}"
        self.install_base = ROOT / f"install{suffix}"
        self.log_base = ROOT / f"log{suffix}"
        self.stamps = self.venv / ".stamps"
        self.python = self.venv / "bin" / "python"
        self.site_packages = self.venv / "lib" / PYTHON_NAME / "site-packages"
        user_cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self.cache = Path(os.environ.get("SAM2_ROS_CACHE") or f"{user_cache}/sam2_ros")
        self.ros_lock = f"ros-{distro}"
        self.ros_python_key = digest([REQUIREMENTS / "ros-python.txt", SCRIPTS / "ros_python.py"])
        self.ros_python_folder = self.cache / f"ros-python-{self.ros_python_key}"  # unpacked packages
        # Message packages that are neither wheels nor part of the wheel in ros-python.txt.
        self.interface_files = [ROOT / name for name in names_in("scripts/interfaces")]
        self.console = Console(self.log_base / "setup.log")
        self.gpu = works(["nvidia-smi", "-L"])

    @cached_property
    def env(self) -> dict[str, str]:
        """Environment of every command: the new environment's programs first, our cache for pip, no foreign ROS."""
        env = dict(os.environ)
        if not self.sourced:
            foreign = tuple(prefix for prefix in env.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix)
            libraries = [entry for entry in env.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
            for name in FOREIGN_VARIABLES:
                env.pop(name, None)
            env["LD_LIBRARY_PATH"] = os.pathsep.join(entry for entry in libraries if not entry.startswith(foreign))
            env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = str(self.venv)
        env["PATH"] = os.pathsep.join([str(self.venv / "bin"), env.get("PATH", "")])
        env["VIRTUAL_ENV"] = str(self.venv)
        env.setdefault("PIP_CACHE_DIR", str(self.cache / "pip"))
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PYTHONUNBUFFERED="1")
        return env

    def steps(self) -> list[Step]:
        """All steps in their order; the key of a step depends on the keys of the steps that it builds on."""
        venv_key = digest([sys.version, sys.base_prefix, self.sourced, self.distro, str(self.venv)])
        torch_files = [locks.path_of("torch"), locks.path_of(locks.CPU_LOCK)]
        torch_key = digest([venv_key, self.torch_version, self.torch_index, self.gpu, *torch_files])
        packages_key = digest([torch_key, locks.path_of("python")])
        reference_files = [REQUIREMENTS / "reference.txt", REQUIREMENTS / "edge-references.txt"]
        reference_key = digest([torch_key, *reference_files])
        wheels_key = digest([packages_key, *([] if self.sourced else [locks.path_of(self.ros_lock)])])
        ros_key = digest([wheels_key, self.ros_python_key, SCRIPTS / "ros2_launch.py"])
        interfaces_key = digest([ros_key, *self.interface_files])
        build_key = venv_key if self.sourced else interfaces_key
        sources = [ROOT / name for name in ("CMakeLists.txt", "package.xml", *names_in("msg", "srv", "action"))]
        installed = names_in("msg", "srv", "action", "launch", "config", "sam2_ros")
        command_files = [ROOT / "setup.py", SCRIPTS / "setup_env.py", SCRIPTS / "venv_hook.py"]
        python, torch = f"Python {platform.python_version()} in {self.venv.name}", f"torch {self.torch_version}"
        cpu, cuda = "CPU build, 190 MB, BSD-3-Clause", "CUDA build, several GB, BSD-3-Clause and NVIDIA's licences"
        torch_download = f"{torch}, {cuda if self.gpu else cpu}"
        reference = "reference implementations and evaluator for the tests"
        steps = [
            Step("venv", python, venv_key, self.make_venv),
            Step("torch", torch, torch_key, self.install_torch, torch_download),
            Step("packages", "Python packages", packages_key, self.install_packages, PACKAGES_DOWNLOAD),
            Step("reference", reference, reference_key, self.install_reference, REFERENCE_DOWNLOAD),
        ]
        if not self.sourced:
            ros, launch = f"ROS 2 {self.distro.capitalize()}", "launch and the ros2 command line"
            ros_download = f"{ros} as wheels, colcon, CMake, 90 MB, Apache-2.0 and BSD"
            launch_download = "" if self.ros_python_folder.is_dir() else ROS_PYTHON_DOWNLOAD
            interfaces = "vision_msgs, foxglove_msgs, composition_interfaces"
            steps += [
                Step("ros-wheels", ros, wheels_key, self.install_ros_wheels, ros_download),
                Step("ros-python", launch, ros_key, self.install_ros_python, launch_download),
                Step("interfaces", interfaces, interfaces_key, self.build_interfaces),
            ]
        return [
            *steps,
            Step("build", "colcon build", digest([build_key, *sources, *installed]), self.build_package),
            Step("command", "command line sam2_ros", digest([build_key, *command_files]), self.install_command),
        ]

    def make_venv(self) -> None:
        if (self.stamps / "venv").is_file():
            self.console.say(f"      {self.venv.name} belongs to another Python or ROS 2: replacing it")
            shutil.rmtree(self.venv)
        if not self.python.exists():
            options = ["--system-site-packages"] if self.sourced else []
            base = getattr(sys, "_base_executable", sys.executable)
            hint = "Debian and Ubuntu have venv in the package python3-venv. Another Python: make setup PYTHON=..."
            self.run([base, "-m", "venv", *options, self.venv], hint=hint)
        elif not works([self.python, "-c", f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}"]):
            raise StepError(f"{self.venv} was made with another Python. Remove it (make clean) or give PYTHON=...")
        self.stamps.mkdir(exist_ok=True)
        # pip reads this file at every later installation into the environment, so that none of them replaces torch.
        # torchvision would replace it, too.
        constraints = self.venv / "constraints.txt"
        constraints.write_text(f"torch=={self.torch_version}\ntorchvision<0\n", encoding="utf-8")
        (self.venv / "pip.conf").write_text(f"[install]\nconstraint = {constraints}\n", encoding="utf-8")

    def install_torch(self) -> None:
        if self.sourced and works([self.python, "-c", "import torch"], self.env):
            self.console.say("      using the installed torch")
            (self.venv / "constraints.txt").write_text("torchvision<0\n", encoding="utf-8")
            return
        hint = "Another version: make setup TORCH_VERSION=..."
        if self.torch_index or self.torch_version != TORCH_VERSION:
            self.console.say("      not the torch that is locked: its hashes are not checked")
            options = ["--index-url", self.torch_index] if self.torch_index else []
            if not options and not self.gpu and answers(locks.CPU_INDEX):
                options = ["--extra-index-url", locks.CPU_INDEX]  # whose builds, as VERSION+cpu, pip prefers
            self.pip("install", *options, f"torch=={self.torch_version}", hint=hint)
            self.pip("install", "setuptools<80")  # which builds the locked packages
            return
        if not self.gpu:
            index = locks.CPU_INDEX if answers(locks.CPU_INDEX) else ""
            try:
                self.install_locked(locks.CPU_LOCK, *(["--extra-index-url", index] if index else []), hint=hint)
                return
            except StepError:
                if index:
                    raise
                self.console.say(f"      {locks.CPU_INDEX} does not answer: using the build for GPUs, several GB")
        self.install_locked("torch", hint=hint)

    def install_packages(self) -> None:
        drop = set()
        if works([self.python, "-c", "import triton"], self.env):  # a torch for GPUs brought the version that it needs
            drop.add("triton")
        # pip doesn't know the distribution's OpenCV, because it has no Python metadata.
        if self.sourced and works([self.python, "-c", "import cv2"], self.env):
            drop.add("opencv-python-headless")
        self.install_locked("python", drop=drop)
        if self.sourced and not shutil.which("colcon"):
            self.pip("install", "colcon-common-extensions")

    def install_ros_wheels(self) -> None:
        self.install_locked(self.ros_lock)

    def install_locked(self, name: str, *options: object, drop: Collection[str] = (), hint: str = "") -> None:
        """Installs a lock without the packages ``drop``; pip checks every hash."""
        if not locks.is_current(name):
            raise StepError(f"{locks.path_of(name)} does not belong to its requirements; run: make lock")
        chosen = [entry for entry in locks.entries(locks.path_of(name)) if entry.name not in drop]
        if self.sourced:
            chosen = self.beside_the_distribution(name, chosen, drop, options)
        words = ["install", "--require-hashes"]
        # What comes as source is built with the locked setuptools, which the first lock brings.
        words += ["--no-deps"] if self.sourced else ["--no-build-isolation", "--use-pep517"]
        file = self.venv / f"{name}.txt"
        locks.write(file, chosen)
        self.pip(*words, *options, "-r", file, hint=hint, PIP_CONSTRAINT="")

    def beside_the_distribution(
        self, name: str, locked: Sequence[locks.Entry], drop: Collection[str], options: Sequence[object]
    ) -> list[locks.Entry]:
        """What a sourced ROS 2 lacks of a lock. Its own packages stay, unless one is too old for the others; NumPy
        always, because ROS 2 was built with it."""
        code = "import importlib.metadata as m, json; print(json.dumps({p.name: p.version for p in m.distributions()}))"
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True, env=self.env)
        present = {locks.normalised(key): version for key, version in json.loads(done.stdout).items()}
        constraints, report = self.venv / f"{name}-constraints.txt", self.venv / f"{name}-report.json"
        lines = [entry.text.split(" --hash=")[0] for entry in locked if entry.name not in present]
        lines += [f"numpy=={present['numpy']}"] if "numpy" in present else []
        constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
        wanted = [line for line in locks.requirements(name) if not line.startswith(tuple(drop))]
        hint = f"pip must be 22.2 or newer; if it is not: {self.python} -m pip install --upgrade pip"
        self.pip("install", "--dry-run", "--report", report, *options, "-c", constraints, *wanted, hint=hint)
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
        missing = {locks.normalised(item["metadata"]["name"]) for item in items}
        return [entry for entry in locked if entry.name in missing]

    def install_reference(self) -> None:
        # Its build requirements include torch; without isolation the build uses the installed one.
        options = ["--no-deps", "--no-build-isolation", "--require-hashes", "-r", REQUIREMENTS / "reference.txt"]
        self.pip("install", *options, SAM2_BUILD_CUDA="0", PIP_CONSTRAINT="")
        folder = self.venv / "references"
        shutil.rmtree(folder, ignore_errors=True)
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-d", folder]
        self.pip("download", *options, "-r", REQUIREMENTS / "edge-references.txt", PIP_CONSTRAINT="")

    def install_ros_python(self) -> None:
        # Only files that fit every Python and machine are taken from the wheel, so its own tags do not matter.
        tags = ["--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux_2_35_x86_64"]
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--require-hashes"]
        with cache_entry(self.ros_python_folder) as folder:
            if folder:
                self.pip("download", *options, "-d", folder, *tags, "-r", REQUIREMENTS / "ros-python.txt")
                wheel = next(folder.glob("*.whl"))
                ros_python.unpack(wheel, folder)
                wheel.unlink()
        ros_python.install(self.ros_python_folder, self.venv, self.site_packages)

    def build_interfaces(self) -> None:
        """Builds the interface packages once for a set of ROS wheels into the cache, and copies them from there."""
        self.patch_include_paths()
        wheels = sorted(path.name for path in self.site_packages.glob("ros_*.dist-info"))
        versions = [sys.version, platform.machine(), self.distro, *wheels]
        key = digest([self.ros_python_key, *self.interface_files, *versions])
        prefix = self.cache / f"interfaces-{key}"
        sources = [self.ros_python_folder / "interfaces" / name for name in ros_python.INTERFACE_PACKAGES]
        sources += sorted(path.parent for path in self.interface_files if path.name == "package.xml")
        with cache_entry(prefix) as partial:
            for source in sources if partial else ():
                build = self.venv / "build" / source.name
                options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_INSTALL_PREFIX={partial}"]
                options += [f"-DPython3_EXECUTABLE={self.python}", "-DBUILD_TESTING=OFF", "-Wno-dev"]
                self.run(["cmake", "-S", source, "-B", build, *options])
                self.run(["cmake", "--build", build, "--target", "install"])
        shutil.rmtree(self.venv / "build", ignore_errors=True)
        shutil.copytree(prefix, self.venv, symlinks=True, dirs_exist_ok=True)
        self.patch_include_paths()

    def patch_include_paths(self) -> None:
        command = [str(self.python), "-c", "import numpy; print(numpy.get_include())"]
        numpy = subprocess.run(command, capture_output=True, text=True, check=True, env=self.env).stdout.strip()
        ros_python.patch_include_paths(self.venv, sysconfig.get_path("include"), numpy)

    def build_package(self) -> None:
        # CMake's cache contains the tools and packages of the environment in which it was configured.
        marker = self.build_base / "environment"
        environment = digest(self.stamps / name for name in (["venv"] if self.sourced else ["venv", "ros-wheels"]))
        if not marker.is_file() or marker.read_text(encoding="utf-8") != environment:
            shutil.rmtree(self.build_base, ignore_errors=True)
            shutil.rmtree(self.install_base, ignore_errors=True)
        folders = ["--build-base", self.build_base, "--install-base", self.install_base]
        options = ["--paths", ROOT, *folders, "--symlink-install", "--event-handlers", "console_direct+"]
        cmake = ["-DCMAKE_BUILD_TYPE=Release", "-Wno-dev"]
        if not self.sourced:
            cmake += ["-G", "Ninja", f"-DPython3_EXECUTABLE={self.python}"]
        hint = "Needed: colcon, CMake, a C++ compiler and make (Debian, Ubuntu: build-essential)."
        self.run(["colcon", "--log-base", self.log_base, "build", *options, "--cmake-args", *cmake], hint=hint)
        marker.write_text(environment, encoding="utf-8")

    def install_command(self) -> None:
        self.pip("install", "--no-deps", "--no-build-isolation", "--editable", ".")
        prefix = self.install_base / "sam2_ros"
        # Debian's Python puts packages of an install prefix below local/ and into dist-packages.
        folders = [prefix / "lib" / PYTHON_NAME / "site-packages", prefix / f"local/lib/{PYTHON_NAME}/dist-packages"]
        config = {
            "wheels": not self.sourced,
            "prefixes": [str(prefix)] if self.sourced else [str(prefix), str(self.venv)],
            # The checkout comes first, so that edits take effect at once; the built package adds the messages.
            "site_packages": [str(ROOT), *(str(folder) for folder in folders if folder.is_dir())],
        }
        (self.site_packages / "_sam2_ros_env.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        shutil.copyfile(SCRIPTS / "venv_hook.py", self.site_packages / "_sam2_ros_env.py")
        (self.site_packages / "_sam2_ros_env.pth").write_text("import _sam2_ros_env\n", encoding="utf-8")

    def run(self, command: Sequence[object], hint: str = "", **variables: str) -> None:
        self.console.run(command, {**self.env, **variables}, cwd=ROOT, hint=hint)

    def pip(self, *words: object, hint: str = "", **variables: str) -> None:
        self.run([self.python, "-m", "pip", "--no-color", *words], hint, **variables)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--distro", default="jazzy", help="ROS 2 distribution (default: jazzy)")
    parser.add_argument("--suffix", default="", help="of the folders .venv, build, install and log (default: none)")
    parser.add_argument("--sourced", action="store_true", help="build on the sourced ROS installation")
    parser.add_argument("--torch-version", default=TORCH_VERSION, help=f"default: {TORCH_VERSION}")
    parser.add_argument("--torch-index", default="", help=f"package index (default without a GPU: {locks.CPU_INDEX})")
    options = parser.parse_args()
    if not options.sourced and options.distro not in WHEEL_DISTROS:
        parser.error(
            f"there are no wheels of ROS 2 '{options.distro}', only of {' and '.join(WHEEL_DISTROS)}; install it, "
            f"then: . /opt/ros/{options.distro}/setup.bash, and make again"
        )
    begin = time.monotonic()
    setup = Setup(**vars(options))
    source = f"on the sourced ROS 2 {options.distro}" if options.sourced else f"ROS 2 {options.distro} from wheels"
    with (ROOT / f".setup{options.suffix}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if setup.console.run_steps(setup.steps(), setup.stamps, f"Setting up sam2_ros, {source}."):
                seconds = time.monotonic() - begin
                setup.console.say(f"Ready in {seconds:.0f} s: {setup.venv.name}/bin/sam2_ros --help")
        except StepError as error:
            print(f"\nThe setup stopped: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
