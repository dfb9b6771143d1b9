"""Locks what make setup, docs and mutate download: every version and hash, in ``requirements/locked/``.

``make lock`` calls it, with uv, after a change of a requirements file; ``make lock ARGS=--upgrade`` also takes newer
versions. One file serves Python 3.10 to 3.13 and every platform.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steps import digest

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
LOCKED = REQUIREMENTS / "locked"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_TIMEOUT = 30.0  # s
# What is locked, from which files, with the versions of which other lock. Later ones may build on earlier ones.
LOCKS: dict[str, tuple[tuple[str, ...], str]] = {
    "torch": (("torch",), ""),
    "python": (("library", "test"), "torch"),
    "ros-jazzy": (("ros-jazzy", "ros-build"), "python"),
    "ros-kilted": (("ros-kilted", "ros-build"), "python"),
    "docs": (("docs",), "python"),
    "mutate": (("mutate",), "python"),
}
CPU_LOCK = "torch-cpu"  # derived from "torch"
_GPU_ONLY = ("nvidia-", "cuda-", "triton")
_CPU_WHEEL = r"torch-{version}(?:%2B|\+)cpu-cp3\d+-[^\"#]*\.whl#sha256=([0-9a-f]{{64}})"


@dataclass(frozen=True)
class Entry:
    """One package of a lock, as pip reads it."""

    name: str  # normalised
    version: str
    text: str  # with its marker and hashes


def path_of(lock: str) -> Path:
    return LOCKED / f"{lock}.txt"


def entries(path: Path) -> list[Entry]:
    """The packages of a requirements file whose versions are pinned."""
    joined = re.sub(r"\s*\\\n\s*", " ", path.read_text(encoding="utf-8"))
    found = []
    for line in joined.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            found.append(Entry(normalised(match[1]), match[2], line))
    return found


def normalised(name: str) -> str:
    """A package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def write(path: Path, chosen: Iterable[Entry], first_line: str = "") -> None:
    lines = [first_line] if first_line else []
    lines += [entry.text.replace(" --hash=", " \\\n    --hash=") for entry in chosen]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def requirements(lock: str) -> list[str]:
    """The lines that a lock was made from, without comments."""
    lines = (line for name in _files(lock) for line in _file(name).read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))


def heading(lock: str) -> str:
    """The first line of a lock, with the digest of the files that it was made from."""
    files = _files(lock)
    return f"# made by 'make lock' from {' '.join(files)}: {digest(map(_file, files))}"


def _files(lock: str) -> tuple[str, ...]:
    return LOCKS["torch" if lock == CPU_LOCK else lock][0]


def _file(name: str) -> Path:
    return REQUIREMENTS / f"{name}.txt"


def is_current(lock: str) -> bool:
    """Whether the requirements are still those that it was made from."""
    path = path_of(lock)
    return path.is_file() and path.read_text(encoding="utf-8").startswith(heading(lock) + "\n")


def main(options: Sequence[str]) -> int:
    LOCKED.mkdir(exist_ok=True)
    for lock, (files, base) in LOCKS.items():
        print(f"locking {lock}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "lock.txt"
            if path_of(lock).is_file():  # so that uv keeps its versions
                made.write_bytes(path_of(lock).read_bytes())
            words = ["--universal", "--python-version", "3.10", "--generate-hashes", "--no-header", "--no-annotate"]
            words += ["-c", str(path_of(base))] if base else []
            words += [*options, "--quiet", "--output-file", str(made)]
            uv = Path(sys.executable).parent / "uv"
            subprocess.run([uv, "pip", "compile", *words, *map(_file, files)], check=True)
            write(path_of(lock), entries(made), heading(lock))
    write(path_of(CPU_LOCK), _for_cpus(entries(path_of("torch"))), heading(CPU_LOCK))
    return 0


def _for_cpus(locked: Sequence[Entry]) -> list[Entry]:
    """The lock without what only GPUs need. On Linux torch's builds for CPUs have a version of their own."""
    chosen = []
    for entry in locked:
        if entry.name.startswith(_GPU_ONLY):
            continue
        if entry.name == "torch":
            version = f"{entry.version}+cpu"
            hashes = sorted(_known_hashes(version) | _indexed_hashes(entry.version))
            if not hashes:
                raise SystemExit(f"{CPU_INDEX} does not answer, and there are no known hashes of torch {version}")
            listed = "".join(f" --hash=sha256:{digits}" for digits in hashes)
            chosen.append(Entry("torch", version, f"torch=={version} ; sys_platform == 'linux'{listed}"))
            pin = f"torch=={entry.version}"
            entry = Entry("torch", entry.version, entry.text.replace(pin, f"{pin} ; sys_platform != 'linux'"))
        chosen.append(entry)
    return chosen


def _known_hashes(version: str) -> set[str]:
    """The hashes that the lock has already, for this version."""
    path = path_of(CPU_LOCK)
    old = entries(path) if path.is_file() else []
    torch = [entry.text for entry in old if (entry.name, entry.version) == ("torch", version)]
    return {found for text in torch for found in re.findall(r"sha256:([0-9a-f]{64})", text)}


def _indexed_hashes(version: str) -> set[str]:
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=INDEX_TIMEOUT) as page:
            text = page.read(16 << 20).decode("utf-8", "replace")
    except OSError:
        print(f"{CPU_INDEX} does not answer: keeping the known hashes of torch {version} for CPUs")
        return set()
    return set(re.findall(_CPU_WHEEL.format(version=re.escape(version)), text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
