#!/usr/bin/env python3
"""Streams a long rendered scene through the tracker while objects come and go, and watches the memory.

    python test/system/soak.py --frames 10000 --dtype bfloat16

The memory bank must keep its buffers. The memory of the process must be flat after the first frames.
Writes ``soak.json`` and ``soak.png``. Equal seeds give equal streams, prompts and results.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Read when torch is loaded; sam2_ros.inference.local sets the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sam2_ros.allocator import keep_freed_memory
from sam2_ros.model import HieraConfig, ModelConfig, Sam2Model, load_model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import FrameResult
from sam2_ros.tracking.warmup import warm_up

EVERY = 20  # frames between two measurements of the memory
SETTLED = 500  # frames until every number of objects has occurred with full memories
OUTLIER = 3.0  # a frame that takes longer than this many times the median is an outlier
FLAT = 0.05  # the memory is flat if its range is at most this share of the median


def main() -> int:
    arguments = parse_arguments()
    keep_freed_memory()  # as the launch files do for the node
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = (
        small_model() if arguments.model == "random" else load_model(arguments.model, image_size=arguments.image_size)
    )
    config = TrackerConfig(max_objects=arguments.objects)
    warm_up(SharedModel(model, arguments.dtype), config)  # as the node does
    tracker = Tracker(model, config, arguments.dtype)
    record = soak(tracker, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "soak.json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    draw(record, arguments.out / "soak.png")
    print(f"bank: {record.bank_bytes} bytes, constant; digest of the results: {record.digest}")
    print(record.summary())
    print(f"wrote {arguments.out / 'soak.json'} and soak.png")
    return 0 if record.flat else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="a model of sam2_ros, or 'random': small, untrained, quick")
    parser.add_argument("--image-size", type=int, default=0, help="pixels; 0: the model's own")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--objects", type=int, default=4, help="greatest number of objects at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; results are reproducible for a number")
    parser.add_argument("--out", type=Path, default=Path("soak_output"), metavar="DIR")
    arguments = parser.parse_args()
    if arguments.frames < 1 or arguments.objects < 1:
        parser.error("--frames and --objects must be 1 or more")
    return arguments


def small_model() -> Sam2Model:
    """An untrained network that takes milliseconds a frame."""
    config = ModelConfig("random", hiera=HieraConfig(24, 1, (1, 1, 2, 1), (3,)), image_size=128, memory_layers=1)
    return Sam2Model(config).eval().requires_grad_(False)


@dataclass
class Record:
    """The content of ``soak.json``; memory in MiB, one entry for every :data:`EVERY` frames."""

    model: str
    seed: int
    dtype: str
    frames: int
    max_objects: int
    bank_bytes: int
    events: dict[str, int] = field(default_factory=dict)
    milliseconds_per_frame: float = 0.0
    digest: str = ""  # of every object's id, state and area in every frame
    frame: list[int] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    in_use: list[float] = field(default_factory=list)  # allocated share of rss; empty without glibc
    objects: list[int] = field(default_factory=list)
    settled_range: float | None = None  # MiB between least and most after the first SETTLED frames
    flat: bool = True
    latency_ms: dict[str, float] = field(default_factory=dict)  # of a frame without its commands: p50, p90, p99, max
    step_ms: list[float] = field(default_factory=list)  # of every frame
    cpu_ms: list[float] = field(default_factory=list)  # processor time of every frame
    outliers: list[dict[str, Any]] = field(default_factory=list)  # frames over OUTLIER times the median

    def conclude(self) -> None:
        self._find_outliers()
        settled = [rss for frame, rss in zip(self.frame, self.rss, strict=True) if frame >= SETTLED]
        if settled:
            self.settled_range = round(max(settled) - min(settled), 2)
            self.flat = self.settled_range <= FLAT * float(np.median(settled))

    def _find_outliers(self) -> None:
        """Says of each outlier whether the frame waited for other processes or took longer itself."""
        steps = np.array(self.step_ms)
        if not steps.size:
            return
        median = float(np.median(steps))
        self.latency_ms = {f"p{p}": round(float(np.percentile(steps, p)), 2) for p in (50, 90, 99)}
        self.latency_ms["max"] = round(float(steps.max()), 2)
        for frame in np.flatnonzero(steps > OUTLIER * median).tolist():
            step, cpu = self.step_ms[frame], self.cpu_ms[frame]
            waited = step - cpu > 0.5 * (step - median)
            cause = "waited for the processor" if waited else "first frames" if frame < SETTLED else "more work"
            self.outliers.append({"frame": frame, "ms": step, "cpu_ms": cpu, "cause": cause})

    def summary(self) -> str:
        counts = ", ".join(f"{count} {event}" for event, count in self.events.items())
        head = f"{self.frames} frames, {self.milliseconds_per_frame:.1f} ms each; {counts}\n"
        if self.latency_ms:
            causes = Counter(one["cause"] for one in self.outliers)
            found = ", ".join(f"{count} {cause}" for cause, count in causes.items()) or "none"
            head += f"time of a frame {self.latency_ms}; over {OUTLIER:g} times the median: {found}\n"
        if self.settled_range is None:
            return head + f"too few frames to judge the memory of the process; it settles within {SETTLED}"
        median = float(np.median([rss for frame, rss in zip(self.frame, self.rss, strict=True) if frame >= SETTLED]))
        verdict = "flat" if self.flat else "NOT FLAT"
        share = self.settled_range / median
        if self.in_use:
            allocated = [value for frame, value in zip(self.frame, self.in_use, strict=True) if frame >= SETTLED]
            tenth = max(1, len(allocated) // 10)
            begin, end = float(np.median(allocated[:tenth])), float(np.median(allocated[-tenth:]))
            head += f"allocated: {begin:.1f} MiB in the first tenth, {end:.1f} in the last\n"
        return head + (
            f"memory of the process after frame {SETTLED}: median {median:.1f}, max - min {self.settled_range:.1f} MiB "
            f"({share:.1%}; up to {FLAT:.0%} counts as flat): {verdict}"
        )


def soak(tracker: Tracker, arguments: argparse.Namespace) -> Record:
    """Runs the stream.

    Raises:
        AssertionError: the bank's size changed, or it was allocated anew.
    """
    random = np.random.default_rng(arguments.seed)
    scene = Scene(random)
    bank, size = tracker.bank, tracker.bank.nbytes
    buffers = bank.tensors  # referenced here, so that no new tensor gets their addresses
    addresses = [buffer.data_ptr() for buffer in buffers]
    record = Record(tracker.model.config.name, arguments.seed, tracker.dtype, arguments.frames, arguments.objects, size)
    digest, events, busy = hashlib.sha256(), Counter[str](), 0.0
    stopped: list[bool] = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(True))  # an interrupted run still writes its results
    for frame in range(arguments.frames):
        if stopped:
            arguments.frames = record.frames = frame
            break
        image, shapes = scene.next()
        start, start_cpu = time.perf_counter(), time.process_time()
        result = tracker.step(image, frame * 33_000_000)
        record.step_ms.append(round(1e3 * (time.perf_counter() - start), 2))
        record.cpu_ms.append(round(1e3 * (time.process_time() - start_cpu), 2))
        events.update(command(tracker, result, shapes, arguments.objects, random))
        busy += time.perf_counter() - start
        tracker.take_changes()
        for obj in result.objects:
            digest.update(f"{frame} {obj.object_id} {obj.state.name} {obj.mask.area};".encode())
        now = tracker.bank.nbytes
        assert now == size, f"the bank had {size} bytes, on frame {frame} {now}"
        same = tracker.bank is bank and all(a is b for a, b in zip(bank.tensors, buffers, strict=True))
        same = same and [buffer.data_ptr() for buffer in buffers] == addresses
        assert same, f"on frame {frame} the bank was allocated anew"
        if frame % EVERY == 0 or frame == arguments.frames - 1:
            record.frame.append(frame)
            record.rss.append(round(resident(), 2))
            record.objects.append(len(result.objects))
            allocated = in_use()
            if allocated is not None:
                record.in_use.append(round(allocated, 2))
            if sys.stderr.isatty():
                print(f"\r{frame + 1}/{arguments.frames}", end="", file=sys.stderr, flush=True)
    record.events, record.digest = dict(sorted(events.items())), digest.hexdigest()[:16]
    record.milliseconds_per_frame = round(1e3 * busy / max(1, arguments.frames), 2)
    record.conclude()
    return record


def command(
    tracker: Tracker,
    result: FrameResult,
    shapes: list[NDArray[np.bool_]],
    most: int,
    random: np.random.Generator,
) -> list[str]:
    """Adds, corrects and removes objects at random; returns the names of these actions."""
    living, done = [obj.object_id for obj in result.objects], []
    if living and random.random() < 0.04:
        tracker.remove(int(random.choice(living)))
        done.append("removed")
    elif living and random.random() < 0.03:
        answer = tracker.refine(PromptRequest(prompt(shapes, random), int(random.choice(living))))
        done.append("corrected" if answer.success else "refused")
    if not living or random.random() < 0.08:
        (answer,) = tracker.add([PromptRequest(prompt(shapes, random))])
        done.append("added" if answer.success else "refused")
    if random.random() < 0.002:
        tracker.reset()
        done.append("reset")
    assert len(tracker._objects) <= most
    return done


def prompt(shapes: list[NDArray[np.bool_]], random: np.random.Generator) -> Prompt:
    """A box, a click or a mask of something in the scene."""
    shape = shapes[int(random.integers(len(shapes)))]
    rows, columns = np.nonzero(shape)
    kind = random.integers(3)
    if kind == 0 and np.ptp(rows) and np.ptp(columns):
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Prompt(box=np.array(corners, np.float32))
    if kind == 1:
        return Prompt(mask=shape)
    middle = len(rows) // 2
    return Prompt(points=np.array([[columns[middle], rows[middle]]], np.float32), labels=np.array([1], np.int32))


class Scene:
    """Coloured discs that bounce over a textured ground, in front of each other."""

    def __init__(self, random: np.random.Generator, discs: int = 6, width: int = 320, height: int = 240) -> None:
        noise = random.integers(60, 200, (height, width, 3), dtype=np.uint8)
        self.ground = np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)
        self.limit = np.array([width, height], np.float64)
        self.place = random.uniform(0.2, 0.8, (discs, 2)) * self.limit
        self.speed = random.uniform(-4, 4, (discs, 2))
        self.radius = random.integers(15, 35, discs)
        self.color = random.integers(0, 255, (discs, 3))

    def next(self) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
        """The next frame, RGB ``uint8 [H, W, 3]``, and the visible pixels of every visible disc."""
        self.place += self.speed
        outside = (self.place < 0) | (self.place > self.limit)
        self.speed[outside] *= -1
        image, owner = self.ground.copy(), np.full(self.ground.shape[:2], 255, np.uint8)
        for index, ((x, y), radius) in enumerate(zip(self.place, self.radius, strict=True)):
            center = (round(float(x)), round(float(y)))
            cv2.circle(image, center, int(radius), self.color[index].tolist(), -1, cv2.LINE_AA)
            cv2.circle(owner, center, int(radius), index, -1)
        shapes = [owner == index for index in range(len(self.place))]
        return image, [shape for shape in shapes if shape.any()]


def resident() -> float:
    """Memory of this process that is in RAM, MiB (Linux: /proc)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


