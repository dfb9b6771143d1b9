"""The long run of the whole node, for some seconds."""

from pathlib import Path

from soak_node import soak


def test_nothing_is_lost_while_servers_are_killed(tmp_path: Path) -> None:
    result = soak(tmp_path, 10, seed=3, model="null", rate=5, quiet=True)
    assert result["faults"] == []
    assert sum(result["servers"].values()) >= 1, "a server had trouble"
    assert result["objects_ever"] >= 2 and result["size_changes"] >= 1
    # Every image is tracked, or counted as dropped while no server answered; every one has live tracks.
    assert result["received"] == result["processed"] + result["dropped"] + result["failed"] and not result["failed"]
    assert result["live_tracks"] >= result["images"] - 10, "those before the subscription"
    assert result["pictures"] > 0
    assert result["recorder_code"] == 0 and result["recorded_tracks"] > 0
