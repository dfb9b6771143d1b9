"""Which frames count, and the means over them, against the published evaluator on the same PNG files."""

from pathlib import Path

import numpy as np
import published
import pytest
from clips import HEIGHT, WIDTH, labels_of, square, write_label_images

from sam2_ros.evaluation.results import Row, SequenceResult
from sam2_ros.evaluation.scoring import mark_scored, measure
from sam2_ros.evaluation.sequences import LabelImages
from sam2_ros.media.label_images import read_labels

FRAMES = 9


def result_of(folder: Path, predicted: Path, rule: str, ids: tuple[int, ...] | None = None) -> SequenceResult:
    """What an evaluation makes of predictions on disk: rows from each object's first label on."""
    truth = LabelImages({int(file.stem): file for file in folder.iterdir()}, ids)
    rows: list[Row] = []
    seen: set[int] = set()
    for frame in sorted(int(file.stem) for file in folder.iterdir()):
        masks = truth.masks(frame)
        seen |= {one for one, mask in masks.items() if mask.any()}
        labels = read_labels(predicted / f"{frame:05d}.png")
        for one in sorted(seen):
            mask = labels == one
            row = Row(one, frame, f"{frame:05d}", False, "visible", 1.0, 1.0, 1.0, int(mask.sum()))
            rows.append(Row(**{**vars(row), **vars(measure(one, mask, masks))}))
    return SequenceResult("clip", WIDTH, HEIGHT, FRAMES, mark_scored(rows, truth, rule), ())


def clip(kind: str, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Labels and predictions of nine frames."""
    truth, predicted = [], []
    for t in range(FRAMES):
        masks = {1: square(5 + 6 * t, 8), 3: square(80, 5 + 4 * t)}
        if kind == "late" and t >= 3:
            masks[7] = square(10, 60 - 3 * t, 20)
        if kind == "absent" and 1 <= t <= 4:
            del masks[3]
        if kind == "last only" and t == FRAMES - 1:
            masks[9] = square(20, 50, 9)
        if kind == "thin":
            masks = {1: np.zeros((HEIGHT, WIDTH), np.bool_)}
            masks[1][10 + 3 * t, 5:100] = True
        guess = {one: np.roll(mask, rng.integers(-4, 5, 2), (0, 1)) for one, mask in masks.items()}
        if kind == "empty predictions" and t > 2:
            guess = {}
        if kind == "false alarms" and t in (2, 5):
            guess = {**guess, 3: square(0, 0, 10)}
        if kind == "not an object":
            guess[8] = square(100, 60, 12)
        truth.append(labels_of(masks))
        predicted.append(labels_of(guess))
    if kind == "first only":
        for t in range(1, FRAMES):
            truth[t][truth[t] == 3] = 0
            predicted[t][predicted[t] == 3] = 0
    return truth, predicted


KINDS = (
    "all", "late", "absent", "last only", "thin", "empty predictions", "false alarms", "not an object", "first only",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 2])
def test_scores_equal_the_published_evaluator(kind: str, step: int, tmp_path: Path) -> None:
    truth, predicted = clip(kind, np.random.default_rng(KINDS.index(kind)))
    write_label_images(tmp_path / "truth" / "clip", {t: truth[t] for t in range(0, FRAMES, step)})
    write_label_images(tmp_path / "predicted" / "clip", dict(enumerate(predicted)))
    theirs = published.evaluate(tmp_path / "truth", tmp_path / "predicted", "clip")
    ours = result_of(tmp_path / "truth" / "clip", tmp_path / "predicted" / "clip", "vos").scores
    assert {score.object for score in ours} == set(theirs)
    for score in ours:
        j, f = theirs[score.object]
        assert (score.j, score.f) == (pytest.approx(j, abs=1e-9), pytest.approx(f, abs=1e-9))
        assert score.jf == pytest.approx((j + f) / 2, abs=1e-9)


def test_davis_counts_absent_frames_from_the_second_on(tmp_path: Path) -> None:
    truth, predicted = clip("absent", np.random.default_rng(0))
    write_label_images(tmp_path / "truth", dict(enumerate(truth)))
    write_label_images(tmp_path / "predicted", dict(enumerate(predicted)))
    davis, vos = (result_of(tmp_path / "truth", tmp_path / "predicted", rule) for rule in ("davis", "vos"))
    assert [row.frame for row in davis.of(3) if row.scored] == [1, 2, 3, 4, 5, 6, 7]
    assert [row.frame for row in vos.of(3) if row.scored] == [5, 6, 7]
    assert [row.j for row in davis.of(3)[1:5]] == [1.0] * 4
    assert davis.scores[0] == vos.scores[0]


@pytest.mark.parametrize(("false_alarms", "scored"), [((), [5, 6, 7]), ((3,), [3, 4, 5, 6, 7]), ((0, 8), [5, 6, 7])])
def test_vos_counts_from_the_first_mask_on_be_it_wrong(
    false_alarms: tuple[int, ...], scored: list[int], tmp_path: Path
) -> None:
    square_at = [square(10, 10) if t in (0, 5, 6, 7, 8) else np.zeros((HEIGHT, WIDTH), bool) for t in range(FRAMES)]
    shown_at = [square(30, 10) if t in false_alarms else mask for t, mask in enumerate(square_at)]
    write_label_images(tmp_path / "truth", {t: labels_of({1: mask}) for t, mask in enumerate(square_at)})
    write_label_images(tmp_path / "predicted", {t: labels_of({1: mask}) for t, mask in enumerate(shown_at)})
    rows = result_of(tmp_path / "truth", tmp_path / "predicted", "vos").of(1)
    assert [row.frame for row in rows if row.scored] == scored


def test_another_objects_overlap_is_found() -> None:
    truth = {1: square(10, 10), 2: square(50, 10), 3: square(60, 40)}
    found = measure(1, square(50, 12), truth)
    assert found.j == 0.0 and found.other == 2
    assert found.other_iou == pytest.approx(22 * 24 / (2 * 24 * 24 - 22 * 24))
    alone = measure(1, square(10, 10), truth)
    assert (alone.j, alone.other, alone.other_iou) == (1.0, None, 0.0)