class MallocInfo(ctypes.Structure):
    """The result of mallinfo2 (malloc.h, glibc 2.33)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    )  # fmt: skip


def in_use() -> float | None:
    """Allocated memory, MiB; None without glibc."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    mallinfo2.restype = MallocInfo
    info = mallinfo2()
    return float(info.uordblks + info.hblkhd) / 2**20


def draw(record: Record, path: Path) -> None:
    """Memory, time of a frame and number of objects over the frames."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    upper.plot(record.frame, record.rss, color="tab:blue")
    if record.in_use:
        upper.plot(record.frame, record.in_use, color="tab:green", label="allocated")
        upper.legend(loc="lower right")
    upper.axvline(SETTLED, color="0.7", linewidth=1)
    title = f"{record.model}, {record.frames} frames, bank {record.bank_bytes / 2**20:.1f} MiB"
    upper.set(ylabel="memory of the process, MiB", title=title, ylim=(0, 1.15 * max(record.rss)))
    middle.plot(record.step_ms, color="tab:orange", linewidth=0.4)
    middle.set(ylabel="ms a frame", ylim=(0, None))
    lower.step(record.frame, record.objects, where="post", color="tab:gray")
    lower.set(ylabel="objects", xlabel="frame", ylim=(0, record.max_objects + 0.5))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
