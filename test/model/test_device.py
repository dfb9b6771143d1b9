"""Which devices a user may name, and what is said of the others."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sam2_ros.cli.main import main
from sam2_ros.media.figures import write_png
from sam2_ros.model.device import find_device


@pytest.mark.parametrize("name", ["foo", "mps", "cuda:x", "cuda:", "cuda:-1", "cpu:0", "", "CUDA", "meta", "cuda:٣"])
def test_another_word_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"device is '.*'; accepted: auto, cpu, cuda, cuda:N"):
        find_device(name)


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ValueError, match="'cuda', but this PyTorch knows no GPUs; use cpu, or install one with CUDA"):
        find_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="'cuda:1', but PyTorch finds no GPU; use cpu, or look at nvidia-smi"):
        find_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="'cuda:2', but there are 2 GPUs; accepted: cuda:0 to cuda:1"):
        find_device("cuda:2")
    assert find_device("cuda:1") == torch.device("cuda:1")


def test_the_processor_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    "command",
    [
        ["track", "0.png", "--prompts", "prompts.json"],
        ["serve", "--bind", "tcp://127.0.0.1:*"],
        ["bench", "--quick"],
        ["train", "--data", "clips", "--out", "out"],
    ],
    ids=lambda command: command[0],
)
def test_every_verb_says_it_in_one_sentence(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "0.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "prompts.json").write_text('[{"frame": 0, "object_id": 1, "box": [1, 1, 9, 9]}]')
    assert main([*command, "--device", "mps"]) == 2
    assert capfd.readouterr().err == "sam2_ros: error: device is 'mps'; accepted: auto, cpu, cuda, cuda:N\n"
