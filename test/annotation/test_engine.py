"""What an engine leaves of a recording that changes or fails. Nothing is detected, so no network is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sam2_ros.inference.detections import DetectionSettings
from sam2_ros.inference.matching import Detection
from sam2_ros.media.errors import UserError
from sam2_ros.media.source_frame import Frame

pytest.importorskip("torch")
from sam2_ros.annotation.engine import Engine, EngineSettings
from sam2_ros.annotation.methods import ByDetector, detected_twice
from sam2_ros.annotation.recordings import Recording, Stills
from sam2_ros.annotation.results import read_result

NOTHING: Any = None  # in place of a network


@pytest.fixture
def engine() -> Engine:
    method = ByDetector(lambda rgb: [], 1, DetectionSettings())
    return Engine(EngineSettings("people", "coco", stills=True), NOTHING, method)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.zeros((8, 8, 3), np.uint8))
    return Recording("photos", folder)


def annotate(engine: Engine, recording: Recording, frames: Any, out: Path) -> str:
    return engine.annotate(recording, frames, out, lambda images: None)


class Growing(Stills):
    """A folder that gets another image after it was listed."""

    def __iter__(self) -> Iterator[Frame]:
        yield from super().__iter__()
        cv2.imwrite(str(self._files[0].with_name("1.png")), np.zeros((8, 8, 3), np.uint8))


class Broken:
    """A recording that can't be read."""

    length = 1

    def __iter__(self) -> Iterator[Frame]:
        raise UserError("broken")


def test_what_grows_while_it_is_annotated_is_annotated_again(
    engine: Engine, recording: Recording, tmp_path: Path
) -> None:
    assert annotate(engine, recording, Growing(recording.path), tmp_path / "out") == ""
    assert read_result(tmp_path / "out", recording) is None
    assert annotate(engine, recording, Stills(recording.path), tmp_path / "out") == ""
    result = read_result(tmp_path / "out", recording)
    assert result is not None and [image.name for image in result.images] == ["0.jpg", "1.jpg"]


def test_no_result_stays_without_its_images(engine: Engine, recording: Recording, tmp_path: Path) -> None:
    """Another recording takes its name, as when the sources come in another order, and fails."""
    assert annotate(engine, recording, Stills(recording.path), tmp_path / "out") == ""
    assert annotate(engine, Recording("photos", tmp_path), Broken(), tmp_path / "out") == "broken"
    assert not (tmp_path / "out/images/photos").exists() and read_result(tmp_path / "out", recording) is None


def test_only_what_two_of_three_looks_see_begins_at_once() -> None:
    def at(x: int) -> Detection:
        return Detection((float(x), 0.0, x + 10.0, 10.0), "cup", 0.9)

    found = {0: [at(0), at(50)], 5: [at(1), at(100)], 10: [at(2), at(150)], 15: [at(101)], 20: [at(200)], 25: [at(201)]}
    # 0 to 2 is seen three times, 50 and 150 once, 100 and 200 twice.
    assert detected_twice(found) == {0: [], 5: [at(100)], 10: [], 15: [at(101)], 20: [at(200)], 25: [at(201)]}
    assert detected_twice({3: [at(0), at(50)]}) == {3: [at(0), at(50)]}  # there is no other look
