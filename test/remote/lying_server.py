"""A server that lies: between a client and an honest server, it changes the answers. Also a fuzzer of the client.

By hand, for hours: ``python test/remote/lying_server.py --seed 1 --count 1000000 --direct``.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import zmq
from direct_server import Answer, DirectContext
from served import PATIENCE, boxed, picture, serving

from sam2_ros.inference.backend import FrameDropped
from sam2_ros.remote import link, protocol
from sam2_ros.remote.client import RemoteBackend
from sam2_ros.tracking import FrameResult, ObjectResult, PromptResult, TrackerConfig

Lie = Callable[[Answer], list[Answer]]  # an answer's parts to those of any number of answers
MAX_OBJECTS = 4

_LIES_ON_THEIR_WAY = 3


def honest(parts: Answer) -> list[Answer]:
    return [parts]


class Liar:
    """Passes requests on, and answers through :attr:`lie`."""

    def __init__(self, endpoint: str) -> None:
        self.lie: Lie = honest
        self._context: zmq.Context[Any] = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.linger = 0
        self._front.sndtimeo = 1000  # to a client that has gone
        self._server = endpoint
        self.endpoint = f"tcp://127.0.0.1:{self._front.bind_to_random_port('tcp://127.0.0.1')}"
        self._backs: dict[bytes, zmq.Socket[Any]] = {}  # a connection to the server for each client's
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            poller = zmq.Poller()
            for source in (self._front, *self._backs.values()):
                poller.register(source, zmq.POLLIN)
            ready = dict(poller.poll(50))
            if self._front in ready:
                client, *parts = self._front.recv_multipart()
                if client not in self._backs:
                    self._forget_all_but(7)
                    back = self._backs[client] = self._context.socket(zmq.DEALER)
                    back.linger = 0
                    back.connect(self._server)
                self._backs[client].send_multipart(parts)
            for client, back in self._backs.items():
                if back in ready:
                    for answer in self.lie(back.recv_multipart()):
                        self._front.send_multipart([client, *answer])
        self._forget_all_but(0)
        self._front.close()

    def _forget_all_but(self, count: int) -> None:
        while len(self._backs) > count:
            self._backs.pop(next(iter(self._backs))).close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        self._context.term()


@contextmanager
def lying(endpoint: str) -> Iterator[Liar]:
    liar = Liar(endpoint)
    try:
        yield liar
    finally:
        liar.close()


def changed(change: Callable[[dict[str, Any]], None], only: str = "result") -> Lie:
    """A lie that changes the header of answers with the field ``only``."""

    def lie(parts: Answer) -> list[Answer]:
        header = msgpack.unpackb(parts[1])
        if only in header:
            change(header)
        return [[parts[0], msgpack.packb(header), *parts[2:]]]

    return lie


class DirectLiar(DirectContext):
    """The same without a socket."""

    endpoint = "tcp://127.0.0.1:1"

    def __init__(self) -> None:
        self.lie: Lie = honest
        super().__init__(self._change)

    def _change(self, parts: Answer) -> list[Answer]:
        return self.lie(parts)


JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**32, 2**63, -(2**63), 1e308, math.nan, -math.inf, "",
    "x" * 100_000, "\x1b[31m", "12",
    b"", b"x" * 1000, [], {}, [[]], [1, 2], {"a": 1}, {1: 2}, ["bool", [65536, 4096], b""], ["bool", [2, 2], b"\xff"],
    ["float64", [1, 1], b"12345678"], ["bool", [-1, 2], b""], [[[[[[[]]]]]]], [None] * 2000,
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 20)):
            yield from _places(value[index], (*path, index))


def mutation(generator: random.Random) -> Lie:
    """A lie that spoils about every third answer, each time in another way."""

    def lie(parts: Answer) -> list[Answer]:
        kind = generator.random()
        if kind < 0.65:
            return [parts]
        header = msgpack.unpackb(parts[1])
        if kind < 0.92:
            path = generator.choice([place for place in _places(header) if place])
            holder = header
            for step in path[:-1]:
                holder = holder[step]
            how = generator.random()
            if how < 0.15:
                del holder[path[-1]]
            elif how < 0.25 and isinstance(holder, list):
                holder += [copy.deepcopy(holder[path[-1]]) for _ in range(generator.choice((1, 100)))]
            elif how < 0.4 and isinstance(holder, dict):
                holder[generator.choice(("unknown", "x" * 500))] = generator.choice(JUNK)
            else:
                holder[path[-1]] = generator.choice(JUNK)
            return [[parts[0], msgpack.packb(header)]]
        prefix, packed = parts
        flipped = bytearray(packed)
        flipped[generator.randrange(len(packed))] ^= 1 << generator.randrange(8)
        return generator.choice([
            [[prefix, bytes(flipped)]], [[prefix, packed[: len(packed) // 2]]], [[b"sam2/9", packed]], [parts, parts],
            [[prefix]], [[*parts, b"", b"", b""]], [[prefix, msgpack.packb(generator.choice(JUNK))]],
            [[prefix, msgpack.packb({**header, "seq": header["seq"] + 7})], parts], [[prefix, b"\x91" * 100_000]],
        ])  # fmt: skip

    return lie


def check(result: FrameResult) -> None:
    """What messages and everything after them rely on."""
    assert (result.width, result.height) == (64, 48) and len(result.objects) <= MAX_OBJECTS
    assert len({obj.object_id for obj in result.objects}) == len(result.objects)
    for obj in result.objects:
        check_object(obj)
        assert (obj.mask.width, obj.mask.height) == (64, 48)
    for change in result.changes:
        assert 0 <= change.object_id < 2**32 and len(change.name) <= 256 and len(change.reason) <= 1000
        assert math.isfinite(change.object_score) and change.reason.isprintable()
    assert all(map(math.isfinite, result.timings_ms.values())) and len(result.timings_ms) <= 100


def check_object(obj: ObjectResult) -> None:
    assert 1 <= obj.object_id < 2**32 and len(obj.name) <= 256 and obj.name.isprintable()
    assert obj.mask.full().shape == (obj.mask.height, obj.mask.width)
    assert all(map(math.isfinite, (obj.object_score, obj.visibility, obj.predicted_iou, obj.label_score)))
    assert all(-(2**31) * 10**9 <= stamp < 2**31 * 10**9 + 1 for stamp in (obj.first_seen, obj.last_seen))
    assert 0 <= obj.frames_since_seen <= 2**31


def check_prompt(result: PromptResult) -> None:
    assert 0 <= result.object_id < 2**32 and len(result.message) < 2000 and len(result.candidates) <= 4
    assert math.isfinite(result.prompt_age) and math.isfinite(result.stability)
    for candidate in result.candidates:
        assert candidate.mask.crop.dtype == np.bool_
    if result.result is not None:
        check_object(result.result)


def fuzz(seed: int, count: int, seconds: float = math.inf, direct: bool = False) -> Counter[str]:
    """``count`` frames and commands against a server that lies, or ``seconds``; how often each outcome came.

    Args:
        direct: without a socket, which is faster.

    Raises:
        AssertionError: the client believed something wrong, raised what it must not, or did not recover.
    """
    generator = random.Random(seed)
    outcomes: Counter[str] = Counter()
    backoff = mock.patch.multiple(link, _DISTRUST=0.0, _FIRST_BACKOFF=0.0, _LONGEST_BACKOFF=0.0)
    config, end = TrackerConfig(max_objects=MAX_OBJECTS), time.monotonic() + seconds
    with ExitStack() as stack:
        stack.enter_context(backoff)
        liar: Any = DirectLiar() if direct else stack.enter_context(lying(stack.enter_context(serving()).endpoints[0]))
        client = RemoteBackend([liar.endpoint], config, timeout=PATIENCE, pixels="raw")
        if direct:
            client._link._context = liar
        client.connect(PATIENCE)
        last_id = client.next_id
        liar.lie = mutation(generator)
        for number in range(1, count + 1):
            outcomes[_one(client, generator, number)] += 1
            assert last_id <= client.next_id <= 2**32
            last_id = client.next_id
            if time.monotonic() > end:
                break
        liar.lie = honest
        _recover(client, count + 1)
        client.close()
    return outcomes


def _recover(client: RemoteBackend, stamp: int) -> None:
    """The client tracks again with a server that is honest; a lie that was still on its way may cost frames."""
    for attempt in range(_LIES_ON_THEIR_WAY + 1):
        try:
            client.connect(PATIENCE)
            check(client.step(picture(), stamp + attempt))
            return
        except FrameDropped:
            if attempt == _LIES_ON_THEIR_WAY:
                raise


def _one(client: RemoteBackend, generator: random.Random, number: int) -> str:
    what = generator.random()
    try:
        if what < 0.6:
            check(client.step(picture(), number))
        elif what < 0.8:
            for result in client.add([boxed(name=f"thing {number}") for _ in range(generator.choice((1, 2)))]):
                check_prompt(result)
        elif what < 0.85:
            check_prompt(client.refine(boxed(), 0))
        elif what < 0.95:
            assert isinstance(client.reset(), int)
        else:
            assert isinstance(client.remove(generator.randrange(1, 9)), bool)
    except FrameDropped:
        return "dropped"
    except protocol.ProtocolError as error:
        raise AssertionError("a wrong answer is no error of the caller") from error
    except (ValueError, RuntimeError) as error:  # what an engine here may raise
        assert len(str(error)) < 2000
        return type(error).__name__
    changes = client.take_changes()
    assert len(changes) < 10_000
    return "answered"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--direct", action="store_true", help="without a socket, which is faster")
    options = parser.parse_args()
    seen = fuzz(options.seed, options.count, options.seconds, options.direct)
    print({"seed": options.seed, "inputs": sum(seen.values()), **seen})
