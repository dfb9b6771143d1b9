"""``sam2_ros train`` from data on disk to a checkpoint that tracks; interrupted, resumed, and in two processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import HEIGHT, WIDTH, davis, small_checkpoint, yolo

from sam2_ros.cli.main import main
from sam2_ros.model import load_model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker
from sam2_ros.training.clips import read_rgb

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--clip-length", "3", "--clips", "1", "--dtype", "float32", "--lr", "1e-3", "--threads", "1", "--quiet")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    davis(root / "davis")
    davis(root / "single", sequences=1)
    yolo(root / "yolo")
    small_checkpoint(root)
    return root


def command(inputs: Path, out: Path, *more: str, data: str = "davis") -> list[str]:
    return [
        "train",
        "--data",
        str(inputs / data),
        "--model",
        str(inputs / "small.pt"),
        "--out",
        str(out),
        *FAST,
        *more,
    ]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> Mapping[str, torch.Tensor]:
    found: Mapping[str, torch.Tensor] = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    return found


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a network with drawn weights on one video, long enough to learn it."""
    out = tmp_path_factory.mktemp("trained")
    more = ("--steps", "120", "--log-every", "10", "--ema", "0.9", "--prompts", "box=1", "--corrected-frames", "0",
            "--clip-length", "2", "--camera", "0", "--stride", "1", "--warmup", "5", "--gradient-norm", "1",
            "--val", str(inputs / "single"), "--val-every", "60")  # fmt: skip
    assert main(command(inputs, out, *more, data="single")) == 0
    return out


def test_the_loss_falls_and_is_logged(trained: Path) -> None:
    logged = [line for line in lines(trained) if "mask" in line]
    assert [line["step"] for line in logged] == list(range(10, 121, 10))
    assert logged[-1]["mask"] < 0.5 * logged[0]["mask"]
    about = json.loads((trained / "train.json").read_text())
    assert about["options"]["steps"] == 120 and about["model"] == "small" and about["trained_parameters"] > 1e6


def test_validation_follows_the_training(trained: Path) -> None:
    scores = [line["J"] for line in lines(trained) if "J" in line]
    assert len(scores) == 2 and all(set(score) == {"mean", "v0"} for score in scores)
    assert scores[-1]["mean"] > 0.5


def test_the_checkpoint_tracks(trained: Path, inputs: Path) -> None:
    tracker = Tracker(load_model(trained / "checkpoint.pt"), dtype="float32")
    frames = sorted((inputs / "single" / "JPEGImages" / "v0").iterdir())
    tracker.step(read_rgb(frames[0]), 0)
    (answer,) = tracker.add([PromptRequest(Prompt(box=np.array([10, 10, 34, 30], np.float32)))])
    assert answer.success
    (one,) = tracker.step(read_rgb(frames[1]), 1).objects
    truth = np.zeros((HEIGHT, WIDTH), np.bool_)
    truth[10:30, 14:38] = True
    mask = one.mask.full()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.5


