"""Where the network looked for each object, as a client of the node reads it: with the engine here and in a server."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from node_harness import running
from sensor_msgs.msg import RegionOfInterest
from served import ServerProcess
from window_scene import WINDOW, add, publish

X0, Y0, X1, Y1 = WINDOW
PART, WHOLE = RegionOfInterest(x_offset=X0, y_offset=Y0, width=X1 - X0, height=Y1 - Y0), RegionOfInterest()


@pytest.mark.parametrize("where", ["here", "server"])
def test_tracks_hold_the_window_of_each_object(folder: Path, where: str) -> None:
    file = folder / f"windows_{where}.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    inference.timeout: 30.0\n"
        "    tracker:\n      max_objects: 2\n      window: on\n      window_budget: 0.0\n"
    )
    with ExitStack() as stack:
        options = {"params_file": str(file)}
        if where == "server":
            server = stack.enter_context(ServerProcess("--bind", f"ipc://{folder / 'windows'}", model="embedded"))
            options["endpoint"] = server.endpoint
        node = stack.enter_context(running(folder, namespace=f"/windows_{where}", **options))
        node.wait_for_state("active")
        node.wait_for_reliable()
        publish(node)
        for tracks in (add(node), publish(node)):
            assert [known.state for known in tracks.objects] == [known.STATE_VISIBLE for known in tracks.objects]
            assert [known.window for known in tracks.objects] == [PART, WHOLE]
        assert [known.window for known in node.list_objects().tracks.objects] == [PART, WHOLE]
        assert node.set_parameter("tracker.window", False).successful  # what ros2 param makes of off without quotes
        assert [known.window for known in publish(node).objects] == [WHOLE, WHOLE]
