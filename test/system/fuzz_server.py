#!/usr/bin/env python3
"""Sends mutated messages to an inference server through a real socket. The server must survive and not grow.

python test/system/fuzz_server.py --messages 100000
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq
from tqdm import tqdm

from sam2_ros.media.signals import signals_unwind
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import to_wire
from sam2_ros.tracking import Prompt, PromptRequest, TrackerConfig

BATCH = 50  # messages between reads of the answers
PATIENCE = 60.0  # s


def seeds() -> list[list[bytes]]:
    """Valid messages of every kind."""
    frame = {"height": 8, "width": 8, "encoding": "raw"}
    request = to_wire(PromptRequest(Prompt(box=np.array([1, 1, 6, 6], np.float32)), name="cup"))
    mask = to_wire(PromptRequest(Prompt(mask=np.eye(8, dtype=np.bool_)), object_id=3))
    headers: list[dict[str, Any]] = [
        {"op": "ping"},
        {"op": "hello", "stream": "fuzz" * 5, "tracker": to_wire(TrackerConfig(max_objects=2))},
        {"op": "step", "stamp": 5, "frame": frame},
        {"op": "step", "stamp": 6, "frame": frame | {"encoding": "jpeg"}},
        {"op": "step", "stamp": 6, "frame": frame | {"encoding": "shm", "pid": 1, "fd": 1, "offset": 0}},
        {"op": "add", "requests": [request, mask], "stamp": 0},
        {"op": "refine", "request": mask, "stamp": 5},
        {"op": "restore", "requests": [mask]},
        {"op": "remove", "object_id": 1},
        {"op": "rename", "object_id": 1, "name": "a", "label": "b"},
        {"op": "reset"},
        {"op": "objects"},
        {"op": "next_id", "next_id": 9},
        {"op": "pixels", "frame": frame | {"encoding": "shm", "pid": 1, "fd": 1, "offset": 0}},
        {"op": "bye"},
    ]
    pixels = bytes(8 * 8 * 3)
    return [
        [*protocol.pack({"seq": index, **header}), *([pixels] if header["op"] == "step" else [])]
        for index, header in enumerate(headers)
    ]


ODD: list[Any] = [
    None, True, 0, -1, 2**31, 2**32, 2**63 - 1, 2**64 - 1, -(2**63), 1.5, math.nan, math.inf, 1e308,
    "", "x", "\0", "A" * 5000, b"", b"\xff" * 40, [], [[]], [[[[[]]]]], {}, {"": 0}, {"prompt": None},
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 1), ["float32", [2**28, 2**28], b""],
    ["bool", [2**28], b"\0" * 10], ["float64", [0, 2**27], b""], ["uint8", [-1], b""], ["object", [1], b"1"],
    ["int64", [], b"\0" * 8], ["float32", [1, 2], b"\0\0\xc0\x7f\0\0\x80\x7f"],
]  # fmt: skip


def mutate_values(parts: list[bytes], random_source: random.Random) -> list[bytes]:
    """The message with one to three values of its header replaced, removed or repeated."""
    header = msgpack.unpackb(parts[1])
    for _ in range(random_source.randint(1, 3)):
        places = list(_places(header))
        if not places:
            break
        owner, key = random_source.choice(places)
        kind = random_source.random()
        if kind < 0.7:
            owner[key] = copy.deepcopy(random_source.choice(ODD))
        elif kind < 0.85 or isinstance(owner, dict):
            del owner[key]
        else:
            owner.extend(copy.deepcopy(owner) * random_source.randint(1, 20))
    return [parts[0], msgpack.packb(header), *parts[2:]]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or map within ``value``, with each of its indices or keys."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def bomb(random_source: random.Random) -> list[bytes]:
    """A header that is small on the wire and large, deep or endless when it is read."""
    start = b"\x83\xa2op\xa3add\xa3seq\x07\xa8requests"
    count = random_source.randint(1, 60_000)
    first = random_source.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
    length = struct.pack(">I", random_source.choice([count, 2**31, 2**32 - 1]))
    filling = random_source.choice(
        [b"\x90", b"\x80", b"\xa0", b"\x91", b"\x81\xa0", b"\xcb" + bytes(8), b"\xc0", b"\xa1x"]
    )
    return [protocol.PREFIX, start + first + length + filling * count]


def break_frames(endpoint: str, valid: list[bytes], random_source: random.Random) -> None:
    """Sends a message with damaged ZMTP frames on a connection of its own."""
    sent = bytearray(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    sent += b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity" + bytes(4)
    for part in valid:
        more = 1 if part is not valid[-1] else 0
        sent += bytes([more | 2]) + struct.pack(">Q", len(part)) + part
    for _ in range(random_source.randint(1, 3)):
        place = random_source.randrange(len(sent))
        if random_source.random() < 0.7:
            sent[place] = random_source.randrange(256)
        else:
            sent[place:place] = random_source.randbytes(random_source.randint(1, 300))
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)


def mutate(parts: list[bytes], random_source: random.Random) -> list[bytes]:
    """The message with one to four faults: flipped bits, cuts, repeats, lost and added parts."""
    parts = list(parts)
    for _ in range(random_source.randint(1, 4)):
        if not parts:
            parts.append(random_source.randbytes(random_source.randint(0, 40)))
        which = random_source.randrange(len(parts))
        part = bytearray(parts[which])
        kind = random_source.randrange(8)
        if kind <= 2 and part:
            part[random_source.randrange(len(part))] ^= 1 << random_source.randrange(8)
        elif kind == 3 and part:
            part[random_source.randrange(len(part))] = random_source.choice((0, 127, 128, 192, 223, 255))
        elif kind == 4:
            del part[random_source.randint(0, len(part)) :]
        elif kind == 5:
            place = random_source.randint(0, len(part))
            part[place:place] = random_source.randbytes(random_source.randint(1, 30))
        elif kind == 6:
            parts.insert(which, random_source.randbytes(random_source.randint(0, 300)))
            continue
        elif kind == 7 and len(parts) > 1:
            del parts[which]
            continue
        parts[which] = bytes(part)
    return parts


def resident(pid: int) -> int:
    """Memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    return 0


