#!/usr/bin/env python3
"""Reads mutated files: each is used, or refused with a UserError; nothing else may happen, and memory has a ceiling.

python test/system/fuzz_files.py --seconds 60 --seed 1 recordings
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mutated import altered, flipped
from mutated_checkpoints import Checkpoints
from mutated_recordings import Recordings
from PIL import Image

from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import open_source
from sam2_ros.media.picture_decoder import PictureError, decode_depth_png, decode_picture
from sam2_ros.media.prompts_file import load_prompts


class Prompts:
    """Reads a prompts file, whose JSON is flipped or altered."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "prompts.json"
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(folder / "mask.png")
        self._valid = [
            {"frame": 0, "object_id": 1, "box": [305, 122.5, 416, 385], "name": "cup", "label": "thing"},
            {"frame": 0, "object_id": 2, "points": [[460, 220], [350, 300]], "labels": [1, 0]},
            {"frame": 40, "object_id": 3, "mask": "mask.png"},
        ]

    def run(self, source: random.Random) -> str:
        if source.random() < 0.4:
            self._path.write_bytes(flipped(json.dumps(self._valid).encode(), source))
        else:
            value = self._valid
            for _ in range(source.randint(1, 3)):
                value = altered(value, source)
            self._path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
        load_prompts(self._path)
        return "used"


class Images:
    """Decodes pictures as the node, the viewer and the server do, and reads them as a folder of frames."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._valid: dict[str, bytes] = {}
        rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        for suffix, options in (
            ("jpg", {}), ("jpeg", {"progressive": True}), ("png", {}), ("bmp", {}), ("webp", {}),
            ("tif", {"compression": "tiff_lzw"}),
        ):  # fmt: skip
            data = io.BytesIO()
            Image.fromarray(rgb).save(data, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
            self._valid[suffix] = data.getvalue()
        self._valid["PNG"] = cv2.imencode(".png", rgb[..., 0].astype(np.uint16) * 16)[1].tobytes()

    def run(self, source: random.Random) -> str:
        suffix = source.choice(list(self._valid))
        data = flipped(self._valid[suffix], source)
        for decode in (decode_picture, decode_depth_png):
            with suppress(PictureError):
                decode(data)
        path = self._folder / f"1.{suffix}"
        path.write_bytes(data)
        try:
            (frame,) = open_source(str(self._folder))
        finally:
            path.unlink()
        return "used" if frame.rgb.dtype == np.uint8 and frame.rgb.ndim == 3 else "wrong"


class Videos:
    """Reads a damaged video; the numbers and stamps of its frames must go up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._valid: dict[str, bytes] = {}
        noise = np.random.default_rng(0)
        for name, codec in (("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.mp4", "mp4v"), ("a.webm", "VP80")):
            writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
            for _ in range(6):
                writer.write(noise.integers(0, 256, (48, 64, 3), np.uint8))
            writer.release()
            self._valid[name] = (folder / name).read_bytes()

    def run(self, source: random.Random) -> str:
        name = source.choice(list(self._valid))
        (self._folder / name).write_bytes(flipped(self._valid[name], source))
        last = (-1, -1)
        for frame in open_source(str(self._folder / name)):
            if not (last[0] < frame.index and last[1] < frame.stamp):
                return "wrong"
            last = frame.index, frame.stamp
        return "used"


CEILING = 500  # MiB of growth; the largest valid picture would take 400
KINDS: dict[str, Callable[[Path], Any]] = {
    "recordings": Recordings,
    "prompts": Prompts,
    "images": Images,
    "videos": Videos,
    "checkpoints": Checkpoints,
}


def peak() -> int:
    """The most memory that this process has used, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def fuzz(
    kind: str, folder: Path, seed: int, inputs: int = 1 << 60, seconds: float = 1e9, first: int = 0
) -> dict[str, Any]:
    """Reads up to ``inputs`` files in up to ``seconds``, from number ``first`` on; returns the counted outcomes.

    Raises:
        RuntimeError: an input ended with an error that is none of the user's, or took too much memory; the message says
            how to repeat it.
    """
    target, outcomes, start, slowest = KINDS[kind](folder), Counter[str](), time.monotonic(), 0.0
    before, number = peak(), first
    while number < first + inputs and time.monotonic() - start < seconds:
        began = time.monotonic()
        try:
            outcome = target.run(random.Random(f"{seed}/{number}"))
        except UserError:
            outcome = "refused"
        except Exception as error:
            raise RuntimeError(f"{kind}, --seed {seed} --first {number}: {type(error).__name__}: {error}") from error
        grown = peak() - before
        if grown > CEILING:
            raise RuntimeError(f"{kind}, --seed {seed} --first {number}: memory grew by {grown} MiB")
        if outcome == "wrong":
            raise RuntimeError(f"{kind}, --seed {seed} --first {number}: a wrong result")
        outcomes[outcome] += 1
        slowest = max(slowest, time.monotonic() - began)
        number += 1
    return {
        "inputs": number - first,
        "outcomes": dict(outcomes),
        "slowest_s": round(slowest, 2),
        "grown_mib": peak() - before,
    }


@contextmanager
def silent() -> Iterator[None]:
    """Without what libraries and the command line print; native code writes to the descriptors themselves."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=tuple(KINDS), help="what to read")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each kind (default: 60)")
    parser.add_argument("--inputs", type=int, default=1 << 60, help="most inputs of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat one")
    args = parser.parse_args()
    gc.freeze()  # the libraries' objects are not looked through again and again
    for kind in args.kinds:
        # In memory where there is such a folder: a disk takes milliseconds to write a file anew.
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder, silent():
            seen = fuzz(kind, Path(folder), args.seed, args.inputs, args.seconds, args.first)
        print(json.dumps({"kind": kind, "seed": args.seed, **seen}), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.exit(main())
