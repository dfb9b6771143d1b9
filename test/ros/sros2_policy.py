"""What config/sros2_policy.xml allows, for tests that compare it with the documents and with a node."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from documented import full
from node_harness import ROOT

POLICY = ElementTree.parse(ROOT / "config" / "sros2_policy.xml").getroot()


def allowed(enclave: str, kind: str, access: str, node: str) -> set[str]:
    """Full names, as if the tracker were ``node``.

    Args:
        enclave: below ``/sam2_ros``.
        kind: ``topic``, ``service`` or ``action``.
        access: ``publish``, ``subscribe``, ``reply``, ``request``, ``execute`` or ``call``.
        node: full name of the tracker.
    """
    (profile,) = POLICY.findall(f"./enclaves/enclave[@path='/sam2_ros/{enclave}']/profiles/profile")
    assert profile.get("ns") == "/", "names without a slash are those of the root namespace"
    listed = [str(each.text) for each in profile.findall(f"{kind}s[@{access}='ALLOW']/{kind}")]
    found = [full(name.replace("/tracker/", "~/", 1), node) for name in listed]
    assert len(found) == len(set(found)), "a name is listed twice"
    return set(found)


def sometimes(node: str) -> set[str]:
    """Topics that the tracker subscribes to with use_sim_time, depth.target_frame, and the other transports."""
    other = {full(name, node) for name in ("image/compressed", "depth/image/compressedDepth")}
    return {"/clock", "/tf", "/tf_static", *other}


def of_ros(node: str) -> set[str]:
    """Topics that every lifecycle node publishes."""
    return {"/rosout", "/parameter_events", f"{node}/transition_event"}
