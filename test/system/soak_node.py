#!/usr/bin/env python3
"""Runs the whole node for long: everything on, servers killed and stopped. It must stay flat and lose nothing.

    python test/system/soak_node.py --minutes 60 --seed 0

A camera whose image size changes, with depth; prompts, corrections, removals and detections; live tracks; a viewer with
a page open; a recorder; two inference servers of which one is killed or stopped now and then. Memory, threads and open
files of node, viewer and recorder are measured. Nothing lost: every object that was added lives until its removal is
told, ids never come again, the recording can be read. Writes ``soak_node.json`` and ``soak_node.png``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import psutil
from matplotlib.figure import Figure
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "ros"))

from node_harness import Peer, box_prompt, running, wait_until
from soak import Scene

from sam2_ros.bench.servers import ServerProcess
from sam2_ros.media.signals import signals_unwind

NAMESPACE = f"/soak_{os.getpid()}"  # several may run at a time
SIZES = ((640, 480), (320, 240))  # one aspect: another one would be another camera
PARAMETERS = """/**:
  ros__parameters:
    depth.enabled: true
    detections.enabled: true
    detections.new_after: 3
    diagnostics.period: 0.5
    inference.endpoint: {endpoints}
    inference.timeout: 5.0
    tracker.max_objects: 6
    tracker.drop_after: 0
"""
EVERY = 5.0  # seconds between two measurements
SETTLED = 0.25  # of the run
FLAT = 0.10  # by this share of its median the memory may grow after that
SPARE = 3  # threads and files that may come and go


@dataclass
class Watch:
    """What one process uses, over time."""

    process: psutil.Process
    memory: list[float] = field(default_factory=list)  # MiB
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def look(self) -> None:
        self.memory.append(round(self.process.memory_info().rss / 2**20, 1))
        self.threads.append(self.process.num_threads())
        self.files.append(self.process.num_fds())

    def verdict(self) -> dict[str, Any]:
        begin = int(SETTLED * len(self.memory))
        settled = self.memory[begin:]
        third = max(1, len(settled) // 3)
        first, last = float(np.median(settled[:third])), float(np.median(settled[-third:]))
        half = max(1, len(self.threads) // 2)
        flat = (
            last <= first * (1 + FLAT)
            and max(self.threads[half:]) <= max(self.threads[:half]) + SPARE
            and max(self.files[half:]) <= max(self.files[:half]) + SPARE
        )
        return {
            "memory_first_mib": first, "memory_last_mib": last, "memory_peak_mib": max(self.memory),
            "threads_most": max(self.threads), "files_most": max(self.files), "flat": flat,
        }  # fmt: skip


class Cameras:
    """Publishes colour, depth and calibration of a moving scene, and now and then in another size."""

    def __init__(self, peer: Peer, rate: float, change_every: float, chance: random.Random) -> None:
        from sensor_msgs.msg import CameraInfo, Image

        self._peer, self._period, self._change_every, self._chance = peer, 1 / rate, change_every, chance
        self._scene = Scene(np.random.default_rng(chance.randrange(2**31)))
        self._depth = peer.create_image_publisher(Image, f"{NAMESPACE}/depth/image")
        self._info = peer.node.create_publisher(CameraInfo, f"{NAMESPACE}/camera_info", 10)
        self._lock = threading.Lock()
        self.newest: tuple[Any, list[np.ndarray]] | None = None  # header, and the discs' masks in that image
        self.sent = self.changes = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)

    def _run(self, stop: threading.Event) -> None:
        size, until = SIZES[0], time.monotonic() + self._change_every
        while not stop.wait(self._period):
            if time.monotonic() > until:
                size, until = self._chance.choice(SIZES), time.monotonic() + self._change_every
                self.changes += 1
            self._publish(*size)

    def _publish(self, width: int, height: int) -> None:
        from sensor_msgs.msg import CameraInfo, Image

        picture, masks = self._scene.next()
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        masks = [cv2.resize(m.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0 for m in masks]
        image = self._peer.image(data=array("B", picture.tobytes()), width=width, height=height, step=3 * width)
        depth = Image(header=image.header, width=width, height=height, step=2 * width, encoding="16UC1")
        depth.data = array("B", np.full((height, width), 1500, np.uint16).tobytes())
        info = CameraInfo(header=image.header, width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = [float(width), 0.0, width / 2, 0.0, float(width), height / 2, 0.0, 0.0, 1.0]
        self._info.publish(info)
        self._depth.publish(depth)
        self._peer.send(image)
        with self._lock:
            self.newest, self.sent = (image.header, masks), self.sent + 1


class Objects:
    """What should live in the node, by its answers and its events."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.living: set[int] = set()
        self.ever: set[int] = set()
        self.removed: set[int] = set()
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def take_events(self) -> int:
        """Reads the events since the last call; returns their number."""
        from sam2_ros.msg import ObjectEvent

        count = len(self._peer.events)
        events, self._peer.events[:count] = self._peer.events[:count], []
        for event in events:
            if event.event == ObjectEvent.ADDED:
                if event.id in self.ever:
                    self.faults.append(f"id {event.id} came again")
                self.ever.add(event.id)
                self.living.add(event.id)
            elif event.event == ObjectEvent.REMOVED:
                self.living.discard(event.id)
                self.removed.add(event.id)
            elif event.event == ObjectEvent.DROPPED:
                self.faults.append(f"object {event.id} was dropped: {event.reason}")
                self.living.discard(event.id)
        return count

    def compare(self) -> None:
        """With the node's own list, once the events of all answers are here."""

        def same() -> bool:
            self.take_events()
            listed = self._peer.list_objects()
            self.take_events()
            return bool(listed.success) and {obj.id for obj in listed.tracks.objects} == self.living

        try:
            wait_until(same, "the list of objects")
        except BaseException as error:  # pytest's Failed is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            listed = {obj.id for obj in self._peer.list_objects().tracks.objects}
            self.faults.append(f"the node lists {sorted(listed)}, events say {sorted(self.living)}")
            self.living = listed


class Servers:
    """Two servers, of which one is killed or stopped now and then."""

    def __init__(self, folder: Path, model: str, chance: random.Random) -> None:
        self.endpoints = [f"ipc://{folder}/a", f"ipc://{folder}/b"]
        self._model, self._chance = model, chance
        self._processes = [ServerProcess(endpoint, model) for endpoint in self.endpoints]
        self.done: Counter[str] = Counter()

    def trouble(self) -> None:
        """Kills one and starts it again, or stops it for a while."""
        index = self._chance.randrange(2)
        server = self._processes[index]
        if self._chance.random() < 0.6:
            server.kill()
            time.sleep(self._chance.uniform(0.1, 3.0))
            self._processes[index] = ServerProcess(self.endpoints[index], self._model)
            self.done["killed"] += 1
        else:
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.5, 8.0))
            server.process.send_signal(signal.SIGCONT)
            self.done["stopped"] += 1

    def end(self) -> None:
        for server in self._processes:
            with suppress(ProcessLookupError):
                server.end()


class Page:
    """A browser's connection to the viewer: takes every picture and says that it painted it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.pictures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)

    async def _watch(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._address.rstrip("/") + "/socket", max_msg_size=0) as page,
        ):
            while not self._stop.is_set():
                with suppress(asyncio.TimeoutError):
                    message = await page.receive(timeout=1)
                    if message.type is aiohttp.WSMsgType.TEXT:
                        told = json.loads(message.data)
                        if told.get("type") == "cameras" and told["cameras"]:
                            await page.send_json({"type": "watch", "camera": told["cameras"][0], "live": False})
                    elif message.type is aiohttp.WSMsgType.BINARY:
                        self.pictures += 1
                        size = int.from_bytes(message.data[:4], "little")
                        number = json.loads(message.data[4 : 4 + size])["number"]
                        await page.send_json({"type": "painted", "number": number})
                    else:
                        return


def act(peer: Peer, objects: Objects, cameras: Cameras, detections: Any, chance: random.Random) -> str:
    """One command or detection at random; returns its name, with the refusal."""
    from sam2_ros.srv import RefineObject, RemoveObject, RenameObject

    assert cameras.newest is not None
    header, masks = cameras.newest
    rows, columns = np.nonzero(chance.choice(masks))
    box = [float(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    prompt = box_prompt(*box)
    living = sorted(objects.living)
    kind = chance.choices(("add", "refine", "remove", "rename", "detect"), (2, 2, 2, 1, 3))[0]
    if kind == "detect" or (kind != "add" and not living):
        detections.publish(detection_of(header, box))
        return "detection"
    if kind == "add":
        answer = peer.add(prompt)
    elif kind == "refine":
        prompt.object_id = chance.choice(living)
        answer = peer.call(RefineObject, "refine_object", RefineObject.Request(prompt=prompt))
    elif kind == "remove":
        request = RemoveObject.Request(object_id=str(chance.choice(living)))
        answer = peer.call(RemoveObject, "remove_object", request)
    else:
        request = RenameObject.Request(object_id=str(chance.choice(living)), name=f"thing {chance.randrange(10**9)}")
        answer = peer.call(RenameObject, "rename_object", request)
    return kind if answer.success else f"{kind} refused"


def detection_of(header: Any, box: list[float]) -> Any:
    """What a detector says of one disc."""
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = "disc", 0.8
    found = Detection2D(header=header, results=[hypothesis], bbox=box_prompt(*box).box[0])
    return Detection2DArray(header=header, detections=[found])


def soak(folder: Path, seconds: float, seed: int, model: str, rate: float, quiet: bool = False) -> dict[str, Any]:
    """Runs it; the result is what ``soak_node.json`` holds.

    Raises:
        AssertionError, Failed: the node does not answer, or does not end cleanly.
    """
    from vision_msgs.msg import Detection2DArray

    from sam2_ros.msg import TrackedObjectArray

    chance = random.Random(seed)
    servers = Servers(folder, model, chance)
    file = folder / "soak.yaml"
    file.write_text(PARAMETERS.format(endpoints=json.dumps(", ".join(servers.endpoints))))
    counts: Counter[str] = Counter()
    done: Counter[str] = Counter()
    recording, recorder = folder / "soak.mcap", None
    try:
        arguments = {"params_file": str(file), "viewer": "true", "viewer_port": "0", "depth": "depth/image"}
        with running(folder, namespace=NAMESPACE, **arguments) as peer:
            launched = peer.launched
            assert launched is not None
            peer.wait_for_state("active")
            launched.wait_for_text("viewer at http://127.0.0.1:")
            address = next(line.rpartition(" ")[2] for line in launched.text.splitlines() if " viewer at " in line)

            for topic in ("tracks", "tracks_live"):
                taken = partial(counts.update, [topic])
                peer.node.create_subscription(
                    TrackedObjectArray, f"{peer.node_name}/{topic}", lambda _, taken=taken: taken(), 10
                )
            detections = peer.node.create_publisher(Detection2DArray, f"{NAMESPACE}/detections", 10)
            cameras = Cameras(peer, rate, max(5.0, seconds / 40), chance)
            objects = Objects(peer)
            with cameras.running():
                peer.wait_until(lambda: peer.tracks, "tracks")
                page = Page(address)
                command = [sys.executable, "-m", "sam2_ros", "record", str(recording), "--node", peer.node_name]
                recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
                node = psutil.Process(launched.node_pid())
                watches = {"node": Watch(node), "recorder": Watch(psutil.Process(recorder.pid))}
                viewers = [p for p in psutil.Process(node.ppid()).children(recursive=True) if "view" in p.cmdline()]
                watches |= {"viewer": Watch(viewers[0])} if viewers else {}
                start = time.monotonic()
                next_look, next_trouble, next_compare = start, start + 2, start + 20
                trouble: threading.Thread | None = None
                with tqdm(total=round(seconds), unit="s", disable=quiet, mininterval=10) as bar:
                    while (now := time.monotonic()) - start < seconds:
                        done[act(peer, objects, cameras, detections, chance)] += 1
                        objects.take_events()
                        del peer.tracks[:-20], peer.statuses[:-20]
                        if now > next_look:
                            next_look = now + EVERY
                            for watch in watches.values():
                                watch.look()
                            bar.update(round(now - start) - bar.n)
                        if now > next_trouble and (trouble is None or not trouble.is_alive()):
                            next_trouble = now + chance.uniform(5, 40)
                            trouble = threading.Thread(target=servers.trouble, daemon=True)
                            trouble.start()
                        if now > next_compare:
                            next_compare = now + 20
                            objects.compare()
                        time.sleep(chance.uniform(0.05, 0.6))
                if trouble is not None:
                    trouble.join(60)
                wait_until(lambda: peer.tracks and peer.status()["link"] == "connected", "a server")
                objects.compare()
                status = peer.status()
                page.close()
                recorder.send_signal(signal.SIGINT)
                recorder_code = recorder.wait(60)
    finally:
        servers.end()
        if recorder is not None:
            recorder.kill()  # where the run was cut short
    replayed = read_back(recording)
    verdicts = {name: watch.verdict() for name, watch in watches.items()}
    return {
        "seconds": round(time.monotonic() - start, 1), "seed": seed, "model": model, "images": cameras.sent,
        "size_changes": cameras.changes, "tracks": counts["tracks"], "live_tracks": counts["tracks_live"],
        "pictures": page.pictures,
        "commands": dict(sorted(done.items())), "servers": dict(servers.done), "objects_ever": len(objects.ever),
        "faults": objects.faults, "received": int(status["received"]), "processed": int(status["processed"]),
        "dropped": int(status["dropped"]), "failed": int(status["failed"]), "recorder_code": recorder_code,
        "recorded_tracks": replayed, "verdicts": verdicts,
        "flat": all(verdict["flat"] for verdict in verdicts.values()),
        "watches": {
            name: {"memory": watch.memory, "threads": watch.threads, "files": watch.files}
            for name, watch in watches.items()
        },
    }  # fmt: skip


def read_back(recording: Path) -> int:
    """Messages of ``~/tracks`` in the recording, read to its end by mcap's own reader."""
    from mcap.reader import make_reader

    with recording.open("rb") as file:
        return sum(1 for _, channel, _ in make_reader(file).iter_messages() if channel.topic.endswith("/tracks"))


def draw(result: dict[str, Any], path: Path) -> None:
    """Memory, threads and files of the processes over time."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    for axes, key, label in zip(
        panels, ("memory", "threads", "files"), ("memory, MiB", "threads", "files"), strict=True
    ):
        for name, values in result["watches"].items():
            minutes = np.arange(len(values[key])) * EVERY / 60
            axes.plot(minutes, values[key], label=name)
        axes.set(ylabel=label, ylim=(0, None))
        axes.grid(color="0.9")
    panels[0].legend(loc="lower right")
    servers = ", ".join(f"{count} times {what}" for what, count in result["servers"].items())
    panels[0].set_title(f"{result['images']} images, {sum(result['commands'].values())} commands; servers {servers}")
    panels[2].set_xlabel("minutes")
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and troubles (default: 0)")
    parser.add_argument("--model", default="embedded", help="of the servers (default: embedded; null: no network)")
    parser.add_argument("--rate", type=float, default=10.0, help="camera images a second (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("soak_output"), metavar="DIR")
    args = parser.parse_args()
    with signals_unwind(), tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), 60 * args.minutes, args.seed, args.model, args.rate)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "soak_node.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, args.out / "soak_node.png")
    print(json.dumps({key: value for key, value in result.items() if key != "watches"}, indent=1))
    return 0 if result["flat"] and not result["faults"] else 1


if __name__ == "__main__":
    sys.exit(main())
