#!/usr/bin/env python3
"""Sends mutated messages to an inference server through a real socket. The server must survive and not grow.

python test/system/fuzz_server.py --messages 100000
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from tqdm import tqdm

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
        {"op": "pixels", "frame": frame},
        {"op": "bye"},
    ]
    pixels = bytes(8 * 8 * 3)
    return [
        [*protocol.pack({"seq": index, **header}), *([pixels] if header["op"] in ("step", "pixels") else [])]
        for index, header in enumerate(headers)
    ]


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
    """Sends the messages; returns the counted answers and the server's memory over time.

    Raises:
        TimeoutError: the server no longer answers.
    """
    source, valid = random.Random(seed), seeds()
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.rcvtimeo = 0, round(PATIENCE * 1000)
    socket.connect(endpoint)
    memory: list[int] = []
    answers: dict[str, int] = {}
    try:
        for first in tqdm(range(0, messages, BATCH), unit_scale=BATCH, unit="message", disable=quiet):
            for _ in range(min(BATCH, messages - first)):
                parts = mutate(source.choice(valid), source)
                socket.send_multipart(parts or [b""])
            # A valid message last: its answer shows that the server has read the others.
            mark = 1_000_000 + first
            socket.send_multipart(protocol.pack({"op": "ping", "seq": mark}))
            while True:
                try:
                    answer = protocol.unpack(socket.recv_multipart(), 1 << 30)
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
    args = parser.parse_args()
    command = [sys.executable, "-m", "sam2_ros", "serve", "--model", "null", "--bind", "tcp://127.0.0.1:*"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
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
