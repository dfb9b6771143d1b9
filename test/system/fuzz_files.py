#!/usr/bin/env python3
"""Reads mutated files: each is used, or refused with a UserError; nothing else may happen, and memory has a ceiling.

python test/system/fuzz_files.py --seconds 60 --seed 1 recordings
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sam2_ros.cli import replay
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import open_source
from sam2_ros.media.picture_decoder import PictureError, decode_depth_png, decode_picture
from sam2_ros.media.prompts_file import load_prompts

sys.path.append(str(Path(__file__).parents[1] / "ros"))  # recordings.py, when this is run as a program

SIZES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 24, 1 << 28, 0x7FFFFFFF, 0xFFFFFFFF)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, -0.5, float("nan"), float("inf"), "", "a\0b", "\ud800",
    "\x1b[31m", "x" * 1000, "../../etc/passwd", [], {}, [[]], [[1, 2]] * 50, {"box": 1}, [1, 2, 3, 4],
)  # fmt: skip


def flipped(data: bytes, source: random.Random) -> bytes:
    """One to four faults: flipped bits, other bytes, odd sizes, cuts, copies and additions."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        place, kind = source.randrange(len(changed) + 1), source.randrange(7)
        if kind <= 1 and place < len(changed):
            changed[place] ^= 1 << source.randrange(8)
        elif kind == 2 and place < len(changed):
            changed[place] = source.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif kind == 3 and place + 4 <= len(changed):
            struct.pack_into(source.choice("<>") + "I", changed, place, source.choice(SIZES))
        elif kind == 4 and source.random() < 0.3:
            del changed[place:]
        elif kind == 5:
            other = source.randrange(len(changed) + 1)
            changed[place : place + source.randint(0, 40)] = changed[other : other + source.randint(0, 40)]
        elif kind == 6:
            changed[place:place] = source.randbytes(source.randint(1, 30))
    return bytes(changed)


def altered(value: Any, source: random.Random) -> Any:
    """A JSON value with one part replaced."""
    if isinstance(value, (list, dict)) and value and source.random() < 0.85:
        key = source.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if source.random() < 0.1:
            del copy[key]
        else:
            copy[key] = altered(copy[key], source)
        return copy
    return source.choice(VALUES)


class Recordings:
    """Replays a recording: flipped as a whole, or with right checksums around a message or settings that are odd."""

    def __init__(self, folder: Path) -> None:
        from mcap.writer import CompressionType
        from recordings import PARAMETERS_OF_NULL, Made, small_recording, tracked

        self._path = folder / "run.mcap"
        self._valid = small_recording(self._path).read_bytes()
        self._settings, self._made, self._compressions = PARAMETERS_OF_NULL, Made, tuple(CompressionType)

        class Kept(Made):
            """Writes, and keeps what it wrote."""

            def write(self, topic: str, kind: str, data: bytes, text: str = "") -> None:
                messages.append((self.now, topic, kind, data))
                super().write(topic, kind, data, text)

        self._recordings = []
        for step, age in itertools.product((10**8, 0, -(10**8)), (0.0, 0.1, 1e30, float("nan"))):
            messages: list[tuple[int, str, str, bytes]] = []
            made = Kept(self._path, PARAMETERS_OF_NULL)
            for number in range(4):
                made.image(10**9 + number * step)
                made.tracks(10**9 + number * step, *([tracked()] if number > 1 else []))
                if number == 1:
                    made.add(10**9 + step, age)
            made.close()
            self._recordings.append(messages)

    def run(self, source: random.Random) -> str:
        if source.random() < 0.3:
            self._path.write_bytes(flipped(self._valid, source))
        else:
            self._write(source)
        code = replay.run(argparse.Namespace(file=self._path, model="null", device="auto", quiet=True))
        return ("same", "different")[code]

    def _write(self, source: random.Random) -> None:
        odd_settings = source.random() < 0.2
        settings = altered(self._settings, source) if odd_settings else self._settings
        messages = source.choice(self._recordings)
        chosen = -1 if odd_settings else source.randrange(len(messages))
        made = self._made(self._path, settings, source.choice(self._compressions))
        for number, (now, topic, kind, data) in enumerate(messages):
            made.now = now
            made.write(topic, kind, flipped(data, source) if number == chosen else data)
        made.close()


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


class Checkpoints:
    """Reads a small checkpoint: flipped as a whole, in its pickle, or with odd settings."""

    def __init__(self, folder: Path) -> None:
        import torch

        from sam2_ros.model.config import HieraConfig, ModelConfig

        self._torch, self._path = torch, folder / "weights.pt"
        small = HieraConfig(96, 1, (1, 1, 1, 1), (2,))
        config = ModelConfig("ours", hiera=small, memory_layers=1, memory_ffn=64, image_size=64).to_dict()
        tensors = {f"image_encoder.trunk.blocks.{block}.": torch.ones(1) for block in range(12)}
        tensors["image_encoder.trunk.patch_embed.proj.weight"] = torch.ones(96, 1, 1, 1)
        official: dict[str, Any] = {"model": tensors}
        self._content = {"model": {"memory.mask": torch.ones(2)}, "config": config}
        self._valid = [self._bytes(official, zipped) for zipped in (True, True, False)]

    def _bytes(self, content: Any, zipped: bool) -> bytes:
        data = io.BytesIO()
        self._torch.save(content, data, _use_new_zipfile_serialization=zipped)
        return data.getvalue()

    def run(self, source: random.Random) -> str:
        from sam2_ros.model.checkpoint import CheckpointError, read_checkpoint

        kind = source.random()
        valid = source.choice(self._valid)
        if kind < 0.25:
            data = flipped(valid, source)
        elif kind < 0.998 and valid.startswith(b"PK"):
            data = self._with_another_pickle(valid, source)
        elif kind < 0.998:
            data = flipped(valid, source)
        else:  # takes much longer: the network is made
            data = self._bytes(altered(altered(self._content, source), source), source.random() < 0.5)
        self._path.write_bytes(data)
        try:
            read_checkpoint(self._path)
        except CheckpointError as error:
            return "refused" if len(str(error)) < 2000 else "wrong"
        return "used"

    def _with_another_pickle(self, valid: bytes, source: random.Random) -> bytes:
        """The archive again, with right checksums around an entry that is flipped."""
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(valid)) as before, zipfile.ZipFile(made, "w") as after:
            for entry in before.infolist():
                content = before.read(entry)
                chosen = source.random() < (0.9 if entry.filename.endswith(".pkl") else 0.1)
                after.writestr(entry.filename, flipped(content, source) if chosen else content)
        return made.getvalue()


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
        RuntimeError: an input ended with an error that is none of the user's; the message says how to repeat it.
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
    for kind in args.kinds:
        # In memory where there is such a folder: a disk takes milliseconds to write a file anew.
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder, silent():
            seen = fuzz(kind, Path(folder), args.seed, args.inputs, args.seconds, args.first)
        print(json.dumps({"kind": kind, "seed": args.seed, **seen}), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.exit(main())
