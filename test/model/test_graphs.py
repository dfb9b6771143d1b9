"""Weights are run by graphs, which track as PyTorch does and are made only once."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_tracker import small_model

from sam2_ros.bench.moving_scene import moving_scene
from sam2_ros.cli.main import main
from sam2_ros.inference import BackendFactory
from sam2_ros.inference.local import load_shared_model
from sam2_ros.media.rendered_scene import render
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.cached_graphs import CachedGraphs
from sam2_ros.model.export import as_graphs
from sam2_ros.model.graph_cache import MAX_NETWORKS
from sam2_ros.model.graph_folder import METADATA
from sam2_ros.model.graph_network import GraphNetwork
from sam2_ros.model.graph_shapes import shapes_of
from sam2_ros.model.int8 import has_int8
from sam2_ros.model.runtimes import Session, _core, choose_runtime, open_session
from sam2_ros.model.weight_files import EMBEDDED
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.tracking.shared_model import SharedModel

SIDE = 224
INSTALLED = [name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name)]
needs_runtime = pytest.mark.skipif(
    not INSTALLED or not importlib.util.find_spec("onnx"),
    reason="needs onnx, and openvino or onnxruntime: pip install 'sam2_ros[openvino]'",
)
needs_openvino = pytest.mark.skipif("openvino" not in INSTALLED, reason="needs: pip install 'sam2_ros[openvino]'")


@pytest.fixture(scope="module")
def embedded() -> Sam2Model:
    return load_model("embedded", image_size=SIDE)


@needs_runtime
def test_an_official_layout_tracks_the_same_masks() -> None:
    model = small_model()
    config = TrackerConfig(look_alikes=False)  # drawn weights may give both objects the mask of one thing
    trackers = [Tracker(each, config) for each in (model, as_graphs(model, INSTALLED[0], "float32", 1))]
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
@pytest.mark.parametrize("rounded", ["bfloat16", "int8"])
def test_the_engine_tracks_by_openvino_with_rounded_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounded: str
) -> None:
    if rounded == "int8" and not has_int8():
        pytest.skip("needs a processor with VNNI")
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path))
    engines = [load_shared_model("embedded", "cpu", dtype, SIDE, 1, runtime=runtime)
               for dtype, runtime in (("float32", "torch"), (rounded, "openvino"))]  # fmt: skip
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
    assert isinstance(engines[1].model, GraphNetwork) and engines[1].dtype == rounded


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it fails
from sam2_ros.inference import make_backend
print(make_backend("embedded", "cpu", "bfloat16", image_size=224, threads=1, runtime="openvino").info)
"""


def graphs_of(model: str | Path = "embedded", **settings: Any) -> SharedModel:
    return load_shared_model(str(model), "cpu", "float32", SIDE, 1, **({"runtime": "openvino"} | settings))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


