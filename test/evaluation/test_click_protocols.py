"""The clicking protocols, with an engine that answers every prompt with squares around the positive points."""

from pathlib import Path

import clips
import numpy as np
import pytest
from clips import labels_of, square

from sam2_ros.evaluation.click_protocols import clicks_needed, run_interactive, run_noc
from sam2_ros.evaluation.datasets import open_dataset
from sam2_ros.evaluation.semi_supervised import run_sequence
from sam2_ros.evaluation.sequences import LabelledSequence
from sam2_ros.evaluation.worst import WorstFrames
from sam2_ros.inference.null import NullBackend

FRAMES = 8
COVERED = 17**2 / 19**2  # J of a click on the larger one


@pytest.fixture
def moving(tmp_path: Path) -> LabelledSequence:
    """An object of the size of the engine's squares (17 pixels), a little larger where it has jumped to.

    It jumps away on frames 3 and 6.
    """
    places = [(10, 17)] * 3 + [(50, 19)] * 3 + [(90, 19)] * 2
    clips.write_davis(tmp_path, "a", [labels_of({1: square(x, 20, side)}) for x, side in places])
    return open_dataset(tmp_path).open("a")


def test_online_halts_where_the_object_was_left_behind(moving: LabelledSequence) -> None:
    result = run_interactive(moving, NullBackend(), online=True, interactions=4, clicks=1)
    curve = result.extra["interactive"]["1"]
    # One click covers the object until it jumps; each further one holds until the next jump.
    assert curve["frames"] == [0, 3, 6]
    assert curve["j"] == pytest.approx([3 / 8, (3 + 3 * COVERED) / 8, (3 + 5 * COVERED) / 8, (3 + 5 * COVERED) / 8])
    assert curve["f"] == pytest.approx([3 / 8, 6 / 8, 1.0, 1.0])
    assert [row.prompted for row in result.rows] == [True, False, False, True, False, False, True, False]
    assert [(score.frames, score.j, score.f) for score in result.scores] == [(8, curve["j"][3], curve["f"][3])]


def test_offline_returns_to_the_worst_frame(moving: LabelledSequence) -> None:
    seen: list[int] = []
    engine = NullBackend()
    result = run_interactive(moving, engine, online=False, interactions=3, clicks=1, tick=lambda: seen.append(1))
    curve = result.extra["interactive"]["1"]
    # Equally bad frames: the first of them. A click acts forwards only.
    assert curve["frames"] == [0, 3, 6]
    assert curve["j"] == pytest.approx([3 / 8, (3 + 3 * COVERED) / 8, (3 + 5 * COVERED) / 8])
    assert len(seen) == 3 * FRAMES
    assert engine.objects() is not None and not engine.objects().objects  # type: ignore[union-attr]


def test_clicks_until_it_is_good(tmp_path: Path) -> None:
    # 17 x 34 pixels: the first click covers half of the object at most, the engine forgets it at the second.
    tall = np.zeros((clips.HEIGHT, clips.WIDTH), np.bool_)
    tall[10:44, 20:37] = True
    clips.write_davis(tmp_path, "a", [labels_of({1: square(60, 20, 17), 2: tall})] * 3)
    result = run_noc(open_dataset(tmp_path).open("a"), NullBackend(), target=0.9, most=5)
    assert result.extra["noc"]["1"] == [1.0]
    assert len(result.extra["noc"]["2"]) == 5 and max(result.extra["noc"]["2"]) <= 0.5


def test_the_worst_frames_of_the_last_pass_are_drawn(moving: LabelledSequence) -> None:
    worst = WorstFrames(3)
    run_interactive(moving, NullBackend(), online=False, interactions=2, clicks=1, worst=worst)
    # The first pass also misses frame 3, which the second one clicks on; what is left is the second jump.
    assert [(bad.frame, bad.object, bad.j) for bad in worst.frames] == [(6, 1, 0.0)]
    assert worst.frames[0].picture.shape == (clips.HEIGHT, clips.WIDTH, 3)


def test_what_no_click_mends_is_drawn(tmp_path: Path) -> None:
    tall = np.zeros((clips.HEIGHT, clips.WIDTH), np.bool_)
    tall[10:44, 20:37] = True
    clips.write_davis(tmp_path, "a", [labels_of({1: square(60, 20, 17), 2: tall})] * 2)
    worst = WorstFrames(3)
    result = run_noc(open_dataset(tmp_path).open("a"), NullBackend(), target=0.9, most=5, worst=worst)
    assert [(bad.frame, bad.object, bad.j) for bad in worst.frames] == [(0, 2, result.extra["noc"]["2"][-1])]


def test_clicks_needed_counts_to_the_target_or_to_the_most() -> None:
    assert clicks_needed([0.5, 0.86, 0.91], 0.85, 20) == 2
    assert clicks_needed([0.5, 0.86, 0.91], 0.90, 20) == 3
    assert clicks_needed([0.5], 0.90, 20) == 20


def test_the_embedded_model_gains_by_clicks(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the embedded model needs torch")
    from sam2_ros.inference import make_backend
    from sam2_ros.media.rendered_scene import render

    scene = list(render(3, 320, 240, post=False))
    labels = [labels_of({1: frame.masks[2]}, (240, 320)) for frame in scene]
    clips.write_davis(tmp_path, "a", labels)
    sequence = open_dataset(tmp_path).open("a")
    backend = make_backend("embedded", "cpu", "float32")
    once = run_sequence(sequence, backend, "click", 1, "davis")
    more = run_interactive(sequence, backend, online=False, interactions=2, clicks=3)
    curve = more.extra["interactive"]["1"]
    assert len(curve["frames"]) == 2 and curve["j"][1] > 0.8
    assert once.rows[0].j is not None and more.rows[0].j is not None and more.rows[0].j > once.rows[0].j - 0.02
    reached = run_noc(sequence, backend, target=0.9, most=6).extra["noc"]["1"]
    assert max(reached) > 0.8
    backend.close()