def fuzz(endpoint: str, pid: int, messages: int, seed: int, quiet: bool = False) -> dict[str, Any]:
    """Sends the messages: half with damaged bytes, half with odd values, some valid ones and bombs; for every batch
    there is a connection with damaged frames. Returns the counted answers and the server's memory over time.

    Raises:
        TimeoutError: the server no longer answers.
    """
    source, valid = random.Random(seed), seeds()
    context: zmq.Context[Any] = zmq.Context()
    talker = context.socket(zmq.DEALER)
    talker.linger, talker.rcvtimeo = 0, round(PATIENCE * 1000)
    talker.connect(endpoint)
    memory: list[int] = []
    answers: dict[str, int] = {}
    try:
        talker.send_multipart(protocol.pack({"op": "ping", "seq": 1}))  # a connection's first message is small
        talker.recv_multipart()
        for first in tqdm(range(0, messages, BATCH), unit_scale=BATCH, unit="message", disable=quiet):
            for _ in range(min(BATCH, messages - first)):
                kind = source.random()
                if kind < 0.01:
                    parts = bomb(source)
                elif kind < 0.1:  # so that others find a stream with objects
                    parts = source.choice(valid)
                else:
                    parts = (mutate if kind < 0.5 else mutate_values)(source.choice(valid), source)
                talker.send_multipart(parts or [b""])
            break_frames(endpoint, source.choice(valid), source)
            # A valid message last: its answer shows that the server has read the others.
            mark = 1_000_000 + first
            talker.send_multipart(protocol.pack({"op": "ping", "seq": mark}))
            while True:
                try:
                    answer = protocol.unpack(talker.recv_multipart(), 1 << 30)
                except zmq.Again:
                    raise TimeoutError(f"no answer after {first} messages") from None
                code = "ok" if answer["ok"] else str(answer["code"])
                answers[code] = answers.get(code, 0) + 1
                if answer["seq"] == mark:
                    break
            if first % (BATCH * max(1, messages // BATCH // 20)) == 0:
                memory.append(resident(pid))
    finally:
        context.destroy(0)
    return {"messages": messages, "answers": answers, "memory_mib": memory}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000, help="how many (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--model", default="null", help="of the server (default: null)")
    args = parser.parse_args()
    command = [sys.executable, "-m", "sam2_ros", "serve", "--model", args.model, "--bind", "tcp://127.0.0.1:*"]
    with signals_unwind(), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        endpoint = server.stdout.readline().rpartition(", on ")[2].partition(";")[0]
        start = time.monotonic()
        try:
            seen = fuzz(endpoint, server.pid, args.messages, args.seed)
            seen["alive"] = server.poll() is None
        finally:
            server.terminate()
        seen["exit_code"] = server.wait(PATIENCE)
    seen["seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(seen, indent=2))
    return 0 if seen["alive"] and seen["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
