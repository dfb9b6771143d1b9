"""Whether a node knows a new client, between real processes."""

from __future__ import annotations

import time
from pathlib import Path

from lifecycle_msgs.srv import GetState
from node_harness import running

from sam2_ros.ros.client_node import server_knows_clients


def turn() -> None:
    time.sleep(0.01)


def test_a_client_made_before_is_answered_at_once(tmp_path: Path) -> None:
    with running(tmp_path, namespace="/acquainted", model="null") as peer:
        # Before the node is there: the answers to a client that is asked too early are what gets lost.
        client = peer.node.create_client(GetState, f"{peer.node_name}/get_state")
        assert server_knows_clients(peer.node, peer.node_name, 60.0, turn)
        answer = client.call_async(GetState.Request())
        peer.wait_until(answer.done, "the first answer")
        assert answer.result().current_state.label
        left = [each for each in peer.node.clients if each.srv_name == client.srv_name]
        assert left == [client]  # the one that asked is gone


def test_a_node_that_is_not_there_knows_nobody(tmp_path: Path) -> None:
    with running(tmp_path, namespace="/acquainted", model="null") as peer:
        begin = time.monotonic()
        assert not server_knows_clients(peer.node, "/nobody/tracker", 0.3, turn)
        assert time.monotonic() - begin >= 0.3
        peer.wait_for_state("active")
