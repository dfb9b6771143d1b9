#!/usr/bin/env python3
"""Attacks an inference server while a quiet client tracks, and prints what the client and the server noticed.

python test/system/attack_server.py --seconds 10 --model null:5 --repeats 3

The attackers are processes of low priority, as they would run on other machines. They take processor time all the same,
so each attack is also run against another server: "elsewhere" is what the quiet client notices of that.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))  # which pytest does, too
from served import ServerProcess
from zmtp import COMMAND, MORE, dial, frame, known, message, ready, send_until_cut

from sam2_ros.media.signals import signals_unwind
from sam2_ros.remote import protocol
from sam2_ros.remote.client import RemoteBackend
from sam2_ros.remote.codec import to_wire
from sam2_ros.tracking import Prompt, PromptRequest, TrackerConfig

MIB = 1 << 20
PERIOD = 0.02  # s between the quiet client's frames
# Bytes by which one client may let server and front grow, with the default limits: messages that are not complete
# (448 MiB), requests that wait (192), answers that are not read (64), and what libzmq and the front store.
CEILING = 768 * MIB
Attack = Callable[[str], Iterator[None]]  # gets the endpoint; yields after each turn


def endless_message(endpoint: str) -> Iterator[None]:
    """Parts of 1 MiB, and never the last one."""
    while True:
        with contextlib.suppress(OSError), known(endpoint) as connection:
            send_until_cut(connection, frame(bytes(MIB), MORE), 200)
        yield


def empty_parts(endpoint: str) -> Iterator[None]:
    """Half a million empty parts."""
    while True:
        with contextlib.suppress(OSError), known(endpoint) as connection:
            send_until_cut(connection, b"\x01\x00" * 500_000, 4)
        yield


def half_messages(endpoint: str) -> Iterator[None]:
    """Many connections, each in the middle of a large message."""
    held: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError, AssertionError):
            connection = known(endpoint)
            send_until_cut(connection, frame(bytes(60 * MIB))[: 59 * MIB], 1)
            held.append(connection)
        for old in held[:-20]:
            old.close()
        del held[:-20]
        yield


def strangers(endpoint: str) -> Iterator[None]:
    """A command of 127 MiB before any key was shown."""
    for mechanism in itertools.cycle((b"NULL", b"CURVE")):
        with contextlib.suppress(OSError), dial(endpoint, mechanism) as connection:
            connection.sendall(b"\x06" + struct.pack(">Q", 127 * MIB))
            send_until_cut(connection, bytes(MIB), 126)
        yield


def idle_connections(endpoint: str) -> Iterator[None]:
    """Connections that say nothing."""
    held: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            held += [dial(endpoint) for _ in range(10)]
        for old in held[:-400]:
            old.close()
        del held[:-400]
        yield


class Talker:
    """A client through ZeroMQ."""

    def __init__(self, endpoint: str, **tracker: Any) -> None:
        context: zmq.Context[Any] = zmq.Context.instance()
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger, self.socket.rcvtimeo, self.socket.sndtimeo = 0, 5000, 5000
        self.socket.sndhwm = 4  # what it can't send must not pile up in the attacker's memory, which costs this machine
        self.socket.connect(endpoint)
        self.hello(**tracker)

    def hello(self, **tracker: Any) -> Any:
        return self.ask({"op": "hello", "stream": f"{os.getpid():020}", "tracker": tracker})

    def tell(self, header: dict[str, Any], *pixels: bytes) -> None:
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart([*protocol.pack({"seq": 1} | header), *pixels])

    def ask(self, header: dict[str, Any], *pixels: bytes) -> Any:
        self.tell(header, *pixels)
        with contextlib.suppress(zmq.Again):
            return msgpack.unpackb(self.socket.recv_multipart()[1])

    def drop_answers(self) -> None:
        """Reads what has come."""
        with contextlib.suppress(zmq.Again):
            while True:
                self.socket.recv_multipart(zmq.NOBLOCK)


def header_bombs(endpoint: str) -> Iterator[None]:
    """30 MiB of empty lists as a header."""
    talker, count = Talker(endpoint), 30 * MIB
    bomb = b"\x82" + msgpack.packb("seq") + b"\x01" + msgpack.packb("x") + b"\xdd" + struct.pack(">I", count)
    data = bomb + b"\x90" * count
    while True:
        with contextlib.suppress(zmq.Again):
            talker.socket.send_multipart([protocol.PREFIX, data], copy=False)
            talker.socket.recv_multipart()
        yield


def largest_settings(endpoint: str) -> Iterator[None]:
    """A new stream under one name again and again, with the largest settings."""
    talker = Talker(endpoint)
    while True:
        talker.hello(max_objects=64, history=256, prompted_slots=64)
        talker.hello(max_objects=64)
        yield


def many_points(endpoint: str) -> Iterator[None]:
    """Prompts of 50,000 points."""
    talker = Talker(endpoint)
    size = {"height": 480, "width": 640, "encoding": "raw"}
    talker.ask({"op": "step", "stamp": 1, "frame": size}, bytes(480 * 640 * 3))
    points = np.random.default_rng(0).uniform(0, 470, (50_000, 2)).astype(np.float32)
    prompt = Prompt(points=points, labels=np.ones(50_000, np.int32))
    request = {"op": "add", "stamp": 0, "requests": [to_wire(PromptRequest(prompt))] * 10}
    while True:
        talker.ask(request)
        yield


def unread_answers(endpoint: str) -> Iterator[None]:
    """Requests with large answers that nobody reads."""
    noise = np.random.default_rng(0).integers(0, 2, (1000, 1000)).astype(np.bool_)
    size = {"height": 1000, "width": 1000, "encoding": "raw"}
    headers: list[tuple[dict[str, Any], list[bytes]]] = [
        ({"op": "hello", "stream": f"{os.getpid():020}", "tracker": {}}, []),
        ({"op": "step", "stamp": 1, "frame": size}, [bytes(3_000_000)]),
        ({"op": "add", "stamp": 0, "requests": [to_wire(PromptRequest(Prompt(mask=noise)))] * 8}, []),
        *[({"op": "objects"}, [])] * 50,
    ]
    while True:
        with contextlib.suppress(OSError), ready(endpoint) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for header, pixels in headers:
                connection.sendall(message(*protocol.pack({"seq": 1} | header), *pixels))
                yield
            for _ in range(40):
                time.sleep(0.05)
                yield


def unused_parts(endpoint: str) -> Iterator[None]:
    """Commands that wait with pixels that they do not need."""
    talker = Talker(endpoint)
    while True:
        for op in ("objects", "pixels"):
            talker.tell({"op": op}, bytes(18_000_000))
        talker.drop_answers()
        yield


def frames_without_waiting(endpoint: str) -> Iterator[None]:
    """Large frames as fast as they go, without waiting for an answer."""
    talker, pixels = Talker(endpoint), bytes(18_000_000)
    size = {"height": 2000, "width": 3000, "encoding": "raw"}
    for stamp in itertools.count(1):
        talker.tell({"op": "step", "stamp": stamp, "frame": size}, pixels)
        talker.drop_answers()
        yield


def pings(endpoint: str) -> Iterator[None]:
    """As many pings as it can."""
    talker = Talker(endpoint)
    while True:
        for _ in range(100):
            talker.tell({"op": "ping"})
        for _ in range(100):
            with contextlib.suppress(zmq.Again):
                talker.socket.recv_multipart()
        yield


def commands_before_ready(endpoint: str) -> Iterator[None]:
    """Commands of the largest size that is let through, in any number."""
    while True:
        with contextlib.suppress(OSError), dial(endpoint) as connection:
            send_until_cut(connection, frame(b"\x04JUNK" + bytes(4000), COMMAND), 100)
        yield


ATTACKS: tuple[Attack, ...] = (
    endless_message, empty_parts, half_messages, strangers, idle_connections, commands_before_ready, header_bombs,
    largest_settings, many_points, unread_answers, unused_parts,
    frames_without_waiting, pings,
)  # fmt: skip


def run_attacks(names: list[str], endpoint: str, seconds: float, turns: Any) -> None:
    """Attacks for so long with each, in a process of its own; counts the turns of each."""
    os.nice(15)
    for index, name in enumerate(names):
        end = time.monotonic() + seconds
        for _ in next(attack for attack in ATTACKS if attack.__name__ == name)(endpoint):
            turns[index] += 1
            if time.monotonic() > end:
                break


def memory(pid: int) -> tuple[int, int]:
    """Present and largest memory of the server with its front, bytes."""
    family = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    now = most = 0
    for each in family:
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            now += 1024 * int(line.split()[1]) if line.startswith("VmRSS") else 0
            most += 1024 * int(line.split()[1]) if line.startswith("VmHWM") else 0
        with contextlib.suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5")  # the next peak starts here
    return now, most


@dataclass
class Quiet:
    """What the quiet client saw in one phase."""

    latencies: list[float]  # s
    failed: int
    reconnected: int

    @property
    def p50(self) -> float:
        return statistics.median(self.latencies or [float("nan")])

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[len(self.latencies) * 99 // 100] if self.latencies else float("nan")


def watch(client: RemoteBackend, going_on: Callable[[], bool]) -> Quiet:
    """Tracks at a steady rate."""
    picture, connections = np.zeros((240, 320, 3), np.uint8), int(str(client.link_values()["connections"]))
    seen = Quiet([], 0, 0)
    while going_on():
        start = time.monotonic()
        try:
            assert client.step(picture, time.monotonic_ns()).objects
            seen.latencies.append(time.monotonic() - start)
        except (RuntimeError, ValueError):
            seen.failed += 1
        time.sleep(max(0.0, PERIOD - (time.monotonic() - start)))
    seen.reconnected = int(str(client.link_values()["connections"])) - connections
    return seen


def attack_all(
    endpoint: str, pid: int, seconds: float, groups: list[list[str]], elsewhere: str = "", repeats: int = 1
) -> Iterator[dict[str, Any]]:
    """Runs the attacks of one group after the other, ``repeats`` times; yields what was seen during each group.

    ``elsewhere`` is the endpoint of a server that is attacked for comparison; latencies are medians over the repeats.
    """
    client = RemoteBackend([endpoint], TrackerConfig(max_objects=4), timeout=30, pixels="raw")
    client.connect(30)
    client.step(np.zeros((240, 320, 3), np.uint8), 1)
    assert client.add([PromptRequest(Prompt(box=np.array([10, 10, 90, 90], np.float32)))])[0].success
    context = multiprocessing.get_context("spawn")

    def attack(names: list[str], target: str) -> tuple[Quiet, list[int], int | None]:
        turns = context.Array("q", len(names))
        attacker = context.Process(target=run_attacks, args=(names, target, seconds, turns), daemon=True)
        attacker.start()
        return watch(client, attacker.is_alive), turns[:], attacker.exitcode

    try:
        for names in groups:
            quiet, other, attacked = [], [], []
            before, _ = memory(pid)
            most = before
            for _ in range(repeats):
                end = time.monotonic() + seconds
                quiet.append(watch(client, lambda end=end: time.monotonic() < end))  # type: ignore[misc]
                if elsewhere:
                    other.append(attack(names, elsewhere)[0])
                memory(pid)  # the next peak starts here
                seen, turns, code = attack(names, endpoint)
                attacked.append(seen)
                after, peak = memory(pid)
                most = max(most, peak)
            p99 = {
                name: statistics.median(seen.p99 for seen in phases)
                for name, phases in (("quiet", quiet), ("elsewhere", other), ("attacked", attacked))
                if phases
            }
            yield {
                "attack": ", ".join(names), "turns": turns, "frames": sum(len(seen.latencies) for seen in attacked),
                "failed": sum(seen.failed for seen in attacked),
                "reconnected": sum(seen.reconnected for seen in attacked),
                "quiet p50 [ms]": round(1e3 * statistics.median(seen.p50 for seen in quiet), 2),
                **{f"{name} p99 [ms]": round(1e3 * value, 2) for name, value in p99.items()},
                "to quiet": round(p99["attacked"] / p99["quiet"], 2),
                **({"to elsewhere": round(p99["attacked"] / p99["elsewhere"], 2)} if elsewhere else {}),
                "grown at most [MiB]": (most - before) // MIB, "after [MiB]": (after - before) // MIB, "exit": code,
            }  # fmt: skip
    finally:
        client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase (default: 10)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="of each attack, of which medians are shown (default: 1)"
    )
    parser.add_argument("--model", default="null:5", help="of the server (default: null:5)")
    parser.add_argument("--attack", action="append", choices=[attack.__name__ for attack in ATTACKS])
    args = parser.parse_args()
    groups = [[name] for name in args.attack or [attack.__name__ for attack in ATTACKS]]
    local, worst = ("--bind", "tcp://127.0.0.1:*"), 0
    with (
        signals_unwind(),
        ServerProcess(*local, model=args.model) as server,
        ServerProcess(*local, model=args.model) as other,
    ):
        pid = server.process.pid
        for seen in attack_all(server.endpoint, pid, args.seconds, groups, other.endpoint, args.repeats):
            print(json.dumps(seen), flush=True)
            worst = max(worst, seen["grown at most [MiB]"])
        code = server.terminate()
    print(json.dumps({"ceiling [MiB]": CEILING // MIB, "largest growth [MiB]": worst, "exit code": code}))
    return 0 if code == 0 and worst * MIB <= CEILING else 1


if __name__ == "__main__":
    sys.exit(main())
