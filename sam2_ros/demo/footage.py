"""The demo's footage: two clips of Debian's package ``opencv-doc``, or a rendered scene.

``apt-get download`` fetches and verifies the package (about 95 MB, Apache-2.0) and installs nothing. Two clips of it,
3.4 MB, stay in the cache.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sam2_ros.media.frame_sources import Source
from sam2_ros.model.download import cache_dir
from sam2_ros.tracking.types import Prompt

PACKAGE = "opencv-doc"
APT_TIMEOUT_S = 600
Say = Callable[[str], None]


@dataclass(frozen=True)
class Clip:
    """A video (or a camera's index) and the object to track in it, as a box in its first frame."""

    source: str
    name: str
    object_name: str
    box: tuple[int, int, int, int] | None  # x0, y0, x1, y1; None: a click in the middle of the image


def clip_prompt(clip: Clip, source: Source) -> Prompt:
    """The prompt for the first frame: the clip's box, or a click in the middle of the image."""
    if clip.box is not None:
        return Prompt(box=np.asarray(clip.box, np.float32))
    height, width = next(iter(source)).rgb.shape[:2]
    return Prompt(points=np.asarray([[width / 2, height / 2]], np.float32), labels=np.ones(1, np.int32))


CLIPS = (Clip("cup.mp4", "cup", "cup", (305, 122, 416, 385)), Clip("box.mp4", "box", "box", (292, 11, 601, 242)))


class NoFootageError(RuntimeError):
    """The footage can't be fetched; ``str(error)`` says why."""


def real_clips(say: Say) -> list[Clip]:
    """The two clips; they are fetched if they are not in the cache.

    Raises:
        NoFootageError: no apt, no network, or another package than expected.
    """
    folder = cache_dir() / "footage"
    missing = [clip.source for clip in CLIPS if not (folder / clip.source).is_file()]
    if missing:
        _fetch(folder, missing, say)
    return [replace(clip, source=str(folder / clip.source)) for clip in CLIPS]


def rendered_clip(folder: Path, frames: int = 150) -> Clip:
    """Renders a scene into ``folder``: a ball rolls behind a post and comes out again."""
    from sam2_ros.media.rendered_scene import bounding_box, render
    from sam2_ros.media.video_writer import VideoWriter

    path = folder / "rendered.mp4"
    writer = VideoWriter(path, 15.0)
    box = None
    for frame in render(frames):
        box = box or bounding_box(frame.masks[1])
        writer.write(frame.rgb)
    writer.close()
    return Clip(str(path), "rendered", "ball", box)


def _fetch(folder: Path, names: list[str], say: Say) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise NoFootageError(f"{program} is not there (the footage is part of Debian's package {PACKAGE})")
    say(
        f"fetching the footage: Debian package {PACKAGE}, about 95 MB, Apache-2.0; {', '.join(names)} of it stay in "
        f"{folder}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        _extract(_apt_download(work), names, work)
        for clip in names:
            (work / clip).replace(folder / clip)


def _apt_download(work: Path) -> Path:
    """Fetches the package into ``work``; if the machine has no package lists, with lists in ``work``."""
    command = ["apt-get", "-qq", "download", PACKAGE]
    problem = _run(command, work)
    if problem:
        for part in ("lists/partial", "archives/partial"):
            (work / part).mkdir(parents=True)
        own = ["-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work}"]
        problem = _run(["apt-get", "-qq", *own, "update"], work) or _run([*command[:1], *own, *command[1:]], work)
    packages = list(work.glob(f"{PACKAGE}_*.deb"))
    if problem or not packages:
        raise NoFootageError(f"apt-get could not fetch {PACKAGE} ({problem or 'nothing came'})")
    return packages[0]


def _extract(package: Path, names: list[str], work: Path) -> None:
    """Unpacks the clips ``names`` of ``package``, plain or gzipped in any of its folders, into ``work``."""
    wanted = {f"{name}{suffix}": name for name in names for suffix in ("", ".gz")}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacker:
        assert unpacker.stdout is not None
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
            for member in archive:
                found = Path(member.name).name
                if found in wanted and member.isfile() and (stream := archive.extractfile(member)):
                    content = stream.read()
                    (work / wanted[found]).write_bytes(gzip.decompress(content) if found.endswith(".gz") else content)
    if missing := [name for name in names if not (work / name).is_file()]:
        raise NoFootageError(f"{package.name} does not contain {', '.join(missing)}")


def _run(command: list[str], work: Path) -> str:
    """Runs a command in ``work``; returns its last line on stderr, or nothing on success."""
    try:
        result = subprocess.run(
            command, cwd=work, input="", capture_output=True, text=True, timeout=APT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {APT_TIMEOUT_S} s"
    if result.returncode == 0:
        return ""
    return (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
