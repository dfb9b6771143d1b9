"""``sam2_ros add|list|refine|rename|remove|reset`` as a user types them, against a launched node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_harness import HEIGHT, WIDTH, Peer, running

NODE = "/client/tracker"


@pytest.fixture(scope="module")
def node(folder: Path, parameters_file: Path) -> Iterator[Peer]:
    with running(folder, namespace="/client", params_file=str(parameters_file)) as peer:
        peer.wait_for_state("active")
        peer.track()
        yield peer


def sam2_ros(*words: str, node: str = NODE, timeout: str = "15") -> tuple[int, str]:
    """Exit code and everything printed."""
    command = [sys.executable, "-m", "sam2_ros.cli.main", *words, "--node", node, "--timeout", timeout]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_life_of_an_object(node: Peer, tmp_path: Path) -> None:
    code, text = sam2_ros("add", "--box", "10", "20", "40", "60", "--name", "cup", "--label", "dish")
    assert code == 0 and "'cup', 1200 px, box 10 20 40 60" in text

    code, text = sam2_ros("list")
    row = next(line for line in text.splitlines() if "cup" in line)
    assert code == 0 and row.split()[1:4] == ["cup", "dish", "visible"] and row.endswith("10 20 40 60")

    code, text = sam2_ros("refine", "cup", "--box", "10", "20", "50", "60")
    assert code == 0 and "1600 px" in text

    newest = node.tracks[-1].header.stamp
    assert (
        sam2_ros("refine", "cup", "--box", "10", "20", "40", "60", "--stamp", f"{newest.sec}.{newest.nanosec:09d}")[0]
        == 0
    )
    code, text = sam2_ros("add", "--box", "10", "20", "40", "60", "--stamp", "0.5")
    assert code == 1 and "the frame stamped 0.500000000 is gone" in text

    assert sam2_ros("rename", "cup", "--name", "mug")[1] == "object 1 has the name 'mug' and the label 'dish'\n"
    assert sam2_ros("rename", "1", "--label", "")[1] == "object 1 has the name 'mug' and the label ''\n"
    assert sam2_ros("rename", "mug") == (2, "sam2_ros: error: give the new --name, the new --label, or both\n")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:3, 1:4] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    code, text = sam2_ros("add", "--mask", str(tmp_path / "mask.png"))
    assert code == 0 and "6 px" in text
    points = ["--point", "80", "60", "--negative", "5", "5"]
    assert sam2_ros("add", *points)[0] == 0
    assert [known.name for known in node.list_objects().tracks.objects] == ["mug", "", ""]

    assert sam2_ros("remove", "mug")[0] == 0
    code, text = sam2_ros("reset")
    assert code == 0 and "2 objects forgotten" in text


def test_what_the_node_refuses(node: Peer) -> None:
    for words, complaint in (
        (("rename", "spoon", "--label", "dish"), "no living object has the name or id 'spoon'"),
        (("remove", "spoon"), "no living object has the name or id 'spoon'"),
        (("add", "--box", "900", "900", "999", "999"), "outside the image"),
    ):
        code, text = sam2_ros(*words)
        assert code == 1 and complaint in text


def test_what_the_user_can_mend(node: Peer) -> None:
    assert sam2_ros("add") == (2, "sam2_ros: error: nothing says where the object is; give --box, --point or --mask\n")
    code, text = sam2_ros("refine", "spoon", "--box", "1", "1", "5", "5")
    assert code == 2 and "'spoon'" in text
    code, text = sam2_ros("list", node="/nobody", timeout="5")
    assert code == 2 and f"no service /nobody/list_objects within 5 s; choose one with --node: {NODE}\n" in text
    for words in (("list",), ("record", "never.mcap"), ("view",)):
        done = subprocess.run(
            [sys.executable, "-m", "sam2_ros", *words, "--node", "a b"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and "--node: 'a b' is no node's name; accepted: such as" in done.stderr
    assert "--timeout: invalid seconds value: 'nan'" in sam2_ros("list", timeout="nan")[1]


def test_without_a_slash_the_name_is_the_same(node: Peer) -> None:
    assert sam2_ros("list", node=NODE.strip("/"))[0] == 0