@needs_openvino
def test_graphs_are_made_once_and_later_starts_need_no_torch(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another size and other weights have graphs of their own."""
    assert graphs_of().runtime.startswith("openvino ") and "making the graphs of this network, once" in caplog.text
    (folder,) = cache.iterdir()
    before = (folder / METADATA).stat().st_mtime_ns
    ran = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert "device='cpu (openvino 20" in ran.stdout and "dtype='bfloat16'" in ran.stdout, ran.stdout
    assert (folder / METADATA).stat().st_mtime_ns == before
    state = torch.load(EMBEDDED, weights_only=True)
    state["model"]["no_obj_ptr"] += 1
    torch.save(state, tmp_path / "other.pt")
    names = {CachedGraphs(path, size).folder for path in (EMBEDDED, tmp_path / "other.pt") for size in (0, SIDE)}
    assert len(names) == 4 and folder in names


@needs_openvino
def test_processes_that_start_together_make_the_graphs_once(cache: Path) -> None:
    code = "import logging\nlogging.basicConfig()\n" + WITHOUT_TORCH.replace('sys.modules["torch"] = None', "")
    starts = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.communicate()[1] for each in starts]
    assert [each.returncode for each in starts] == [0, 0], said
    assert "".join(said).count("making the graphs of this network") == 1


@needs_openvino
def test_damaged_graphs_are_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    graphs_of()
    (folder,) = cache.iterdir()
    for name, text in (("pointer.onnx", b"damaged"), (METADATA, b"{")):
        (folder / name).write_bytes(text)
        assert graphs_of().runtime.startswith("openvino ")
        assert "the cached graphs are made again" in caplog.text
        caplog.clear()
    graphs_of()
    assert "again" not in caplog.text


@needs_openvino
def test_pytorch_takes_over_where_graphs_can_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (file := tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SAM2_ROS_CACHE", str(file))
    shared = graphs_of()
    assert isinstance(shared.model, Sam2Model) and shared.runtime == "torch (its graphs can't be used)"
    assert "PyTorch runs the network, because its graphs can't be used: NotADirectoryError" in caplog.text


@needs_openvino
def test_pytorch_takes_over_where_a_runtime_computes_wrong(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sam2_ros.model.graph_folder.MAX_ERROR", 1e-9)
    assert isinstance(graphs_of().model, Sam2Model)
    assert "what openvino computes by image_encoder.onnx is wrong by" in caplog.text
    caplog.clear()
    assert isinstance(graphs_of().model, Sam2Model)
    assert "wrong by" in caplog.text and "making the graphs" not in caplog.text  # they would be the same


@needs_openvino
def test_graphs_that_can_not_be_opened_for_a_while_stay(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as without memory; a process without PyTorch says so, and one with it tries once more."""
    graphs_of()
    caplog.clear()
    (file,) = cache.glob(f"*/{METADATA}")
    before, failures = file.stat().st_mtime_ns, [MemoryError("bad allocation"), OSError(24, "Too many open files")]

    def failing(*arguments: Any) -> Session:
        if failures:
            raise failures.pop()
        return open_session(*arguments)

    monkeypatch.setattr("sam2_ros.model.graph_folder.open_session", failing)
    with monkeypatch.context() as without_torch:
        without_torch.setitem(sys.modules, "torch", None)
        with pytest.raises(
            ImportError, match=r"the cached graphs of the model 'embedded' can't be opened.*Too many open"
        ):
            graphs_of()
    assert isinstance(graphs_of().model, GraphNetwork) and not failures
    assert file.stat().st_mtime_ns == before and "making the graphs" not in caplog.text


@needs_openvino
def test_auto_looks_for_graphs_of_small_files_only(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash of a file of gigabytes takes seconds. Graphs of a large file are used all the same where they are best."""
    monkeypatch.setattr("sam2_ros.inference.local.MOST_BYTES_OF_AUTO", 1 << 20)
    assert graphs_of(runtime="auto").runtime.startswith("openvino ")
    model = small_model()
    torch.save({"model": model.state_dict(), "config": model.config.to_dict()}, tmp_path / "small.pt")
    assert (tmp_path / "small.pt").stat().st_size > 1 << 20
    monkeypatch.setattr("sam2_ros.model.cached_graphs.file_sha256", lambda _: pytest.fail("it was hashed"))
    shared = load_shared_model(str(tmp_path / "small.pt"), "cpu", "float32", threads=1)
    assert shared.runtime == "torch (auto: other runtimes were measured with the embedded model only)"


@needs_openvino
def test_the_cache_keeps_a_bounded_number_of_networks(cache: Path) -> None:
    for index in range(MAX_NETWORKS + 2):
        (cache / str(index)).mkdir(parents=True)
    graphs_of()
    left = list(cache.iterdir())
    assert len(left) == MAX_NETWORKS and CachedGraphs(EMBEDDED, SIDE).folder in left


def test_what_can_not_be_run_is_refused() -> None:
    assert choose_runtime("torch", "cuda:0", "tinyvit").runtime == "torch"
    with pytest.raises(ValueError, match="accepted: auto, torch, openvino"):
        choose_runtime("tensorflow", "cpu", "tinyvit")
    with pytest.raises(ValueError, match="device 'cuda:0'; accepted: cpu"):
        choose_runtime("openvino", "cuda:0", "tinyvit")
    with pytest.raises(ValueError, match=r"onnxruntime:tensorrt' needs .*; install it: python3 -m pip install"):
        choose_runtime("onnxruntime:tensorrt", "cpu", "tinyvit")


@needs_openvino
def test_a_device_that_is_not_there_is_no_reason_to_upgrade() -> None:
    devices = _core().available_devices
    if any(each.startswith("GPU") for each in devices):
        pytest.skip("OpenVINO finds a GPU here")
    with pytest.raises(ValueError, match=f"it finds no GPU here, only: {', '.join(devices)}; install the device's"):
        choose_runtime("openvino:gpu", "cpu", "tinyvit")


@needs_openvino
def test_auto_takes_openvino_for_the_embedded_model_on_a_cpu() -> None:
    assert choose_runtime("auto", "cpu", "tinyvit").runtime == "openvino"
    for device, trunk in (("cuda:0", "tinyvit"), ("cpu", "hiera")):
        assert choose_runtime("auto", device, trunk).runtime == "torch"
    factory = BackendFactory("embedded", "cpu", "auto", SIDE, 1)
    with closing(factory.make(TrackerConfig(max_objects=1))) as backend:
        assert backend.info.device.startswith("cpu (openvino 20")
    assert re.fullmatch(r"openvino \S+, 13 graphs ready in \d+\.\d s \(auto: .*\)", factory.runtime)


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
def test_the_verb_writes_and_checks_a_folder(
    embedded: Sam2Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(["export", "embedded", "--out", str(out), "--image-size", "128"]) == 0
    about = json.loads((out / "graphs.json").read_text())
    assert about["model"]["image_size"] == 128
    assert about["graphs"]["image_encoder"]["inputs"] == {"images": [1, 3, 128, 128]}
    assert {path.stem for path in out.glob("*.onnx")} == set(about["graphs"]) == set(shapes_of(embedded.config))
    assert all(graph["difference"] <= 1e-4 for graph in about["graphs"].values())
    assert set(about["files"]) == {path.name for path in out.iterdir()} - {"graphs.json"}
    assert "image_encoder.onnx" in capsys.readouterr().out
    monkeypatch.setattr("sam2_ros.model.export.TOLERANCE", -1.0)
    assert main(["export", "embedded", "--out", str(out), "--image-size", "128"]) == 2
    assert "image_encoder" in capsys.readouterr().err and not (out / "graphs.json").exists()
    shutil.rmtree(out)


@needs_runtime
def test_the_verb_refuses_an_unknown_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nothing", "--out", str(tmp_path)]) == 2
    assert "no weights for model 'nothing'" in capsys.readouterr().err
