"""An exported network is tracked without PyTorch: by the library, and by the command line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.inference import BackendFactory, make_backend
from sam2_ros.media.label_images import read_labels
from sam2_ros.model import load_model
from sam2_ros.model.export import export_folder
from sam2_ros.tracking import Prompt, PromptRequest, TrackerConfig

SIDE, SIZE, FRAMES = 448, 100, 6
pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "openvino", "onnxruntime")),
    reason="needs onnx, openvino and onnxruntime: pip install 'sam2_ros[openvino]' onnxruntime",
)
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it fails
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embedded")
    list(export_folder(load_model("embedded", image_size=256), path))
    return path


def frame(index: int) -> NDArray[np.uint8]:
    """A blue square that moves on a mottled ground, and is hidden on frame 4."""
    drawn = np.random.default_rng(0)
    picture = _mottled(drawn, (140, 135, 125), SIDE, 24)
    patch = _mottled(drawn, (50, 90, 210), SIZE, 8)
    if index != 4:
        left = 60 + 8 * index
        picture[60 : 60 + SIZE, left : left + SIZE] = patch
    return picture.clip(0, 255).astype(np.uint8)


def _mottled(drawn: np.random.Generator, color: tuple[int, ...], size: int, grain: int) -> NDArray[np.float64]:
    coarse = drawn.uniform(0.5, 1.5, (grain, grain))
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None] * np.array(color, np.float64)


BOX = (60.0, 60.0, 160.0, 160.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images, and a prompts file for it."""
    path = tmp_path_factory.mktemp("clip")
    for index in range(FRAMES):
        cv2.imwrite(str(path / f"{index:03}.png"), frame(index)[..., ::-1])
    prompts = path.parent / "prompts.json"
    prompts.write_text(json.dumps([{"frame": 0, "object_id": 1, "name": "square", "box": list(BOX)}]))
    return path, prompts


def tracked(model: str, runtime: str) -> list[tuple[str, float, NDArray[np.bool_]]]:
    """State, score and mask of the square on each frame."""
    backend = make_backend(model, "cpu", "float32", TrackerConfig(max_objects=2), image_size=256, runtime=runtime)
    found = []
    for index in range(FRAMES):
        result = backend.step(frame(index), index)
        if index == 0:
            (answer,) = backend.add([PromptRequest(Prompt(box=np.array(BOX, np.float32)))])
            assert answer.success and answer.result is not None, answer.message
            one = answer.result
        else:
            one = result.object(1)
        found.append((one.state.name, one.object_score, one.mask.full()))
    backend.close()
    return found


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_it_tracks_as_pytorch_does(folder: Path, runtime: str) -> None:
    mine, wanted = tracked(str(folder), runtime), tracked("embedded", "torch")
    assert [state for state, _, _ in mine] == [state for state, _, _ in wanted]
    assert "OCCLUDED" in [state for state, _, _ in mine]
    for (_, score, mask), (_, other_score, other) in zip(mine, wanted, strict=True):
        assert score == pytest.approx(other_score, abs=0.02)
        assert jaccard(mask, other) > 0.98


def test_it_says_what_it_is(folder: Path) -> None:
    factory = BackendFactory(str(folder), dtype="float32", runtime="onnxruntime")
    info = factory.make(TrackerConfig(max_objects=1)).info
    assert (info.model, info.dtype, info.image_size) == ("sam2_ros_embedded", "float32", 256)
    assert info.device.startswith("cpu (onnxruntime") and info.cache_bytes == 0
    assert factory.runtime.startswith("onnxruntime")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "cuda"}, "device is 'cuda'; accepted: auto, cpu"),
        ({"image_size": 448}, "accepted: 256"),
        ({"runtime": "torch"}, "torch"),
        ({"dtype": "bfloat16", "runtime": "onnxruntime"}, "bfloat16"),
    ],
)
def test_what_it_cannot_be(folder: Path, arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_backend(str(folder), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_the_command_line_tracks_without_torch(
    folder: Path, clip: tuple[Path, Path], runtime: str, tmp_path: Path
) -> None:
    source, prompts = clip
    arguments = [
        "track", str(source), "--prompts", str(prompts), "--model", str(folder), "--runtime", runtime, "--dtype",
        "float32", "--masks-out", str(tmp_path / "masks"), "--json-out", str(tmp_path / "tracks.json"), "--quiet",
    ]  # fmt: skip
    code = f"{WITHOUT_TORCH}\nfrom sam2_ros.cli.main import main\nsys.exit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    masks = [read_labels(path) == 1 for path in sorted((tmp_path / "masks").iterdir())]
    for mask, (_, _, wanted) in zip(masks, tracked("embedded", "torch"), strict=True):
        assert jaccard(mask, wanted) > 0.98


def test_weights_need_torch() -> None:
    code = f"{WITHOUT_TORCH}\nfrom sam2_ros.inference import make_backend\nmake_backend('embedded', runtime='torch')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: the model 'embedded' needs PyTorch 2.3 or newer" in done.stderr
    assert "sam2_ros export" in done.stderr
