"""Exported graphs compute what PyTorch does, in every runtime that is installed, and are made only once."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from small_tracker import small_model

from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.cli.main import main
from sam2_ros.inference import BackendFactory
from sam2_ros.inference.local import load_shared_model
from sam2_ros.media.rendered_scene import render
from sam2_ros.model import Sam2Model, graphs, load_model
from sam2_ros.model.graph_runner import MAX_NETWORKS, GraphRunner, network_hash, run_by
from sam2_ros.model.runtimes import choose_runtime
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig

SIDE = 224
INSTALLED = [name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name)]
needs_runtime = pytest.mark.skipif(
    not INSTALLED or not importlib.util.find_spec("onnx"),
    reason="needs onnx, and openvino or onnxruntime: pip install 'sam2_ros[openvino]'",
)
needs_openvino = pytest.mark.skipif("openvino" not in INSTALLED, reason="needs: pip install 'sam2_ros[openvino]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def embedded() -> Sam2Model:
    return load_model("embedded", image_size=SIDE)


@pytest.fixture(params=INSTALLED)
def runner(request: pytest.FixtureRequest, embedded: Sam2Model, folder: Path) -> Iterator[GraphRunner]:
    """Runs every graph of the embedded network, float32."""
    yield GraphRunner(embedded, request.param, "float32", 1, folder)


def assert_alike(mine: torch.Tensor, exact: torch.Tensor) -> None:
    assert mine.shape == exact.shape and mine.dtype == exact.dtype
    torch.testing.assert_close(mine, exact, rtol=0, atol=1e-4 * max(1.0, float(exact.abs().max())))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_runtime
@torch.inference_mode()
def test_every_part_gives_what_pytorch_gives(embedded: Sam2Model, runner: GraphRunner) -> None:
    other, config = embedded.with_graphs(runner), embedded.config
    images = drawn(2, 3, SIDE, SIDE)
    exact, mine = embedded.encode_image(images), other.encode_image(images)
    for field in fields(exact):
        assert_alike(getattr(mine, field.name), getattr(exact, field.name))
    smaller = drawn(1, 3, SIDE - 32, SIDE - 32)  # under load; the maps keep the size of the model's
    assert_alike(other.encode_image(smaller).stride_8, embedded.encode_image(smaller).stride_8)

    image = embedded.encode_image(images[:1])
    cells, pointers = config.memory_grid**2, 8
    for frames in (3, 5):  # a graph's whole room, and less
        count = frames * cells + pointers
        memory, codes = drawn(2, count, config.memory_dim), drawn(2, count, config.memory_dim, seed=1)
        mask = torch.ones(memory.shape[:2], dtype=torch.bool)
        mask[1, cells : 2 * cells], mask[1, -4:] = False, False  # the second object has fewer memories
        for given in (mask, None):
            exact_conditioned = embedded.with_memory(image, memory.clone(), codes, pointers, given)
            assert_alike(other.with_memory(image, memory, codes, pointers, given), exact_conditioned)

    for points, labels in (embedded.no_prompt(2), (30 * torch.rand(2, 2, 2), torch.tensor([[2, 3]] * 2))):
        exact_masks = embedded.decode(exact_conditioned, image, points, labels)
        masks = other.decode(exact_conditioned, image, points, labels)
        for name in ("logits", "ious", "tokens", "object_score"):
            assert_alike(getattr(masks, name), getattr(exact_masks, name))
    present = torch.tensor([True, False])
    logits = exact_masks.logits[:, :1]
    assert_alike(other.encode_low_memory(image, logits, present), embedded.encode_low_memory(image, logits, present))


@needs_runtime
@torch.inference_mode()
def test_what_has_no_graph_is_run_by_pytorch(embedded: Sam2Model, runner: GraphRunner) -> None:
    other, config = embedded.with_graphs(runner), embedded.config
    image = embedded.encode_image(drawn(1, 3, SIDE, SIDE))
    before = dict(runner.built)
    points, labels = 30 * torch.rand(1, 5, 2), torch.ones(1, 5, dtype=torch.int64)
    alone = embedded.without_memory(image)
    assert torch.equal(
        other.decode(alone, image, points, labels).logits, embedded.decode(alone, image, points, labels).logits
    )
    most, _ = graphs.MEMORIES[-1]
    memory = drawn(1, (most + 1) * config.memory_grid**2, config.memory_dim)
    exact = embedded.with_memory(image, memory.clone(), memory, 0, None)
    assert torch.equal(other.with_memory(image, memory.clone(), memory, 0, None), exact)
    assert runner.built == before


@needs_runtime
@torch.inference_mode()
def test_pytorch_runs_what_was_not_prepared_for_live_frames(embedded: Sam2Model, folder: Path) -> None:
    runner = GraphRunner(embedded, INSTALLED[0], "float32", 1, folder)
    other, images = embedded.with_graphs(runner), drawn(1, 3, SIDE, SIDE)
    image = other.encode_image(images)
    runner.seal()
    assert torch.equal(other.encode_image(images).stride_16, image.stride_16)
    assert not torch.equal(embedded.encode_image(images).stride_16, image.stride_16)  # so it was not PyTorch
    alone, points = embedded.without_memory(image), embedded.no_prompt(1)
    assert torch.equal(other.decode(alone, image, *points).logits, embedded.decode(alone, image, *points).logits)
    assert [name.partition(" ")[0] for name in runner.built] == ["image_encoder"]


@needs_runtime
def test_an_official_layout_tracks_the_same_masks(tmp_path: Path) -> None:
    model = small_model()
    config = TrackerConfig(look_alikes=False)  # drawn weights may give both objects the mask of one thing
    graphs = model.with_graphs(GraphRunner(model, INSTALLED[0], "float32", 1, tmp_path))
    trackers = [Tracker(each, config) for each in (model, graphs)]
    for index, frame in enumerate(render(4, 160, 120)):
        results = [tracker.step(frame.rgb, index + 1) for tracker in trackers]
        if not index:
            boxes = [np.array([15, 60, 40, 100], np.float32), np.array([80, 20, 120, 60], np.float32)]
            for tracker in trackers:
                assert all(answer.success for answer in tracker.add([PromptRequest(Prompt(box=box)) for box in boxes]))
            continue
        for exact, mine in zip(results[0].objects, results[1].objects, strict=True):
            a, b = exact.mask.full(), mine.mask.full()
            assert a.any() and np.count_nonzero(a != b) <= 0.002 * np.count_nonzero(a | b) + 1


@needs_openvino
def test_the_engine_tracks_by_openvino_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path))
    engines = [load_shared_model("embedded", "cpu", dtype, SIDE, 1, runtime=runtime)
               for dtype, runtime in (("float32", "torch"), ("bfloat16", "openvino"))]  # fmt: skip
    trackers = [Tracker(engine.model, dtype=engine.dtype, shared=engine) for engine in engines]
    played = moving_scene(1, 320, 240)
    for index, frame in enumerate(played.frames[:5]):
        exact, mine = (tracker.step(frame, index + 1) for tracker in trackers)
        if not index:
            prompt = [PromptRequest(Prompt(box=played.boxes[0]))]
            assert all(tracker.add(prompt)[0].success for tracker in trackers)
            continue
        a, b = exact.objects[0].mask.full(), mine.objects[0].mask.full()
        assert a.any() and np.count_nonzero(a & b) >= 0.97 * np.count_nonzero(a | b)
    graphs_made = sorted((tmp_path / "graphs").rglob("*.onnx"))
    parts = ("image_encoder", "image_attention", "memory_attention_3_16", "memory_attention_7_16", "mask_decoder_2",
             "mask_decoder_3", "memory_encoder")  # fmt: skip
    assert {path.stem for path in graphs_made} == {f"{part}_{SIDE}" for part in parts}
    times = [path.stat().st_mtime_ns for path in graphs_made]
    factory = BackendFactory("embedded", "cpu", "bfloat16", SIDE, 1, runtime="openvino")
    with closing(factory.make(TrackerConfig(max_objects=1, window="auto"))) as backend:
        assert backend.info.device.startswith("cpu (openvino 20")
    assert [path.stat().st_mtime_ns for path in graphs_made] == times  # made once


@needs_runtime
@torch.inference_mode()
def test_the_cache_keeps_a_bounded_number_of_networks(
    embedded: Sam2Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path))
    for index in range(MAX_NETWORKS + 2):
        (tmp_path / "graphs" / str(index)).mkdir(parents=True)
    runner, grid = GraphRunner(embedded, INSTALLED[0], "float32", 1), embedded.config.grid
    runner.memory_maps(embedded, drawn(1, embedded.config.hidden_dim, grid, grid), drawn(1, 1, 4 * grid, 4 * grid))
    left = list((tmp_path / "graphs").iterdir())
    assert len(left) == MAX_NETWORKS and runner.folder in left


def test_the_hash_names_the_weights(embedded: Sam2Model) -> None:
    before = network_hash(embedded)
    weight = embedded.no_obj_ptr
    with torch.no_grad():
        weight.add_(1)
        changed = network_hash(embedded)
        weight.sub_(1)
    assert changed != before


def test_what_can_not_be_run_is_refused() -> None:
    assert choose_runtime("torch", "cuda:0", "tinyvit").runtime == "torch"
    with pytest.raises(ValueError, match="accepted: auto, torch, openvino"):
        choose_runtime("tensorflow", "cpu", "tinyvit")
    with pytest.raises(ValueError, match="device 'cuda:0'; accepted: cpu"):
        choose_runtime("openvino", "cuda:0", "tinyvit")
    with pytest.raises(ValueError, match=r"onnxruntime:tensorrt' needs .*; install it: python3 -m pip install"):
        choose_runtime("onnxruntime:tensorrt", "cpu", "tinyvit")


@needs_openvino
def test_auto_takes_openvino_for_the_embedded_model_on_a_cpu() -> None:
    assert choose_runtime("auto", "cpu", "tinyvit").runtime == "openvino"
    for device, trunk in (("cuda:0", "tinyvit"), ("cpu", "hiera")):
        assert choose_runtime("auto", device, trunk).runtime == "torch"
    factory = BackendFactory("embedded", "cpu", "auto", SIDE, 1)
    with closing(factory.make(TrackerConfig(max_objects=1))) as backend:
        assert backend.info.device.startswith("cpu (openvino 20")
    assert re.fullmatch(r"openvino \S+, [5-9] graphs ready in \d+\.\d s \(auto: .*\)", factory.runtime)


@pytest.mark.parametrize(
    "module, reason",
    [
        (None, "needs the package openvino"),
        ("__version__ = '2023.3.0-13775'", "its version is 2023.3.0; accepted: 2025.0 or newer"),
        ("raise OSError('libtbb.so.12: no such file')", "OSError: libtbb.so.12: no such file"),
        ("__version__ = '2026.0.0'\nclass Core:\n    available_devices = ['GPU']", "it finds no CPU here, only: GPU"),
    ],
)
def test_without_a_good_openvino_auto_takes_torch(module: str | None, reason: str, tmp_path: Path) -> None:
    """In a process whose ``openvino`` is missing, old or broken."""
    statement = "import sys, importlib.util\n"
    if module is None:
        statement += "find = importlib.util.find_spec\n"
        statement += "importlib.util.find_spec = lambda name: None if name == 'openvino' else find(name)\n"
    else:
        for name, text in (("openvino", module), ("onnx", "")):
            (tmp_path / f"{name}.py").write_text(text)
        statement += f"sys.path.insert(0, {str(tmp_path)!r})\n"
    statement += (
        "from sam2_ros.model.runtimes import choose_runtime\n"
        "choice = choose_runtime('auto', 'cpu', 'tinyvit')\nprint(choice.runtime, choice.reason)\n"
        "try: choose_runtime('openvino', 'cpu', 'tinyvit')\nexcept ValueError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True)
    chosen, refused = ran.stdout.splitlines()
    assert chosen.startswith("torch auto: OpenVINO ") and reason in chosen
    assert refused.startswith("runtime 'openvino' ") and reason in refused and "pip install" in refused
    # One line: a missing package is what many want, a bad one is no one's wish.
    assert [reason in line for line in ran.stderr.splitlines()] == ([] if module is None else [True])


SIGNAL_AFTER_GRAPHS = """
import faulthandler, signal, sys
from pathlib import Path
import torch
from sam2_ros.allocator import give_back_freed_memory
from sam2_ros.model.runtimes import Options, open_session
faulthandler.enable()
path = Path(sys.argv[1])
torch.onnx.export(torch.nn.Linear(4, 4), (torch.zeros(1, 4),), str(path), dynamo=False)
signal.signal(signal.SIGUSR1, lambda *_: print("alive", flush=True))
first, second = (open_session(path, Options("openvino", "float32", 1, None)) for _ in range(2))
del first
del second
give_back_freed_memory()
signal.raise_signal(signal.SIGUSR1)
"""


@needs_openvino
def test_a_signal_after_graphs_were_dropped_ends_nothing(tmp_path: Path) -> None:
    """Cores of OpenVINO left the thread a freed stack for signals: any signal with a handler killed the process."""
    command = [sys.executable, "-c", SIGNAL_AFTER_GRAPHS, str(tmp_path / "graph.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "alive\n"), ran.stderr


@needs_runtime
@torch.inference_mode()
def test_pytorch_takes_over_where_graphs_can_not_be_made(
    embedded: Sam2Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("sam2_ros.model.graph_runner._log.warning", lambda text, *parts: said.append(text % parts))
    (file := tmp_path / "file").write_text("no folder")
    runner = GraphRunner(embedded, INSTALLED[0], "float32", 1, file / "graphs")
    other, images = embedded.with_graphs(runner), drawn(1, 3, SIDE, SIDE)
    exact, mine = embedded.encode_image(images), other.encode_image(images)
    assert torch.equal(exact.stride_16, mine.stride_16)
    alone, points = embedded.without_memory(exact), embedded.no_prompt(1)
    assert torch.equal(other.decode(alone, mine, *points).logits, embedded.decode(alone, exact, *points).logits)
    (line,) = said
    assert "PyTorch runs what is not ready, because image_encoder" in line and "NotADirectoryError" in line
    assert "failed" in runner.report()


def test_torch_is_no_copy(embedded: Sam2Model) -> None:
    assert run_by(embedded, "torch", "float32", 1) is embedded


@needs_runtime
def test_the_verb_writes_and_checks_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", "embedded", "--out", str(out), "--image-size", "128"]) == 0
    about = json.loads((out / "graphs.json").read_text())
    assert about["model"]["image_size"] == 128
    assert about["graphs"]["image_encoder"]["inputs"] == {"images": [1, 3, 128, 128]}
    assert {path.stem for path in out.glob("*.onnx")} == set(about["graphs"])
    assert all(graph["difference"] <= 1e-4 for graph in about["graphs"].values())
    assert "image_encoder.onnx" in capsys.readouterr().out
    shutil.rmtree(out)


@needs_runtime
def test_the_verb_refuses_an_unknown_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nothing", "--out", str(tmp_path)]) == 2
    assert "no weights for model 'nothing'" in capsys.readouterr().err
