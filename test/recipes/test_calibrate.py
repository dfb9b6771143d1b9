"""The object score as a calibrated logit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.embedded.calibrate import fit, fold, read_scores
from sam2_ros.evaluation.presence import calibration
from sam2_ros.model import Sam2Model, load_model


def drawn(scale: float, offset: float, count: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose chance of "seen" is sigmoid(scale * score + offset)."""
    rng = np.random.default_rng(0)
    scores = rng.normal(2, 4, count)
    return scores, rng.random(count) < 1 / (1 + np.exp(-(scale * scores + offset)))


def test_finds_scale_and_offset_and_calibrates() -> None:
    scores, seen = drawn(0.4, -1.0)
    scale, offset = fit(scores, seen)
    assert scale == pytest.approx(0.4, rel=0.1) and offset == pytest.approx(-1.0, abs=0.15)
    before, _ = calibration(list(1 / (1 + np.exp(-scores))), list(seen))
    after, _ = calibration(list(1 / (1 + np.exp(-(scale * scores + offset)))), list(seen))
    assert before is not None and after is not None and after < 0.03 < before


def test_the_scale_alone_leaves_every_answer() -> None:
    scores, seen = drawn(0.4, 0.0)
    scale, offset = fit(scores, seen, keep_threshold=True)
    assert scale == pytest.approx(0.4, rel=0.1) and offset == 0


def test_frames_of_one_kind_or_senseless_scores_are_refused() -> None:
    scores, seen = drawn(1.0, 0.0)
    with pytest.raises(ValueError, match="accepted: some of both"):
        fit(scores, np.ones_like(seen))
    with pytest.raises(ValueError, match="train the object score first"):
        fit(scores, ~seen)


def test_separable_scores_get_a_finite_scale() -> None:
    scale, offset = fit(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    assert 0 < scale < 10 and abs(offset) < 1


def test_folding_changes_every_score_alike() -> None:
    able = load_model("embedded")
    plain = Sam2Model(replace(able.config, appearance_dim=0)).eval()
    head, tokens = plain.sam_mask_decoder.pred_obj_score_head, torch.randn(5, 256)
    with torch.no_grad():
        before = head(tokens)
        fold(plain, 0.5, -1.5)
        torch.testing.assert_close(head(tokens), 0.5 * before - 1.5)


def test_folding_scales_the_judgement_of_a_model_that_has_one() -> None:
    model = load_model("embedded")
    assert model.appearance is not None
    head, evidence, tokens = model.sam_mask_decoder.pred_obj_score_head, torch.randn(5, 12), torch.randn(5, 256)
    layers = (model.appearance.tracked, model.appearance.found)
    with torch.no_grad():
        before, score = [layer(evidence) for layer in layers], head(tokens)
        fold(model, 0.5, -1.5)
        for layer, then in zip(layers, before, strict=True):
            torch.testing.assert_close(layer(evidence), 0.5 * then - 1.5)
        assert torch.equal(head(tokens), score)  # what is judged by stays


def test_reads_what_the_evaluation_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = ["sequence,object,frame,prompted,object_score,truth_area"]
    lines += ["a,1,0,True,9,1000", "a,1,1,False,5,1000", "a,1,2,False,1,10", "a,1,3,False,-4,0", "a,1,4,False,-1,"]
    path.write_text("\n".join(lines) + "\n")
    scores, seen = read_scores([path])
    # The prompted frame, the sliver and the frame without a label do not count.
    assert scores.tolist() == [5.0, -4.0] and seen.tolist() == [True, False]
