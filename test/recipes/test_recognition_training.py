"""The metric by which objects are recognised learns, and the judgement is fitted to what the tracker does."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recipes.embedded import judge, metric
from recipes.embedded.features import FeatureStore
from recipes.embedded.logistic import logistic
from sam2_ros.media.label_images import write_labels
from sam2_ros.model import load_model
from sam2_ros.model.tinyvit import TinyViTEncoder
from sam2_ros.training.clips import Clip

SIZE = 64


def clip(steps: int) -> Clip:
    """Two textured squares that move over a ground of noise; one is gone in the middle."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 120, (SIZE, SIZE, 3), np.uint8)
    textures = [rng.integers(120, 255, (20, 20, 3), np.uint8), rng.integers(0, 60, (20, 20, 3), np.uint8)]
    frames, labels = [], []
    for t in range(steps):
        frame, label = ground.copy(), np.zeros((SIZE, SIZE), np.uint8)
        for value, (x, y) in enumerate(((2 + 3 * t, 4), (36, 38 - 2 * t)), start=1):
            if value == 1 or t not in (3, 4):
                frame[y : y + 20, x : x + 20] = textures[value - 1]
                label[y : y + 20, x : x + 20] = value
        frames.append(frame)
        labels.append(label)
    return Clip("squares", np.stack(frames), np.stack(labels))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    torch.manual_seed(0)
    encoder = TinyViTEncoder().eval().requires_grad_(False)
    return FeatureStore.build(tmp_path_factory.mktemp("features"), [clip(8)], 8, SIZE, encoder, torch.float32)


def test_coverage_of_each_object(store: FeatureStore) -> None:
    found = metric.coverages(store, 0)
    assert len(found) == 2 and found[0].shape == (8, 16)
    assert found[0].sum(axis=1) == pytest.approx(400 / 256, abs=1e-4)
    assert found[1][3:5].sum() == 0 and found[1][2].sum() > 0


def test_loss_falls_and_a_seed_gives_the_same_metric(store: FeatureStore) -> None:
    def loss(appearance: metric.Appearance) -> float:
        rng = np.random.default_rng(5)
        questions = [question for question in (metric.draw(store, rng) for _ in range(12)) if question is not None]
        return float(np.mean([float(metric.loss_of(appearance, question)) for question in questions]))

    short, long, again = (
        metric.train({"a": store}, {"a": 1.0}, steps, 3, 16, 8).requires_grad_(False) for steps in (1, 25, 25)
    )
    assert loss(long) < 0.6 * loss(short)
    assert all(torch.equal(a, b) for a, b in zip(long.state_dict().values(), again.state_dict().values(), strict=True))


def test_logistic_finds_what_the_outcomes_were_drawn_from() -> None:
    rng = np.random.default_rng(1)
    evidence = rng.normal((3.0, -1.0, 0.0), (2.0, 0.5, 1.0), (4000, 3))
    right = rng.random(4000) < 1 / (1 + np.exp(-(evidence @ (0.8, -2.0, 0.0) - 4)))
    weights, offset = logistic(evidence, right, judge.PENALTY)
    assert weights == pytest.approx([0.8, -2.0, 0.0], abs=0.2) and offset == pytest.approx(-4, abs=0.5)
    with pytest.raises(ValueError, match="4000 of 4000 examples are positive"):
        logistic(evidence, np.ones(4000, np.bool_))


def test_judgement_is_fitted_on_tracked_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips"
    source = clip(8)
    for part in ("JPEGImages", "Annotations"):
        (clips / part / "squares").mkdir(parents=True)
    for t, (frame, label) in enumerate(zip(source.frames, source.labels, strict=True)):
        big = cv2.resize(frame, (256, 256), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(clips / "JPEGImages" / "squares" / f"{t:05d}.jpg"), big[..., ::-1])
        write_labels(
            clips / "Annotations" / "squares" / f"{t:05d}.png",
            cv2.resize(label, (256, 256), interpolation=cv2.INTER_NEAREST),
        )
    out = tmp_path / "judged.pt"
    judge.main(["--model", "embedded", "--clips", str(clips), "--rounds", "1", "--out", str(out)])
    said = capsys.readouterr().out
    assert "tracked: 14 masks" in said  # two objects on seven frames
    assert "found: 0 of " in said and "left as it was" in said  # nothing was found anew there
    before, after = load_model("embedded"), load_model(out)
    assert before.appearance is not None and after.appearance is not None
    assert not torch.equal(after.appearance.tracked.weight, before.appearance.tracked.weight)
    for name, value in after.appearance.layers.state_dict().items():
        assert torch.equal(value, before.appearance.layers.state_dict()[name])


def test_a_model_that_recognises_nothing_needs_a_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from recipes.embedded.export import export
    from sam2_ros.model import Sam2Model

    able = load_model("embedded")
    plain = Sam2Model(replace(able.config, appearance_dim=0))
    export(plain, tmp_path / "plain.pt", quiet=True)
    with pytest.raises(SystemExit):
        judge.main(["--model", str(tmp_path / "plain.pt"), "--clips", str(tmp_path), "--out", str(tmp_path / "o.pt")])
    assert "recognises nothing; give --metric" in capsys.readouterr().err
