"""A network of exported graphs computes on arrays what PyTorch does, without PyTorch; bad folders are refused."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam2_reference import SCORE_BIAS, draw_weights
from small_tracker import small_model

from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.config import SAM3, RotaryViTConfig
from sam2_ros.model.export import export_folder
from sam2_ros.model.graph_checks import worst_error
from sam2_ros.model.graph_folder import CONSTANTS, METADATA, GraphFolder, GraphFolderError, describe_file, folder_digest
from sam2_ros.model.graph_network import GraphNetwork, load_exported
from sam2_ros.model.network import MATCH_LIMIT, Network, Reference
from sam2_ros.model.runtimes import Options
from sam2_ros.model.weight_files import content_digest, digest_of_weights

SIDE = 128
needs_runtime = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "openvino", "onnxruntime")),
    reason="needs onnx, openvino and onnxruntime: pip install 'sam2_ros[openvino]' onnxruntime",
)
pytestmark = needs_runtime
FLOAT32 = Options("onnxruntime", "float32", 1, None)


@pytest.fixture(scope="module")
def embedded() -> Sam2Model:
    return load_model("embedded", image_size=SIDE)


@pytest.fixture(scope="module")
def folder(embedded: Sam2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embedded")
    assert all(written.difference <= 1e-4 for written in export_folder(embedded, path))
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "network"))


@pytest.fixture(scope="module", params=["embedded, openvino", "small, onnxruntime", "sam3, onnxruntime"])
def pair(
    request: pytest.FixtureRequest, embedded: Sam2Model, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Sam2Model, GraphNetwork]:
    """A network by PyTorch and by graphs. The others have drawn weights and no trained metric; the small one has SAM
    2.0's layout."""
    name, runtime = request.param.split(", ")
    if name == "embedded":
        return embedded, GraphNetwork(folder, replace(FLOAT32, runtime=runtime))
    path = tmp_path_factory.mktemp(name)
    config = replace(small_model().config, occlusion_embedding=False, pointer_time_code=False, present_iou=0.3)
    if name == "sam3":
        config = replace(SAM3, rotary_vit=RotaryViTConfig(128, 8, 592, 4), image_size=140)
    draw_weights(model := Sam2Model(config).eval().requires_grad_(False), seed=0, gain=1.0)
    model.get_parameter(SCORE_BIAS).add_(20.0)  # every object is there
    list(export_folder(model, path))
    return model, GraphNetwork(path, replace(FLOAT32, runtime=runtime))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def arrays(value: Any) -> Any:
    """Tensors as arrays, also in containers and in what networks give and take."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, tuple):
        return tuple(map(arrays, value))
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: arrays(getattr(value, field.name)) for field in fields(value)})
    return value


def assert_alike(mine: Any, exact: Any) -> None:
    if isinstance(exact, torch.Tensor):
        assert isinstance(mine, np.ndarray) and mine.shape == exact.shape and mine.dtype == exact.numpy().dtype
        scale = max(1.0, float(exact.abs().max())) if exact.is_floating_point() else 1.0
        np.testing.assert_allclose(mine, exact.numpy(), rtol=0, atol=1e-4 * scale)
    elif is_dataclass(exact):
        for field in fields(exact):
            assert_alike(getattr(mine, field.name), getattr(exact, field.name))
    elif isinstance(exact, tuple):
        for one, other in zip(mine, exact, strict=True):
            assert_alike(one, other)
    else:
        assert mine == exact


def both(pair: tuple[Sam2Model, GraphNetwork], call: Callable[..., Any], *inputs: Any) -> Any:
    """What ``call`` gives with PyTorch's network; that of graphs has to give the same."""
    exact, mine = pair
    with torch.inference_mode():
        wanted = call(exact, *inputs)
    assert_alike(call(mine, *map(arrays, inputs)), wanted)
    return wanted


def encoded(pair: tuple[Sam2Model, GraphNetwork], images: int = 1) -> Any:
    with torch.inference_mode():
        return pair[0].encode_image(drawn(images, 3, pair[0].config.image_size, pair[0].config.image_size))


