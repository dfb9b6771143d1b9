#!/usr/bin/env python3
"""Sends random service requests and detections to a real node over DDS. It must answer, track and not grow.

python test/system/fuzz_services.py --seconds 60 --seed 0

With --direct the node is in this process, and gets the messages without DDS: many times as many.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import sys
import tempfile
import time
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "ros"))

from direct_node import direct_node
from fuzz_server import resident
from node_harness import HEIGHT, WIDTH, Peer, box_prompt, running

from sam2_ros.media.signals import signals_unwind

BATCH = 8  # requests at a time: fewer than the queue of a service holds
AT_ONCE = 32  # the same without DDS
SHOWN = 4000  # characters of an answer, at most
PARAMETERS = """/**:
  ros__parameters:
    model.name: 'null'
    detections.enabled: true
    detections.new_after: 1
    diagnostics.period: 0.2
    prompts.wait: 0.1
    tracker.max_objects: 8
"""
TEXTS = (
    "", "cup", "dish", "1", "2", "01", "-1", "4294967297", "1e3", "traffic light", "cup\n[ERROR] fake", "\x1b[31m",
    "\x07\x7f", "\u202egpj.exe", "\u2028", "杯\U0001f600", "<b>cup</b>", "x" * 256, "x" * 257, "y" * 5000,
)  # fmt: skip
NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e9, -1e9, 1e38, 1e300, -1e300, math.nan, math.inf, -math.inf, WIDTH - 0.5, WIDTH,
)  # fmt: skip


class Requests:
    """Random requests: valid ones with up to four faults. ``large`` is the share of the long lists, which take most of
    the time, that are left in."""

    def __init__(self, seed: int, large: float = 1.0) -> None:
        self.random = random.Random(seed)
        self._large = large
        self.stamps: list[Any] = []  # of tracked images

    def request(self) -> tuple[Any, str, Any]:
        """Service type, name and request."""
        from sam2_ros.srv import AddObjects, ListObjects, RefineObject, RemoveObject, RenameObject, Reset

        choose = self.random.choices
        kinds = (AddObjects, RefineObject, RemoveObject, RenameObject, ListObjects, Reset)
        names = ("add_objects", "refine_object", "remove_object", "rename_object", "list_objects", "reset")
        (index,) = choose(range(6), (10, 5, 3, 3, 2, 1))
        request = kinds[index].Request()
        if index == 0:
            request.prompts = [self._prompt() for _ in range(self.random.randint(0, 3))]
            if self.random.random() < 0.3:
                self._fill_flat_fields(request)
        elif index == 1:
            request.prompt = self._prompt()
        elif index in (2, 3):
            request.object_id = self.random.choice(TEXTS)
        if index == 3:
            request.name, request.label = self.random.choice(TEXTS), self.random.choice(TEXTS)
        if index < 2 and self.stamps:
            request.request_header.stamp = self.random.choice(self.stamps)
        return kinds[index], names[index], self._spoil(request)

    def detections(self, header: Any) -> Any:
        """A message of a detector for the image with this header."""
        from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

        message = Detection2DArray(header=header)
        for _ in range(self._one_of((0, 1, 2, 5), 40)):
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id = self.random.choice(TEXTS)
            hypothesis.hypothesis.score = self.random.random()
            message.detections.append(Detection2D(results=[hypothesis], bbox=self._prompt_box()))
        if self.random.random() < 0.02 * self._large:
            message.detections *= 300
        return self._spoil(message)

    def _one_of(self, few: Sequence[int], *many: int) -> int:
        return self.random.choice((*few, *many) if self.random.random() < self._large else few)

    def _prompt(self) -> Any:
        from sensor_msgs.msg import Image
        from vision_msgs.msg import Point2D

        from sam2_ros.msg import ObjectPrompt

        prompt = ObjectPrompt(name=self.random.choice(TEXTS), label=self.random.choice(TEXTS))
        kind = self.random.randrange(4)
        if kind in (0, 1):
            prompt.box = [self._prompt_box()]
        if kind in (1, 2):
            count = self._one_of((1, 2, 7), 255, 256, 257)
            prompt.points = [Point2D(x=self._pixel(WIDTH), y=self._pixel(HEIGHT)) for _ in range(count)]
            prompt.point_labels = [self.random.randint(0, 1) for _ in range(count)]
        if kind == 3:
            data = array("B", bytes(self.random.choice((0, 255)) for _ in range(WIDTH)) * HEIGHT)
            prompt.mask = Image(width=WIDTH, height=HEIGHT, step=WIDTH, encoding="mono8", data=data)
        prompt.object_id = self.random.choice((0, 0, 1, 2, 3, 2**32 - 1))
        prompt.replace = self.random.random() < 0.5
        return prompt

    def _prompt_box(self) -> Any:
        x, y = self._pixel(WIDTH), self._pixel(HEIGHT)
        return box_prompt(x, y, x + self.random.uniform(1, 60), y + self.random.uniform(1, 60)).box[0]

    def _pixel(self, size: int) -> float:
        return self.random.uniform(0, size - 1)

    def _fill_flat_fields(self, request: Any) -> None:
        from vision_msgs.msg import Point2D

        boxes, points = self.random.randint(0, 5), self.random.randint(0, 5)
        request.bbox_object_ids = [self.random.choice(TEXTS) for _ in range(boxes)]
        request.bbox_coords = [self._prompt_box() for _ in range(boxes)]
        request.point_object_ids = [self.random.choice(TEXTS) for _ in range(points)]
        request.point_coords = [Point2D(x=self._pixel(WIDTH), y=self._pixel(HEIGHT)) for _ in range(points)]
        request.point_labels = [self.random.randint(0, 1) for _ in range(points)]
        if self.random.random() < 0.1 * self._large:
            request.bbox_object_ids, request.bbox_coords = ["cup"] * 3000, [self._prompt_box()] * 3000

    def _spoil(self, message: Any) -> Any:
        for _ in range(self.random.choice((0, 1, 1, 2, 4))):
            self._spoil_once(message)
        return message

    def _spoil_once(self, message: Any) -> None:
        """Puts something odd into a random field, at any depth."""
        fields = message.get_fields_and_field_types()
        if not fields:
            return
        name = self.random.choice(list(fields))
        value = getattr(message, name)
        if hasattr(value, "get_fields_and_field_types"):
            self._spoil_once(value)
        elif isinstance(value, (list, array, np.ndarray)):
            self._spoil_list(message, name, fields[name])
        else:
            setattr(message, name, self._odd(fields[name]))

    def _spoil_list(self, message: Any, name: str, kind: str) -> None:
        """``kind`` is such as ``double[36]``, ``sequence<string>``, ``sequence<vision_msgs/BoundingBox2D, 1>``."""
        values = getattr(message, name)
        bounded = not kind.startswith("sequence<") or "," in kind
        element = kind.removeprefix("sequence<").split("[")[0].split(",")[0].rstrip(">")
        if len(values) and "/" in element and self.random.random() < 0.7:
            self._spoil_once(self.random.choice(values))
        elif isinstance(values, np.ndarray):
            values[self.random.randrange(len(values))] = self._odd(element)
        elif len(values) and (bounded or self.random.random() < 0.4):
            setattr(message, name, values[: self.random.randrange(len(values))])
        elif not bounded and "/" in element:
            setattr(message, name, values * self._one_of((2, 3), 50))
        elif not bounded:
            values.append(self._odd(element))

    def _odd(self, kind: str) -> Any:
        if kind.startswith("string"):
            return self.random.choice(TEXTS)
        if kind == "boolean":
            return self.random.random() < 0.5
        if kind == "double":
            return self.random.choice(NUMBERS)
        if kind == "float":
            return self.random.choice([number for number in NUMBERS if not abs(number) > 3e38 or math.isinf(number)])
        signed, bits = not kind.startswith("uint"), int("".join(filter(str.isdigit, kind)) or 8)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        return self.random.choice((0, 1, 2, 3, low, high, high // 2))


def fuzz(
    peer: Peer, topic: str, seed: int, requests: int = sys.maxsize, seconds: float = math.inf, quiet: bool = False
) -> dict[str, Any]:
    """Sends requests and detections until their number or the time is over; returns what was counted.

    Raises:
        AssertionError: an answer is missing, too long or not printable, or no image is tracked.
    """
    from vision_msgs.msg import Detection2DArray

    assert peer.launched is not None
    made, pid = Requests(seed), peer.launched.node_pid()
    publisher = peer.node.create_publisher(Detection2DArray, topic, 10)
    codes: Counter[str] = Counter()
    memory: list[int] = []
    sent = messages = frames = 0
    start = time.monotonic()
    with peer.camera(0.05), tqdm(unit="request", disable=quiet, mininterval=5) as bar:
        peer.wait_until(lambda: peer.tracks, "tracks")
        while sent < requests and time.monotonic() - start < seconds:
            made.stamps = [tracks.header.stamp for tracks in peer.tracks[-20:]]
            header = peer.tracks[-1].header
            frames += len(peer.tracks)
            peer.tracks.clear()
            peer.events.clear()
            publisher.publish(made.detections(header))
            futures = [peer.call_async(*made.request()) for _ in range(BATCH)]
            for future in futures:
                peer.wait_until(future.done, "an answer")
                check(future.result(), codes)
            peer.wait_until(lambda: peer.tracks, "tracks after a batch")
            for obj in peer.tracks[-1].objects:
                assert is_shown(obj.name) and is_shown(obj.label) and math.isfinite(obj.label_score), obj
            sent, messages = sent + BATCH, messages + 1
            bar.update(BATCH)
            if messages % 20 == 1:
                memory.append(resident(pid))
        values = peer.status()
    assert all(is_shown(text, SHOWN) for text in values.values() if isinstance(text, str)), values
    longest = max(map(len, peer.launched.text.splitlines()))
    assert longest < SHOWN and not any("\x1b" in line for line in peer.launched.text.splitlines())
    taken = {key.removeprefix("detections "): int(values[key]) for key in values if key.startswith("detections ")}
    return {
        "seed": seed, "seconds": round(time.monotonic() - start, 1), "requests": sent, "detection_messages": messages,
        "frames": frames, "codes": dict(codes), "detections": taken, "memory_mib": memory,
        "log_lines": len(peer.launched.text.splitlines()), "longest_line": longest,
    }  # fmt: skip


def fuzz_directly(seed: int, requests: int = sys.maxsize, seconds: float = math.inf) -> dict[str, Any]:
    """As :func:`fuzz`, with a node in this process and without DDS.

    Raises:
        AssertionError: as :func:`fuzz`, or the engine failed.
    """
    from sensor_msgs.msg import Image

    made, codes, memory = Requests(seed, large=0.02), Counter[str](), []
    image = Image(width=WIDTH, height=HEIGHT, step=WIDTH, encoding="mono8", data=array("B", bytes(WIDTH * HEIGHT)))
    image.header.frame_id = "camera"
    start, sent = time.monotonic(), 0
    parameters = {"detections.enabled": True, "detections.new_after": 1, "prompts.wait": 0.0, "tracker.max_objects": 8}
    with direct_node("/fuzz", **parameters) as node:
        while sent < requests and time.monotonic() - start < seconds:
            stamp = (sent + 1) * 10**7
            image.header.stamp.sec, image.header.stamp.nanosec = divmod(stamp, 10**9)
            node.send("/fuzz/image", image)
            node.wait_for_frame(stamp)
            made.stamps = [*made.stamps[-19:], copy.copy(image.header.stamp)]
            node.send("/fuzz/detections", made.detections(copy.deepcopy(image.header)))
            for response in node.call([made.request() for _ in range(AT_ONCE)]):
                check(response, codes)
                assert "the engine failed" not in response.message, response.message
            sent += AT_ONCE
            if sent % (1 << 14) == AT_ONCE:
                memory.append(resident(os.getpid()))
                values = node.status()
                assert all(is_shown(text, SHOWN) for text in values.values()), values
        values = node.status()
    taken = {key.removeprefix("detections "): int(values[key]) for key in values if key.startswith("detections ")}
    return {
        "seed": seed, "seconds": round(time.monotonic() - start, 1), "requests": sent,
        "detection_messages": sent // AT_ONCE, "codes": dict(codes), "detections": taken, "memory_mib": memory,
    }  # fmt: skip


def check(response: Any, codes: Counter[str]) -> None:
    """Counts the results of a response, and looks at its texts."""
    for result in (*getattr(response, "results", ()), getattr(response, "result", None) or response):
        assert is_shown(result.message, SHOWN), result.message[:200]
        codes[str(getattr(result, "code", "success" if result.success else "refused"))] += 1


def is_shown(text: str, most: int = 256) -> bool:
    return len(text) <= most and not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def run(action: Callable[[Peer, str], dict[str, Any]]) -> dict[str, Any]:
    """Starts a node, and ends it cleanly after ``action``, which gets it and the topic of its detections."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "fuzz.yaml"
        file.write_text(PARAMETERS)
        with running(Path(name), namespace="/fuzz", params_file=str(file)) as peer:
            peer.wait_for_state("active")
            peer.wait_for_reliable()
            return action(peer, "/fuzz/detections")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (default: 0)")
    parser.add_argument("--requests", type=int, default=sys.maxsize, help="most requests")
    parser.add_argument("--direct", action="store_true", help="a node in this process, without DDS")
    args = parser.parse_args()
    if args.direct:
        seen = fuzz_directly(args.seed, args.requests, args.seconds)
    else:
        with signals_unwind():
            seen = run(lambda peer, topic: fuzz(peer, topic, args.seed, args.requests, args.seconds))
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
