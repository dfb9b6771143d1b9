"""Compares what ``make setup`` downloads with published advisories, offline: ``make audit ARGS=FILE``.

FILE holds advisories in OSV's format: the export ``PyPI/all.zip`` of osv.dev, a folder or a JSON file of such records,
or a checkout of PyPA's advisory-database. Ends with 1 if one of them names a locked version.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import locks
from packaging.version import InvalidVersion, Version

LARGEST_RECORD = 16 << 20  # bytes
SUFFIXES = (".json", ".yaml")
# Pinned and hashed by hand.
BY_HAND = ("reference", "ros-python", "uv")


class Unreadable(Exception):
    """The advisories can't be read; the message says why."""


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Every advisory in a file, a folder or a zip archive.

    Raises:
        Unreadable: there are none, or one can't be read.
    """
    found = False
    for name, data in _files(path):
        try:
            content = _parsed(name, data)
        except Exception as error:  # of two parsers
            raise Unreadable(f"{name} is no advisory: {error}") from error
        for record in content if isinstance(content, list) else [content]:
            if not isinstance(record, dict) or "id" not in record:
                raise Unreadable(f"{name} is no advisory; accepted: records in OSV's format")
            found = True
            yield record
    if not found:
        raise Unreadable(f"{path} has no advisories; accepted: OSV's records as a .zip, a folder or a .json file")


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.suffix in SUFFIXES and ".git" not in file.parts and file.is_file():
                    yield str(file), file.read_bytes()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(SUFFIXES) and entry.file_size <= LARGEST_RECORD:
                        yield entry.filename, archive.read(entry)
        else:
            yield str(path), path.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        raise Unreadable(f"{path} can't be read: {error}") from error


def _parsed(name: str, data: bytes) -> Any:
    if not name.endswith(".yaml"):
        return json.loads(data)
    import yaml

    return yaml.load(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def is_affected(version: Version, affected: dict[str, Any]) -> bool:
    """Whether an advisory's entry names a version, in its list or its ranges."""
    if any(_version(each) == version for each in affected.get("versions", ())):
        return True
    for span in affected.get("ranges", ()):
        if span.get("type") != "ECOSYSTEM":
            continue
        inside = False
        events = [(_version(text), kind) for event in span["events"] for kind, text in event.items()]
        for at, kind in sorted((at, kind) for at, kind in events if at is not None):
            if kind == "introduced" and at <= version:
                inside = True
            elif (kind == "fixed" and at <= version) or (kind == "last_affected" and at < version):
                inside = False
        if inside:
            return True
    return False


def _version(text: object) -> Version | None:
    """Without the build (``+cpu``), which advisories do not name."""
    try:
        return Version(Version(str(text)).public)
    except InvalidVersion:
        return None


def audit(locked: Iterable[locks.Entry], advisories: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each locked package that an advisory names."""
    versions: dict[str, set[Version]] = {}
    for entry in locked:
        version = _version(entry.version)
        if version is not None:
            versions.setdefault(entry.name, set()).add(version)
    lines = set()
    for advisory in advisories:
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            name = locks.normalised(str(package.get("name", "")))
            for version in versions.get(name, ()) if package.get("ecosystem") == "PyPI" else ():
                if is_affected(version, affected):
                    names = ", ".join([advisory["id"], *advisory.get("aliases", ())])
                    about = advisory.get("summary") or advisory.get("details", "")
                    lines.add(f"{name} {version}: {names}: {' '.join(about.split())[:200]}")
    return sorted(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("advisories", type=Path, help="OSV's PyPI/all.zip, a folder or a file of such records")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="ID", help="an advisory that does not matter here"
    )
    options = parser.parse_args(arguments)
    files = [*locks.LOCKED.glob("*.txt"), *(locks.REQUIREMENTS / f"{name}.txt" for name in BY_HAND)]
    locked = [entry for file in files for entry in locks.entries(file)]
    try:
        known = [each for each in records(options.advisories) if each["id"] not in options.ignore]
        lines = audit(locked, known)
    except Unreadable as error:
        print(error, file=sys.stderr)
        return 2
    print(*lines, sep="\n", end="\n" if lines else "")
    packages = len({entry.name for entry in locked})
    print(f"{len(lines)} of {packages} packages' versions are named by {len(known)} advisories")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