@pytest.mark.parametrize("size", [(96, 160), (300, 128), (128, 128), (1, 7), (480, 640)])
def test_images_are_resized_alike(pair: tuple[Sam2Model, GraphNetwork], size: tuple[int, int]) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    both(pair, lambda network, pixels: network.preprocess(pixels), image)


def test_features_and_looks_are_alike(pair: tuple[Sam2Model, GraphNetwork]) -> None:
    size, side = pair[0].config.image_size, 4 * pair[0].config.grid
    images = drawn(2, 3, size, size)
    images[1] = 10  # brighter than white
    features = both(pair, lambda network, pixels: network.encode_image(pixels), images)
    both(pair, lambda network, given: network.looks(given), features)
    both(pair, lambda network, given: network.without_memory(given), features)
    logits = drawn(2, side, side)
    logits[1] = -1  # an empty mask
    both(pair, lambda network, given, masks: network.look(given, masks), encoded(pair), logits)


@pytest.mark.parametrize("frames, pointers", [(1, 1), (7, 16), (9, 18), (16, 32)])
def test_memory_is_attended_alike(pair: tuple[Sam2Model, GraphNetwork], frames: int, pointers: int) -> None:
    config, objects = pair[0].config, 2
    cells, split = config.memory_tokens, config.hidden_dim // config.memory_dim
    memory, codes = (drawn(objects, frames * cells + pointers * split, config.memory_dim, seed=i) for i in range(2))
    mask = torch.ones(memory.shape[:2], dtype=torch.bool)
    mask[1, : (frames - 1) * cells], mask[1, -split:] = False, pointers == 1  # the second object has fewer memories
    call: Callable[..., Any] = lambda network, *given: network.with_memory(*given)  # noqa: E731
    for each in (None, mask):
        both(pair, call, encoded(pair), memory.clone(), codes, pointers * split, each)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_prompts_are_decoded_alike(pair: tuple[Sam2Model, GraphNetwork], count: int) -> None:
    features, size = encoded(pair), pair[0].config.image_size
    points = size * torch.rand(2, count, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[2, 3, 1, 0, -1][:count] * (1 if count < 5 else count // 5)] * 2)
    alone = pair[0].without_memory(features)
    for mask in (None, 8 * drawn(2, 1, 4 * pair[0].config.grid, 4 * pair[0].config.grid)):
        both(pair, lambda network, *given: network.decode(*given), alone, features, points, labels, mask)
    conditioned = alone.expand(3, -1, -1, -1)
    both(pair, lambda network, *given: network.decode(*given, *network.no_prompt(3)), conditioned, features)


def test_pointers_codes_and_memories_are_alike(pair: tuple[Sam2Model, GraphNetwork]) -> None:
    features, config = encoded(pair), pair[0].config
    present = torch.tensor([True, False, True])
    both(pair, lambda network, *given: network.pointer(*given), drawn(3, config.hidden_dim), present)
    masks = (drawn(3, 1, config.mask_size, config.mask_size) > 0).float()
    masks[1] = 0
    both(pair, lambda network, *given: network.mask_pointer(*given), features, masks)
    both(pair, lambda network, ages: network.pointer_code(ages), torch.tensor([[0, 1, 15], [3, 1000, 2]]))
    both(pair, lambda network: (network.memory_code, network.maskmem_tpos_enc))
    logits = 4 * drawn(3, 1, 4 * config.grid, 4 * config.grid)
    for binarize in (None, torch.tensor([True, False, True])):
        both(pair, lambda network, *given: network.encode_low_memory(*given), features, logits, present, binarize)
    scores, ious = torch.tensor([-900.0, -1.0, 9.0]), torch.tensor([0.1, 0.9, 0.4])
    both(pair, lambda network, *given: (network.present(*given), network.visibility(*given)), scores, ious)


def test_the_metric_is_alike(pair: tuple[Sam2Model, GraphNetwork]) -> None:
    features, side = encoded(pair), 4 * pair[0].config.grid
    logits = drawn(2, side, side) + 20 * (torch.arange(side) < 0.4 * side) - 10
    one = both(pair, lambda network, *given: network.look(*given), features, logits)
    unused = torch.full_like(one.coverage, -1)
    known = Reference(
        torch.cat((one.tokens, one.tokens.flip(1)), dim=1).expand(2, -1, -1), torch.cat((one.coverage, unused), dim=1),
        torch.cat((one.colors, torch.zeros_like(one.colors)), dim=1),
    )  # fmt: skip
    exact = pair[0]

    def match(network: Network, given: Reference, tokens: Any) -> Any:
        return network.metric.match(tokens, given)

    found = both(pair, match, known, exact.looks(features))
    assert float(found.logits.std()) > 0.1 and float(found.logits.abs().min()) < MATCH_LIMIT
    scores, ious = torch.tensor([3.0, -3.0]), torch.tensor([0.9, 0.2])

    def judge(network: Network, *given: Any) -> Any:
        evidence = network.metric.evidence(*given)
        tracked = None if network.appearance is None else network.appearance.tracked(evidence)
        return evidence, network.metric.found(evidence), tracked

    both(pair, judge, found, features.picture, logits, scores, ious)
    assert (pair[1].appearance is None) == (exact.appearance is None)


@pytest.mark.parametrize("name", ["image_encoder", "memory_encoder", "mask_decoder_1"])
def test_only_a_reshape_reads_a_map_whose_channels_come_last(folder: Path, name: str) -> None:
    # OpenVINO then leaves the change of layout out. Else it copies the map, often several times.
    import onnx

    nodes = onnx.load(folder / f"{name}.onnx").graph.node
    last = {node.output[0] for node in nodes if [list(each.ints) for each in node.attribute] == [[0, 2, 3, 1]]}
    readers = [node.op_type for node in nodes for each in node.input if each in last]
    assert len(readers) == len(last) > 0 and set(readers) <= {"Reshape", "Flatten"}


def test_self_attention_takes_five_products(folder: Path) -> None:
    import onnx

    nodes = onnx.load(folder / "image_attention.onnx").graph.node
    # Queries, keys and values, then the weights of the attention, and the mean of the values
    assert sum(node.op_type in ("MatMul", "Gemm") for node in nodes) == 5


def test_bfloat16_is_near(folder: Path, embedded: Sam2Model) -> None:
    network = GraphNetwork(folder, Options("openvino", "bfloat16", 1, None))
    images = drawn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        exact = embedded.encode_image(images)
    mine = network.encode_image(images.numpy())
    error = np.linalg.norm(mine.stride_16 - exact.stride_16.numpy()) / float(torch.linalg.norm(exact.stride_16))
    assert error < 0.1
    alone = embedded.without_memory(exact)  # the decoder runs in float32 all the same
    assert_alike(
        network.decode(alone.numpy(), arrays(exact), *network.no_prompt(1)),
        embedded.decode(alone, exact, *embedded.no_prompt(1)),
    )


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
import numpy as np
from sam2_ros.model.graph_network import load_exported
for runtime in ("openvino", "onnxruntime"):
    network, _ = load_exported(Path(sys.argv[1]), runtime, threads=1)
    features = network.encode_image(network.preprocess(np.zeros((90, 120, 3), np.uint8)))
    decoded = network.decode(network.without_memory(features), features, *network.no_prompt(1))
    print(decoded.logits.shape, network.graphs.report().split(",")[1])
"""


def test_what_bfloat16_computes_wrong_runs_in_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sam2_ros.model.graph_folder.MAX_ERROR", 1e-3)  # less than bfloat16 has
    images = drawn(1, 3, SIDE, SIDE).numpy()
    exact, mine = (
        GraphNetwork(folder, Options("openvino", dtype, 1, None)).encode_image(images)
        for dtype in ("float32", "bfloat16")
    )
    np.testing.assert_array_equal(mine.stride_16, exact.stride_16)
    assert "openvino is wrong by" in caplog.text and "image_encoder in bfloat16" in caplog.text


def test_a_runtime_that_computes_wrong_is_refused(copied: Path) -> None:
    change(copied, CONSTANTS, lambda found: found["pointer_check"].__imul__(2))
    with pytest.raises(GraphFolderError, match=r"what onnxruntime computes by pointer\.onnx is wrong by 50 %"):
        GraphNetwork(copied, FLOAT32)


def test_it_needs_no_torch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path))
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(f"(1, 4, {SIDE // 4}, {SIDE // 4})  13 graphs ready in") == 2
    cached = {path.name.rpartition("_")[0] for path in (tmp_path / "graphs" / folder_digest(folder)[:20]).iterdir()}
    assert {"image_encoder", "memory_attention", "mask_decoder_1", "look"} < cached


def test_the_runtime_is_chosen(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path))
    network, choice = load_exported(folder)
    assert choice.runtime == "openvino" and str(network.graphs).startswith("openvino 20")
    with pytest.raises(ValueError, match="which PyTorch can't run; accepted: auto, openvino"):
        load_exported(folder, "torch")
    with pytest.raises(ValueError, match="has no such runtime; accepted: auto, openvino"):
        load_exported(folder, "tensorflow")
    with pytest.raises(ValueError, match="which onnxruntime does not compute in; accepted: float32, auto"):
        load_exported(folder, "onnxruntime", "bfloat16")
    monkeypatch.setattr("sam2_ros.model.runtimes._missing", lambda name, *_: "the package openvino" * (name < "p"))
    with pytest.raises(ValueError, match=r"can run exported graphs \(openvino: the package openvino.*pip install"):
        load_exported(folder)
    monkeypatch.setattr("sam2_ros.model.runtimes._missing", lambda name, *_: "nothing" * (name == "openvino"))
    assert load_exported(folder)[1].runtime == "onnxruntime"


def test_a_cache_that_can_not_be_written_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path / "file"))
    network, _ = load_exported(folder, threads=1)
    assert network.pointer_code(np.array([1])).shape == (1, network.config.memory_dim)
    assert "what openvino compiles is not cached" in caplog.text


def test_what_it_can_not_do_is_refused(folder: Path) -> None:
    network = GraphNetwork(folder, FLOAT32)
    assert network.at(SIDE) is network
    with pytest.raises(ValueError, match=rf"not 96; accepted: {SIDE}; for another, run: sam2_ros export"):
        network.at(96)


def test_the_digest_names_the_weights(folder: Path, copied: Path) -> None:
    assert digest_of_weights(folder) == digest_of_weights(copied) != digest_of_weights("embedded")
    assert content_digest(copied) == digest_of_weights(copied) and content_digest(copied.parent) == ""
    assert content_digest(copied / METADATA) == digest_of_weights(copied)
    change(copied, CONSTANTS, lambda found: found["no_memory"].__iadd__(1))
    assert digest_of_weights(folder) != digest_of_weights(copied)


def change(folder: Path, name: str, edit: Callable[[Any], object]) -> None:
    """Changes the description, or the arrays and what the description says of their file."""
    about = json.loads((folder / METADATA).read_text())
    if name == CONSTANTS:
        with np.load(folder / CONSTANTS) as found:
            values = dict(found)
        edit(values)
        np.savez(folder / CONSTANTS, **values)
        about["files"][CONSTANTS] = describe_file(folder / CONSTANTS)
    else:
        edit(about)
    (folder / METADATA).write_text(json.dumps(about))


@pytest.mark.parametrize(
    "name, edit, problem",
    [
        (METADATA, lambda about: about.update(format=1), "has the format 1; accepted: 2"),
        (METADATA, lambda about: about.pop("format"), "has the format None; accepted: 2"),
        (METADATA, lambda about: about["model"].update(image_size=1 << 20), "image_size is '1048576'"),
        (METADATA, lambda about: about.pop("model"), "describes no network that this version has"),
        (METADATA, lambda about: about.update(pixel_std=[1, 0, 1]), "std above 0"),
        (METADATA, lambda about: about.update(pixel_mean=[1, float("nan"), 1]), "3 numbers"),
        (METADATA, lambda about: about["files"].pop("match.onnx"), "has to name constants.npz, image_encoder.onnx"),
        (METADATA, lambda about: about["files"].update({"../x.onnx": {}}), "and no other"),
        (METADATA, lambda about: about["files"].update({"look.onnx": 3}), "no bytes .* and sha256 of look.onnx"),
        (METADATA, lambda about: about["files"]["look.onnx"].update(bytes=1), "look.onnx has .* bytes; expected: 1"),
        (METADATA, lambda about: about["files"][CONSTANTS].update(sha256="0"), "constants.npz was changed"),
        (METADATA, lambda about: about.update(int8={}), "'int8' in graphs.json is no list of up to 1000 limits"),
        (
            METADATA,
            lambda about: about["int8"].append([1, 2]),
            r"'int8' in graphs.json has \[1, 2\]; accepted: null",
        ),
        (METADATA, lambda about: about["int8"].append([-1, float("nan")]), "'int8' in graphs.json has .*one on each"),
        (METADATA, lambda about: about["int8"].append(["-1", 1]), "'int8' in graphs.json has .*one on each"),
        (CONSTANTS, lambda found: found.pop("found"), "array 'found' is missing"),
        (CONSTANTS, lambda found: found.update(more=np.zeros(1)), "array 'more' is unknown"),
        (CONSTANTS, lambda found: found["no_mask"].__setitem__(3, np.inf), "'no_mask' holds values that are NaN"),
        (CONSTANTS, lambda found: found.update(no_mask=np.zeros(9)), r"is float64 \(9,\); accepted: float32 \(256,\)"),
        (CONSTANTS, lambda found: found.update(more=np.array([{}])), "can't be read"),
        (CONSTANTS, lambda found: found.update(more=np.zeros(1 << 20)), "unpacks to more than its arrays have"),
    ],
)
def test_a_bad_folder_is_refused(copied: Path, name: str, edit: Callable[[Any], object], problem: str) -> None:
    change(copied, name, edit)
    with pytest.raises(GraphFolderError, match=f"{problem}.*; export it again: sam2_ros export"):
        GraphFolder.read(copied)


def test_a_machine_without_free_files_is_no_damaged_folder(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_is_free(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "load", none_is_free)
    with pytest.raises(OSError, match="Too many open files"):
        GraphFolder.read(copied)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphFolderError, match=r"there is no graphs\.json"):
        GraphFolder.read(tmp_path)
    for text, problem in (("{", "is no JSON"), ("[" * 100_000, "is no JSON"), ("[]", "has the format None")):
        (tmp_path / METADATA).write_text(text)
        with pytest.raises(GraphFolderError, match=problem):
            GraphFolder.read(tmp_path)
    (tmp_path / METADATA).write_bytes(b" " * (1 << 21))
    with pytest.raises(GraphFolderError, match="has 2097152 bytes; accepted: up to 1048576"):
        GraphFolder.read(tmp_path)


def test_a_missing_or_changed_graph_is_refused(copied: Path) -> None:
    with (copied / "pointer.onnx").open("r+b") as file:
        file.write(b"changed")
    network = GraphFolder.read(copied)
    with pytest.raises(GraphFolderError, match=r"pointer\.onnx was changed: its SHA-256 is"):
        network.open("pointer", FLOAT32)
    (copied / "pointer.onnx").unlink()
    with pytest.raises(GraphFolderError, match=r"pointer\.onnx is missing"):
        GraphFolder.read(copied)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_another_graph_is_refused(copied: Path, runtime: str) -> None:
    shutil.copy(copied / "look.onnx", copied / "pointer.onnx")
    (copied / "match.onnx").write_bytes(b"no graph")
    both_files = {name: describe_file(copied / name) for name in ("pointer.onnx", "match.onnx")}
    change(copied, METADATA, lambda about: about["files"].update(both_files))
    network = GraphFolder.read(copied)
    with pytest.raises(GraphFolderError, match=r"pointer\.onnx takes inputs of the shapes .*; accepted: token \["):
        network.open("pointer", replace(FLOAT32, runtime=runtime))
    with pytest.raises(GraphFolderError, match=f"{runtime} can't run match"):
        network.open("match", replace(FLOAT32, runtime=runtime))


def test_an_output_that_is_no_number_is_never_taken_for_right() -> None:
    """Whichever it is of several."""
    right, wrong = np.ones(4, np.float32), np.array([1, np.nan, 1, 1], np.float32)
    assert worst_error([right, right], [right, right]) == 0
    for found in ([wrong, right], [right, wrong]):
        assert np.isnan(worst_error(found, [right, right]))
