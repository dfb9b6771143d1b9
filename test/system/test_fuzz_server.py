"""Mutated messages through a real socket; ``fuzz_server.py`` sends a hundred thousand."""

from __future__ import annotations

from fuzz_server import fuzz
from served import ServerProcess, connected, picture


def test_mutated_messages_are_answered_and_the_server_lives() -> None:
    with ServerProcess("--bind", "tcp://127.0.0.1:*", "--idle", "0.5") as server:
        seen = fuzz(server.endpoint, server.process.pid, 5000, seed=1, quiet=True)
        assert sum(seen["answers"].values()) >= 5000
        assert seen["answers"]["MALFORMED"] > 1000
        assert "FAILED" not in seen["answers"], "a fault in the server, not in the message"
        assert seen["memory_mib"][-1] < 2 * seen["memory_mib"][len(seen["memory_mib"]) // 2]
        with connected(server.endpoint) as client:
            client.connect(30)
            assert client.step(picture(), 1).stamp == 1
        assert server.terminate() == 0
