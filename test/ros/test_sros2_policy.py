"""config/sros2_policy.xml allows the documented interface; test_node_interface.py holds a running node to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from documented import published, services, subscribed
from node_harness import PATIENCE
from sros2_policy import POLICY, allowed, of_ros, sometimes

NODE = "/tracker"
SERVICES = set(services(NODE))
CHANGING = ("add_objects", "refine_object", "remove_object", "rename_object", "reset")
CALLS = {f"{NODE}/{name}/_service_event" for name in CHANGING}  # service introspection; of no other: images are private


def test_the_tracker_has_what_is_documented() -> None:
    assert POLICY.get("version") == "0.2.0" and len(SERVICES) >= 6
    assert allowed("tracker", "topic", "subscribe", NODE) == set(subscribed(NODE)) | sometimes(NODE)
    assert allowed("tracker", "topic", "publish", NODE) == set(published(NODE)) | CALLS | of_ros(NODE)
    assert allowed("tracker", "service", "reply", NODE) > SERVICES  # the others are ROS's own
    assert not allowed("tracker", "service", "request", NODE)
    assert allowed("tracker", "action", "execute", NODE) == {f"{NODE}/track_object"}


def test_clients_may_use_all_of_the_tracker_and_offer_nothing() -> None:
    read = set(subscribed(NODE)) | set(published(NODE)) | CALLS | of_ros(NODE) | {"/clock"}
    assert allowed("client", "topic", "subscribe", NODE) == read
    assert allowed("client", "topic", "publish", NODE) == {"/rosout", "/parameter_events"}
    assert allowed("client", "service", "request", NODE) == allowed("tracker", "service", "reply", NODE)
    assert allowed("client", "action", "call", NODE) == {f"{NODE}/track_object"}
    assert allowed("client", "service", "reply", NODE) == {"/*/get_type_description"}


@pytest.mark.parametrize("strategy", ["Enforce", "Permissive"])
def test_a_node_that_can_not_be_secured_as_asked_does_not_run(tmp_path: Path, strategy: str) -> None:
    """Keys that are none, whatever this ROS 2 is built with: it never falls back to a node that is open to all."""
    enclave = tmp_path / "enclaves" / "sam2_ros" / "tracker"
    enclave.mkdir(parents=True)
    for name in ("identity_ca.cert.pem", "permissions_ca.cert.pem", "cert.pem", "key.pem", "governance.p7s",
                 "permissions.p7s"):  # fmt: skip
        (enclave / name).write_text("no key\n")
    asked = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": strategy, "ROS_SECURITY_KEYSTORE": str(tmp_path)}
    command = [sys.executable, "-m", "sam2_ros.ros.main", "--ros-args", "--enclave", "/sam2_ros/tracker"]
    done = subprocess.run(
        command, env=os.environ | asked, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "tracker: ROS 2 can't start the node" in done.stderr and "Traceback" not in done.stderr
