"""The image encoder in int8: its arithmetic, for which networks and processors it is, and its distance to float32."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from sam2_ros.inference.local import load_shared_model
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.export import export_folder
from sam2_ros.model.graph_folder import GraphFolder
from sam2_ros.model.graph_network import load_exported, options_of
from sam2_ros.model.int8 import has_int8, quantise
from sam2_ros.model.int8_limits import layers, limits_of
from sam2_ros.model.runtimes import Choice

SIDE = 128
needs_openvino = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "openvino")),
    reason="needs onnx and openvino: pip install 'sam2_ros[openvino]'",
)
needs_vnni = pytest.mark.skipif(not has_int8(), reason="needs a processor with VNNI")


@pytest.fixture(scope="module")
def embedded() -> Sam2Model:
    return load_model("embedded", image_size=SIDE)


@pytest.fixture(scope="module")
def folder(embedded: Sam2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    list(export_folder(embedded, path := tmp_path_factory.mktemp("embedded")))
    return path


def rounded(values: np.ndarray, low: float, high: float, steps: int) -> np.ndarray:
    step = (high - low) / steps
    return low + step * np.round((np.clip(values, low, high) - low) / step)


@needs_openvino
@needs_vnni
def test_inputs_and_weights_are_rounded() -> None:
    """Inputs to 256 steps, clipped at the limits; weights to 255 steps for each output; what has no limits stays."""
    import openvino
    from openvino import opset8

    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((16, 16)).astype(np.float32) for _ in range(2))
    given = 3 * rng.standard_normal((64, 16)).astype(np.float32)
    images = opset8.parameter([64, 16], np.float32)
    products = [opset8.matmul(images, first, False, False)]
    products.append(opset8.matmul(products[0], second, False, True))  # whose weights are [outputs, inputs]
    graph = openvino.Model([opset8.result(each) for each in products], [images])
    quantise(graph, [(-2.0, 3.1), None])
    found = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([given])
    step = 5.1 / 255
    most = np.abs(first).max(axis=0)
    wanted = rounded(given, -100 * step, 155 * step, 255) @ np.round(first / (most / 127)) * (most / 127)
    np.testing.assert_allclose(found[0], wanted, atol=1e-3)
    np.testing.assert_allclose(found[1], wanted @ second.T, atol=1e-2)


@needs_openvino
def test_limits_of_more_layers_than_a_graph_has_are_refused() -> None:
    import openvino
    from openvino import opset8

    images = opset8.parameter([1, 4], np.float32)
    graph = openvino.Model([opset8.result(opset8.matmul(images, np.eye(4, dtype=np.float32), False, False))], [images])
    with pytest.raises(ValueError, match="the graph has 1 layers; expected: 2 or more"):
        quantise(graph, [None, (-1.0, 1.0)])


def test_limits_belong_to_one_encoder(embedded: Sam2Model) -> None:
    limits = dict(zip(layers(embedded.image_encoder), limits_of(embedded), strict=True))
    exact = {name for name, each in limits.items() if each is None}
    assert exact == {name for name in limits if name.startswith(("trunk.patch_embed.", "trunk.stages.0."))}
    assert len(limits) == 54 and all(low <= 0 < high for low, high in filter(None, limits.values()))
    tuned = load_model("embedded")  # its other parts may have been trained on
    tuned.no_obj_ptr.add_(1)
    assert limits_of(tuned) == limits_of(embedded)
    tuned.image_encoder.get_parameter("neck.norm2.bias").add_(0.01)
    assert limits_of(tuned) == []


@needs_openvino
@needs_vnni
def test_int8_is_near_float32(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures of any brightness, where the rest is in float32 and in bfloat16."""
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path))
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.stack((128 + 90 * np.sin(x / 9), 2 * y, 255 * ((x // 20 + y // 25) % 2)), axis=-1).astype(np.uint8)
    exact, _ = load_exported(folder, "openvino", "float32", 1)
    for has_bfloat16 in (True, False):
        monkeypatch.setattr("sam2_ros.model.runtimes.has_bfloat16", lambda _, answer=has_bfloat16: answer)
        monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path / str(has_bfloat16)))
        mine, _ = load_exported(folder, "openvino", "int8", 1)
        assert mine.graphs.dtype == "int8"
        for image in (picture, picture // 8, np.full_like(picture, 200)):
            right, found = (each.encode_image(each.preprocess(image)) for each in (exact, mine))
            error = np.linalg.norm(found.stride_16 - right.stride_16) / np.linalg.norm(right.stride_16)
            assert 0.01 < error < 0.1


@pytest.mark.parametrize(
    "bfloat16, vnni, quantised, runtime, wanted",
    [
        (True, True, True, "openvino", "bfloat16"),
        (False, True, True, "openvino", "int8"),
        (False, False, True, "openvino", "float32"),
        (False, True, False, "openvino", "float32"),
        (False, True, True, "onnxruntime", "float32"),
        (False, True, True, "openvino:gpu", "float32"),
    ],
)
def test_auto_takes_what_the_processor_computes_in(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, vnni: bool, quantised: bool, runtime: str, wanted: str
) -> None:
    monkeypatch.setattr("sam2_ros.model.graph_network.has_bfloat16", lambda _: bfloat16)
    monkeypatch.setattr("sam2_ros.model.graph_network.has_int8", lambda: vnni)
    assert options_of(Choice(runtime, ""), "auto", 1, None, quantised).dtype == wanted


def test_int8_is_refused_where_it_can_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam2_ros.model.graph_network.has_int8", lambda: False)
    for runtime, quantised, problem in (
        ("onnxruntime", True, "which onnxruntime does not compute in"),
        ("openvino", False, "for which these weights have no limits of the inputs of their layers"),
        ("openvino", True, "but this processor has no VNNI"),
    ):
        with pytest.raises(ValueError, match=f"dtype is 'int8', {problem}; accepted: float32, bfloat16 by OpenVINO"):
            options_of(Choice(runtime, ""), "int8", 1, None, quantised)
    with pytest.raises(ValueError, match=r"PyTorch runs the network \(as chosen\); accepted: auto, float32, bfloat16"):
        load_shared_model("embedded", "cpu", "int8", SIDE, 1, runtime="torch")


@needs_openvino
def test_the_description_of_an_exported_network_has_the_limits(folder: Path, embedded: Sam2Model) -> None:
    assert [each and tuple(each) for each in limits_of(embedded)] == list(GraphFolder.read(folder).limits)


def test_a_recipe_measures_them(tmp_path: Path) -> None:
    from PIL import Image

    from recipes.embedded.quantise import main

    rng = np.random.default_rng(0)
    for name in ("1.png", "2.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / name)
    main(["--images", str(tmp_path), "--out", str(out := tmp_path / "limits.json")])

    about, model = json.loads(out.read_text()), load_model("embedded")
    assert about["pictures"] == [f"{tmp_path.name}/1.png", f"{tmp_path.name}/2.png"]
    assert list(about["limits"]) == [
        name for name, each in zip(layers(model.image_encoder), limits_of(model), strict=True) if each
    ]
    assert all(low <= 0 < high for low, high in about["limits"].values())
