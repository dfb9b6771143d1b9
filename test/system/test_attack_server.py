"""Every attack for a moment, one after the other; ``attack_server.py`` measures them."""

from __future__ import annotations

from attack_server import ATTACKS, CEILING, MIB, attack_all
from served import ServerProcess


def test_attacks_cost_a_quiet_client_nothing_and_the_server_little_memory() -> None:
    names = [attack.__name__ for attack in ATTACKS]
    with ServerProcess("--bind", "tcp://127.0.0.1:*") as server:
        (seen,) = attack_all(server.endpoint, server.process.pid, 0.3, [names])
        assert seen["exit"] == 0 and min(seen["turns"]) >= 1, seen
        assert seen["frames"] > 0 and seen["failed"] == seen["reconnected"] == 0, seen
        assert seen["grown at most [MiB]"] * MIB < CEILING, seen
        assert server.terminate() == 0
