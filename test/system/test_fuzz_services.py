"""Random requests and detections at a real node; ``fuzz_services.py`` sends them for as long as one likes."""

from __future__ import annotations

from fuzz_services import fuzz, fuzz_directly, run


def test_random_requests_are_answered_and_the_node_tracks_on() -> None:
    seen = run(lambda peer, topic: fuzz(peer, topic, seed=1, requests=240, quiet=True))
    assert seen["requests"] == 240 and seen["frames"] > 0
    assert {"0", "1", "2", "success", "refused"} <= set(seen["codes"]), seen
    assert seen["detections"]["received"] > 0 and seen["detections"]["unusable"] > 0
    assert max(seen["memory_mib"]) < 600, seen["memory_mib"]
    assert seen["log_lines"] < 200


def test_random_requests_without_dds_are_answered() -> None:
    seen = fuzz_directly(seed=1, requests=1600)
    assert seen["requests"] == 1600
    assert {"0", "1", "2", "6", "success", "refused"} <= set(seen["codes"]), seen
    assert seen["detections"]["received"] > 0 and seen["detections"]["unusable"] > 0