def test_curves_are_there_for_tensorboard(trained: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    events = reader.EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    assert {"loss/mask", "loss/iou", "loss/presence", "optimizer/rate", "J/mean"} <= set(events.Tags()["scalars"])
    points = {point.step: point.value for point in events.Scalars("loss/mask")}
    for line in lines(trained):
        if "mask" in line:
            assert points[int(line["step"])] == pytest.approx(line["mask"], abs=1e-4)
    assert [point.step for point in events.Scalars("J/mean")] == [60, 120]


def test_a_killed_training_goes_on_to_the_same_weights(inputs: Path, tmp_path: Path) -> None:
    more = ("--steps", "6", "--save-every", "2", "--log-every", "1", "--data", str(inputs / "yolo"))
    assert main(command(inputs, tmp_path / "whole", *more)) == 0
    parts = command(inputs, tmp_path / "parts", *more)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-m", "sam2_ros", *parts], cwd=ROOT, env=environment)
    try:
        while not (tmp_path / "parts" / "state.pt").exists():
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
    assert 2 <= state["step"] <= 6
    assert main(parts) == 0
    wanted, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
    assert [line["step"] for line in lines(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    assert main(parts) == 0  # nothing is left to do


def test_a_finished_training_says_how_to_train_further(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(inputs, tmp_path / "first", "--steps", "1")
    assert main(words) == 0 and main(words) == 0
    said = capsys.readouterr().out
    advice = re.search(r"train it further: (--model \S+) and another --out", said)
    assert advice is not None and "has done all 1 step;" in said
    assert main(command(inputs, tmp_path / "second", "--steps", "1", *advice[1].split())) == 0
    about = json.loads((tmp_path / "second" / "train.json").read_text())
    assert about["options"]["model"] == str(tmp_path / "first" / "checkpoint.pt")


def test_two_processes_learn_what_one_does_with_twice_the_clips(inputs: Path, tmp_path: Path) -> None:
    more = ("--steps", "2", "--ema", "0", "--warmup", "1")
    assert main(command(inputs, tmp_path / "one", *more, "--clips", "2")) == 0
    code = (
        "import sys, torch\nfrom sam2_ros.cli import train\nfrom sam2_ros.training import finetune\n"
        "from sam2_ros.cli.main import main\nfolder = sys.argv.pop(1)\n"
        "class Kept(finetune.ClipTraining):\n"
        "    def run(self, *args):\n"
        "        super().run(*args)\n"
        "        torch.save(self.model.state_dict(), f'{folder}/rank{self.world.rank}.pt')\n"
        "finetune.ClipTraining = Kept\nsys.exit(main(sys.argv[1:]))\n"
    )
    script = tmp_path / "kept.py"
    script.write_text(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(tmp_path), *command(inputs, tmp_path / "two", *more, "--device", "cpu")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())
    one, two, start = weights(tmp_path / "one"), weights(tmp_path / "two"), load_model(inputs / "small.pt").state_dict()
    assert all(torch.equal(value, two[name]) for name, value in ranks[0].items())
    # Not entry by entry: where a gradient is zero but for rounding, AdamW's step takes the sign of the rounding.
    learnt = torch.cat([(two[name] - value).flatten() for name, value in start.items()])
    apart = torch.cat([(two[name] - one[name]).flatten() for name in start])
    assert learnt.norm() > 0.1
    assert apart.norm() < 1e-3 * learnt.norm()
    assert apart.abs().median() < 1e-6
    assert json.loads((tmp_path / "two" / "train.json").read_text())["processes"] == 2


def test_options_from_a_file(inputs: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(
        f"data: [{inputs / 'davis'}]\nmodel: {inputs / 'small.pt'}\nclip-length: 2\nclips: 1\nsteps: 5\n"
        "dtype: float32\nprompts: {mask: 1}\nfreeze: [encoder, prompts]\n"
    )
    out = tmp_path / "out"
    assert main(["train", "--config", str(config), "--out", str(out), "--steps", "1", "--quiet"]) == 0
    chosen = json.loads((out / "train.json").read_text())["options"]
    assert (chosen["steps"], chosen["clip_length"], chosen["prompts"]) == (1, 2, {"mask": 1.0})
    assert chosen["freeze"] == ["encoder", "prompts"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--clip-length", "1"), "--clip-length is 1; accepted: 2 to 64"),
        (("--data", "nowhere"), "there is no data at nowhere"),
        (("--model", "huge"), "no weights for model 'huge'"),
        (("--size", "100"), "image_size is 100; accepted: multiples of 32 from 64 on"),
        (("--device", "abacus"), "accepted: auto, cpu, cuda, cuda:N"),
        (("--config", "none.yaml"), "sam2_ros: error: none.yaml: No such file or directory\n"),
    ],
)
def test_what_a_user_can_mend(
    more: tuple[str, ...], message: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(inputs, tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
