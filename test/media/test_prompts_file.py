"""The prompts file: what it means, and what it says about a wrong one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2_ros.media import prompts_file
from sam2_ros.media.label_images import write_labels
from sam2_ros.media.prompts_file import PromptsFileError, load_prompts

BOX = {"frame": 0, "object_id": 1, "box": [10, 20, 30, 40]}


def write(folder: Path, content: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_every_kind_of_prompt_is_read_in_the_order_of_frames(tmp_path: Path) -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[2:4, 3:5] = 9
    (tmp_path / "masks").mkdir()
    write_labels(tmp_path / "masks" / "first.png", labels)
    path = write(
        tmp_path,
        [
            {"frame": 7, "object_id": 2, "points": [[1.5, 2], [3, 4]], "labels": [1, 0], "label": "mug"},
            BOX | {"name": "cup"},
            {"frame": 3, "object_id": 300, "mask": "masks/first.png"},
            {"frame": 4, "object_id": 1, "box": [1, 1, 5, 5], "points": [[2, 2]], "labels": [1]},
        ],
    )
    box, mask, both, points = load_prompts(path)
    assert (box.frame, box.object_id, box.name) == (0, 1, "cup")
    assert box.prompt.box is not None and box.prompt.box.tolist() == [10, 20, 30, 40]
    assert mask.object_id == 300 and mask.prompt.mask is not None
    assert np.array_equal(mask.prompt.mask, labels > 0)
    assert both.prompt.box is not None and both.prompt.points is not None
    assert points.label == "mug" and points.prompt.points is not None and points.prompt.labels is not None
    assert points.prompt.points.tolist() == [[1.5, 2], [3, 4]] and points.prompt.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "accepted is a list"),
        ([], "accepted is a list"),
        ([BOX, 3], "entry 1: is no object"),
        ([{"object_id": 1, "box": [0, 0, 1, 1]}], "entry 0: 'frame' is missing"),
        ([BOX | {"frame": -1}], "'frame' is -1; accepted: a whole number from 0"),
        ([BOX | {"frame": True}], "'frame' is true"),
        ([BOX | {"object_id": 0}], "'object_id' is 0; accepted: a whole number from 1 to 65535"),
        ([BOX | {"object_id": 70000}], "'object_id' is 70000"),
        ([BOX | {"bbox": [0, 0, 1, 1]}], "unknown key 'bbox'; accepted: frame"),
        ([{"frame": 0, "object_id": 1}], "the prompt is empty; give points with labels, a box"),
        ([BOX | {"mask": "a.png"}], "a mask can't be combined with box"),
        ([BOX | {"box": [1, 2, 3]}], "a box is four finite numbers"),
        ([BOX | {"box": [1, 2, "3", 4]}], "'box' holds something else than numbers; accepted: [x0"),
        ([BOX | {"box": [1, 2, float("inf"), 4]}], "a box is four finite numbers"),
        ([BOX | {"box": [5, 2, 5, 4]}], "is smaller than a pixel; accepted: x0 < x1"),
        (
            [{"frame": 0, "object_id": 1, "points": [[1, 2]]}],
            "1 points came with 0 labels; accepted: one label for each",
        ),
        ([BOX | {"labels": [1]}], "labels came without points; accepted: one label for each"),
        ([{"frame": 0, "object_id": 1, "points": [[1, 2]], "labels": [1, 0]}], "1 points came with 2 labels"),
        ([{"frame": 0, "object_id": 1, "points": [[1, 2]], "labels": [2]}], "1 (on the object) and 0"),
        ([{"frame": 0, "object_id": 1, "points": [], "labels": []}], "accepted: one or more pairs x, y"),
        ([{"frame": 0, "object_id": 1, "points": [1, 2], "labels": [1, 1]}], "accepted: one or more pairs x, y"),
        ([{"frame": 0, "object_id": 1, "mask": "gone.png"}], "gone.png: no such file"),
        ([{"frame": 0, "object_id": 1, "mask": 3}], "'mask' is no path"),
        ([BOX | {"box": [1, 2, 10**400, 4]}], "'box' holds a number that is too large"),
        ([BOX | {"box": [1, 2, 1e300, 4]}], "a box is four finite numbers"),
        ([BOX | {"box": [1, 2, True, 4]}], "'box' holds something else than numbers"),
        ([{"frame": 0, "object_id": 1, "labels": 0}], "'labels' holds something else than numbers; accepted"),
        ([BOX | {"points": [[1, 2], [3]], "labels": [1, 1]}], "'points' holds something else than numbers"),
        ([BOX | {"points": [[1, 2]], "labels": [1.5]}], "'labels' holds something else than numbers"),
        ([BOX | {"name": 4}], "'name' is no text"),
        ([BOX | {"name": "a"}, BOX | {"object_id": 2, "name": "a"}], "given to objects 1 and 2"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, content: object, message: str) -> None:
    write_labels(tmp_path / "a.png", np.ones((2, 2), np.uint8))
    path = write(tmp_path, content)
    with pytest.raises(PromptsFileError) as caught:
        load_prompts(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_json_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('[\n{"frame": 0,}]', encoding="utf-8")
    with pytest.raises(PromptsFileError, match="not JSON \\(line 2"):
        load_prompts(path)
    with pytest.raises(PromptsFileError, match="no such file"):
        load_prompts(tmp_path / "gone.json")


def test_reading_prompts_needs_neither_torch_nor_ros() -> None:
    code = (
        "import sys, sam2_ros.media.prompts_file; assert not {'torch', 'rclpy', 'cv2'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def raw(folder: Path, content: bytes) -> Path:
    path = folder / "prompts.json"
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (prompt,) = load_prompts(raw(tmp_path, "\ufeff".encode() + json.dumps([BOX | {"name": "Käfer"}]).encode()))
    assert prompt.name == "Käfer"


ENTRY = b'{"frame": 0, "object_id": 1, "box": [1, 1, 9, 9]}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "lists within lists, too deep"),
        (b'{"a":' + b"[" * 100_000, "lists within lists, too deep"),
        (b'[{"frame": 0, "object_id": 1, "box": [1, 1, 9, ' + b"9" * 5000 + b"]}]", "a number has thousands of digits"),
        (
            b'[{"frame": ' + b"9" * 400 + b', "object_id": 1}]',
            "(400 characters); accepted: a whole number from 0 to 21474",
        ),
        (b'[{"frame": ' + b"[" * 500 + b"]" * 500 + b', "object_id": 1}]', "'frame' is list; accepted"),
        (b'[{"frame": 0, "object_id": 1, "box": ' + b"[" * 500 + b"]" * 500 + b"}]", "entry 0: 'box' holds something"),
        (b'[{"frame": 0, "object_id": 1, "mask": "a\\u0000b"}]', "\\x00b can't be read ("),
        (b'[{"frame": 0, "object_id": 1, "mask": "\\ud800.png"}]', "\\ud800.png can't be read"),
        (b'[{"frame": 0, "object_id": 1, "box": [1, 1, 9, 9], "name": "\\ud800"}]', "holds the character U+D800"),
        (
            b'[{"frame": 0, "object_id": 1, "points": [[1, 1]], "labels": [' + b"9" * 30 + b"]}]",
            "1 (on the object) and 0",
        ),
        (b'[{"\\u001b[2J": 0}]', "unknown key '\\x1b[2J'; accepted"),
        (b'[{"' + b"k" * 100_000 + b'": 0}]', "(100000 characters)'; accepted"),
        ("[]".encode("utf-16"), "is no text in UTF-8"),
        (b"[" + b",".join([ENTRY] * 5000) + b"]", "holds 5000 prompts; accepted: up to 4096"),
        (b" " * (5 << 20), "is larger than 4 MiB"),
    ],
    ids=range(15),
)
def test_an_odd_file_is_refused_in_one_short_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(PromptsFileError) as caught:
        load_prompts(raw(tmp_path, content))
    said = str(caught.value)
    assert message in said and said.isprintable() and len(said) < len(str(tmp_path)) * 2 + 300


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it
    for path, message in (
        (tmp_path / "pipe", "pipe is a pipe, socket or device; accepted: a file"),
        (Path("/dev/zero"), "/dev/zero is a pipe, socket or device; accepted: a file"),
        (tmp_path, "is a folder; accepted: a file"),
    ):
        with pytest.raises(PromptsFileError, match=message):
            load_prompts(path)
        with pytest.raises(PromptsFileError, match=message):
            load_prompts(write(tmp_path, [{"frame": 0, "object_id": 1, "mask": str(path)}]))


def test_a_mask_is_a_png_of_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [{"frame": frame, "object_id": 1, "mask": "a.png"} for frame in range(3)])
    Image.new("L", (20000, 20000)).save(tmp_path / "a.png")
    with pytest.raises(PromptsFileError, match="20000 x 20000 pixels; accepted: up to 67108864"):
        load_prompts(path)
    Image.new("L", (8, 8)).save(tmp_path / "a.png", format="BMP")
    with pytest.raises(PromptsFileError, match=r"not a readable image .*; accepted: PNG"):
        load_prompts(path)
    write_labels(tmp_path / "a.png", np.ones((10, 10), np.uint8))
    assert len(load_prompts(path)) == 3
    monkeypatch.setattr(prompts_file, "MAX_MASK_PIXELS", 250)
    with pytest.raises(PromptsFileError, match="entry 2: the masks have more than 250 pixels in all"):
        load_prompts(path)


def test_prompts_of_one_frame_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    """The first one adds the object, the others correct it."""
    names = ["b", "a", "c"]
    entries = [BOX | {"frame": frame, "label": label} for frame in (5, 2) for label in names]
    assert [(p.frame, p.label) for p in load_prompts(write(tmp_path, entries))] == [
        *((2, label) for label in names),
        *((5, label) for label in names),
    ]
