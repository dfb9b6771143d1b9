"""Loading weights: recognised by their content, strictly, and never by running code from a file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sam2_reference import without_initialisation
from torch import Tensor

from sam2_ros.model import HIERA, CheckpointError, HieraConfig, ModelConfig, Sam2Model, load_model
from sam2_ros.model.checkpoint import read_checkpoint
from sam2_ros.model.config import EDGE_MODELS
from sam2_ros.model.download import CHECKPOINTS, Checkpoint, checkpoint_path, file_sha256
from sam2_ros.model.weight_files import find_weights

SMALLEST = ModelConfig(
    "ours", hiera=HieraConfig(96, 1, (1, 1, 1, 1), (2,)), memory_layers=1, memory_ffn=64, memory_pool=2, image_size=128
)
HIERA_OF_SMALLEST = SMALLEST.to_dict()["hiera"]


def official(size: str, version: str) -> dict[str, Tensor]:
    """A state dict of the official names and shapes; every tensor repeats one number, so that its file is small."""
    new = version == "2.1"
    config = ModelConfig("", hiera=HIERA[size], occlusion_embedding=new, pointer_time_code=new)
    with without_initialisation():
        shapes = {name: value.shape for name, value in Sam2Model(config).state_dict().items()}
    return {name: torch.tensor(0.01 * index).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


def save(path: Path, state: Any, **entries: Any) -> Path:
    torch.save({"model": state, **entries}, path)
    return path


@pytest.mark.parametrize("version", ["2.1", "2.0"])
@pytest.mark.parametrize("size", HIERA)
def test_size_and_version_are_read_off_the_file(tmp_path: Path, size: str, version: str) -> None:
    state, config = read_checkpoint(save(tmp_path / "renamed.pt", official(size, version)))
    assert config.name == f"sam2{'.1' if version == '2.1' else ''}_hiera_{size}"
    assert config.hiera == HIERA[size]
    assert config.version == version
    assert config.image_size == 1024
    assert state.keys() == official(size, version).keys()


def efficient_tam(name: str) -> dict[str, Tensor]:
    """As :func:`official`, of EfficientTAM."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Sam2Model(EDGE_MODELS[name]).state_dict().items()}
    return {key: torch.tensor(0.01).expand(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize(("name", "width"), [("efficienttam_ti", 192), ("efficienttam_s", 384)])
def test_variants_of_efficient_tam_are_told_by_layout_and_name(tmp_path: Path, name: str, width: int) -> None:
    state = efficient_tam(name)
    for file, size in (("renamed", 1024), (name, 1024), (f"{name}_512x512", 512)):
        config = read_checkpoint(save(tmp_path / f"{file}.pt", state))[1]
        assert (config.name, config.trunk, config.image_size) == (name, "vit", size)
        assert (config.version, config.vit_width) == ("2.0", width)
    for variant in ("1", "2"):
        with pytest.raises(CheckpointError, match=f"the variant '_{variant}' of EfficientTAM .* not supported"):
            read_checkpoint(save(tmp_path / f"{name}_{variant}.pt", state))
    state["image_encoder.trunk.patch_embed.proj.weight"] = torch.zeros(128, 3, 16, 16)
    with pytest.raises(CheckpointError, match=r"unknown EfficientTAM size: 128 wide; accepted: efficienttam_ti \(192"):
        read_checkpoint(save(tmp_path / "other.pt", state))


@pytest.mark.parametrize("version", ["2.1", "2.0"])
def test_an_official_file_is_loaded_for_inference(tmp_path: Path, version: str) -> None:
    state = official("tiny", version)
    model = load_model(save(tmp_path / "tiny.pt", state))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (lambda s: s, "weights from a bare state dict"),
        (lambda s: {"state_dict": s, "epoch": 3}, "weights from entry 'state_dict'"),
        (lambda s: {"ema": s, "model": {name: -value for name, value in s.items()}}, "weights from entry 'ema'"),
        (lambda s: {"ema": None, "state_dict": s, "config": {"lr": 1e-4}}, "weights from entry 'state_dict'"),
        (prefixed, "weights from a bare state dict, without the prefix 'module.'"),
        (lambda s: {"model": prefixed(s)}, "weights from entry 'model', without the prefix 'module.'"),
        (lambda s: {"ema": prefixed(s) | {"n_averaged": torch.tensor(7)}}, "entry 'ema', without the prefix 'module.'"),
    ],
    ids=["bare", "state_dict", "ema", "foreign config", "module.", "module. in model", "AveragedModel"],
)
def test_layouts_of_other_programs_are_recognised_and_named(
    tmp_path: Path, said: list[str], layout: Callable[[dict[str, Tensor]], Any], told: str
) -> None:
    state = official("tiny", "2.1")
    torch.save(layout(state), tmp_path / "theirs.pt")
    loaded = load_model(tmp_path / "theirs.pt").state_dict()
    assert len(said) == 1 and told in said[0]
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    state, place = official("tiny", "2.1"), 0
    header = {}
    for name, tensor in state.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [place, place + 4 * tensor.numel()],
        }
        place += 4 * tensor.numel()
    text = json.dumps(header).encode()
    path = tmp_path / "tiny.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in state.values():
            file.write(tensor.contiguous().numpy().tobytes())
    loaded = load_model(path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_the_input_size_can_be_chosen(tmp_path: Path) -> None:
    path = save(tmp_path / "tiny.pt", official("tiny", "2.1"))
    model = load_model(path, image_size=128)
    with torch.no_grad():
        assert model.encode_image(torch.zeros(1, 3, 128, 128)).stride_16.shape == (1, 256, 8, 8)
    with pytest.raises(ValueError, match="image_size is 100; accepted: multiples of 32 from 64 on"):
        load_model(path, image_size=100)


def test_our_own_format_keeps_configuration_and_half_precision_weights(tmp_path: Path) -> None:
    config = replace(SMALLEST, visibility_scale=2.0, visibility_bias=-1.0)
    source = Sam2Model(config).eval()
    state = {name: value.half() for name, value in source.state_dict().items()}
    model = load_model(save(tmp_path / "ours.pt", state, config=config.to_dict()))
    assert model.config == config
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].float())
    with torch.no_grad():
        features = model.encode_image(torch.zeros(1, 3, 128, 128))
        memory = model.encode_memory(features, torch.zeros(1, 1, 128, 128), torch.tensor([True]))
    assert memory.shape == (1, 16, 64)  # 8 × 8 cells, pooled over 2 × 2


def test_the_configuration_of_our_format_survives_as_plain_lists() -> None:
    values = SMALLEST.to_dict()
    values["hiera"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in values["hiera"].items()
    }
    values["high_res_channels"] = list(values["high_res_channels"])
    assert ModelConfig.from_dict(values) == SMALLEST


MIDDLE = "memory_attention.layers.1.linear1.weight"
LATER = "sam_mask_decoder.iou_token.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda s: (s.pop(MIDDLE), s.pop(LATER)),
            rf"does not fit sam2.1_hiera_tiny: tensor '{MIDDLE}' \(2048, 256\) is m",
        ),
        (lambda s: s.update({MIDDLE: torch.zeros(1)}), rf"tensor '{MIDDLE}' has shape \(1,\), expected \(2048, 256\)"),
        (lambda s: s.update(more=torch.zeros(3)), r"tensor 'more' \(3,\) is unexpected"),
        (lambda s: s.pop("no_obj_embed_spatial"), "tensor 'no_obj_embed_spatial' .* is missing"),
        (
            lambda s: s.pop("image_encoder.trunk.blocks.5.norm1.weight"),
            "'image_encoder.trunk.blocks.5.norm1.weight' .* is m",
        ),
    ],
    ids=["missing", "misshaped", "unexpected", "half of 2.1", "encoder"],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = official("tiny", "2.1")
    edit(state)
    with pytest.raises(CheckpointError, match=message):
        load_model(save(tmp_path / "edited.pt", state))


class Intruder:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    trace, path = tmp_path / "was_here", tmp_path / "evil.pt"
    content = {"model": official("tiny", "2.1"), "extra": Intruder(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil.pt is refused: .* could run code; accepted: the official SAM 2"):
        load_model(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_truncated_or_damaged_file_is_refused_at_every_length(tmp_path: Path, zipped: bool) -> None:
    whole, path = tmp_path / "whole.pt", tmp_path / "damaged.pt"
    state = {name: torch.zeros(5) for name in ("a", "b", "c")}
    torch.save({"model": state}, whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    damaged = [content[:length] for length in range(0, len(content), 61)]
    damaged += [content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :] for place in range(0, 400, 7)]
    for variant in damaged:
        path.write_bytes(variant)
        with pytest.raises(CheckpointError, match=r"damaged\.pt.*accepted: the official SAM 2"):
            load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read as a checkpoint: it is damaged, incomplete or a file of another kind"),
        (b"not a checkpoint\n", "can't be read as a checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "can't be read as a checkpoint"),
        (b"PK\x03\x04" + bytes(100), "can't be read as a checkpoint"),
        ([1, 2, 3], r"has no entry with named tensors; accepted: the official SAM 2 layout \(an entry 'model'\)"),
        ({"model": [1, 2]}, "has no entry with named tensors"),
        ({"model": {"name": "tiny"}}, "has no entry with named tensors"),
        ({"model": {1: torch.zeros(1)}}, "has no entry with named tensors"),
        ({"state_dict": {}}, "has no entry with named tensors"),
        ({"model": {"backbone.weight": torch.zeros(1)}}, "not a SAM 2 checkpoint: 'image_encoder.trunk.patch_embed"),
    ],
    ids=range(10),
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "other.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_another_size_of_network_is_refused_by_its_dimensions(tmp_path: Path) -> None:
    state = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(80, 3, 7, 7)}
    with pytest.raises(
        CheckpointError, match=r"unknown SAM 2 size: 80 wide, 0 blocks; accepted: tiny \(96 wide, 12 bl"
    ):
        load_model(save(tmp_path / "sam3.pt", state))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "ours", "wings": 2}, "wings"),
        ({}, "name"),
        ([1], "another version"),
        ({"name": "ours", "hiera": 3}, "another version"),
        ({"name": "ours", "trunk": "resnet"}, "trunk is 'resnet'; accepted: 'hiera', 'tinyvit'"),
        ({"name": "ours", "image_size": 1000}, "image_size is 1000"),
        ({"name": "ours", "memory_pool": 0}, "memory_pool 0"),
    ],
    ids=range(7),
)
def test_a_configuration_that_we_dont_know_is_refused(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"was written for another version of sam2_ros: .*{message}|{message}"):
        load_model(save(tmp_path / "ours.pt", {"a": torch.zeros(1)}, config=config))


def test_names_and_paths_that_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"give a path, or run: sam2_ros download base_plus-2\.0"):
        load_model("base_plus-2.0")
    with pytest.raises(
        FileNotFoundError, match=r"'enormous'.*give the path of a file, or one of: embedded, tiny, small"
    ):
        load_model("enormous")
    with pytest.raises(FileNotFoundError, match=r"no weights for model '/nowhere/at/all\.pt'.*give the path of a file"):
        load_model("/nowhere/at/all.pt")
    with pytest.raises(FileNotFoundError, match="that is a folder; give the path of a file"):
        load_model(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of that name does not hide the model
    with pytest.raises(FileNotFoundError, match="run: sam2_ros download tiny"):
        load_model("tiny")


def test_a_downloaded_checkpoint_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path))
    path = checkpoint_path("small-2.0")
    path.parent.mkdir(parents=True)
    save(path, official("small", "2.0"))
    assert load_model("small-2.0").config.name == "sam2_hiera_small"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((2048, 256), torch.nan), rf"tensor '{MIDDLE}' holds 524288 values that are NaN or infinite; fetch"),
        (torch.zeros(2048, 256).index_put((torch.tensor(7), torch.tensor(9)), torch.tensor(-torch.inf)), "holds 1 val"),
        (torch.full((2048, 256), 1e300, dtype=torch.float64), "holds 524288 values that are NaN or infinite"),
        (
            torch.zeros(2048, 256, dtype=torch.int64),
            rf"tensor '{MIDDLE}' is torch.int64.*; accepted: dense numbers of",
        ),
        (torch.zeros(2048, 256, dtype=torch.complex64), "is torch.complex64"),
        (torch.zeros(2048, 256).to_sparse(), "is torch.float32, torch.sparse_coo"),
        (torch.zeros(2048, 256, device="meta"), "on meta; accepted: dense numbers of"),
        (torch.zeros(1).expand(1 << 20, 1 << 20), r"holds 1099\d+ numbers; accepted: up to 1073741824"),
    ],
    ids=["nan", "one infinite", "beyond float32", "whole numbers", "complex", "sparse", "meta", "huge"],
)
def test_tensors_that_no_network_has_are_refused_by_name(tmp_path: Path, value: Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(save(tmp_path / "odd.pt", official("tiny", "2.1") | {MIDDLE: value}))


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("memory_layers", 10**9, "memory_layers is '1000000000'; accepted: whole numbers up to 32"),
        ("image_size", 1 << 30, "image_size is '1073741824'; accepted: whole numbers up to 4096"),
        ("memory_ffn", "2048", "memory_ffn is '2048'; accepted: whole numbers"),
        ("image_code_scale", float("nan"), "image_code_scale is 'nan'; accepted: a finite number"),
        ("occlusion_embedding", 3, "occlusion_embedding is '3'; accepted: True or False"),
        ("high_res_channels", (10**6, 1), "high_res_channels is '.*'; accepted: whole numbers up to 4096"),
        ("name", "x\x1b[2J", "name is missing, or no short text"),
        ("hiera", {"embed_dim": 10**7, "num_heads": 1, "stages": (1, 1, 1, 1), "global_blocks": ()}, "embed_dim is"),
        ("high_res_channels", (1, 2, 3), "high_res_channels is '.*'; accepted: 2 whole numbers up to 4096"),
        ("memory_layers", (1, 1), "memory_layers is '.*'; accepted: whole numbers up to 32"),
        ("memory_dim", 0, "memory_dim is 0; accepted: divisors"),
        ("visibility_scale", 10**400, "was written for another version"),
        ("memory_dim", 2, "no network has its settings"),
        ("hiera", HIERA_OF_SMALLEST | {"num_heads": 0}, "num_heads is 0; accepted: divisors of embed_dim, 96"),
        ("hiera", HIERA_OF_SMALLEST | {"window_sizes": (8, 4, 0, 7)}, "window_sizes is .*; accepted: 1 and more"),
        ("memory_layers", 32, "tensor 'memory_attention.layers.1.*' .* is missing"),
        ("memory_ffn", 1 << 14, "has shape .*, expected"),
    ],
)
def test_a_file_chooses_neither_memory_nor_time(tmp_path: Path, entry: str, value: Any, message: str) -> None:
    with without_initialisation():
        state = Sam2Model(SMALLEST).state_dict()
    with pytest.raises(CheckpointError, match=message):
        load_model(save(tmp_path / "ours.pt", state, config=SMALLEST.to_dict() | {entry: value}))


def test_deep_and_packed_files_are_refused(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(CheckpointError, match="no entry with named tensors"):
        load_model(save(tmp_path / "deep.pt", deep))
    with pytest.raises(CheckpointError, match="another version"):
        load_model(save(tmp_path / "deep.pt", {"a": torch.zeros(1)}, config={"name": "ours", "hiera": deep}))
    save(tmp_path / "plain.pt", {"a": torch.zeros(10_000_000)})
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="can't be read as a checkpoint"):
        load_model(tmp_path / "packed.pt")


def test_an_older_pytorch_reads_no_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "tiny.pt", official("tiny", "2.1"))
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a foreign file was read"))
    with pytest.raises(CheckpointError, match=r"reading it with PyTorch 2\.9\.1.* could run code; accepted: embedded"):
        load_model(path)
    monkeypatch.undo()
    for version in ("2.10.0", "2.10.0+cu130", "2.13.1"):
        monkeypatch.setattr(torch, "__version__", version)
        load_model(path)
    monkeypatch.setattr(torch, "__version__", "2.5.0")
    load_model("embedded")
    ours = Checkpoint("tiny.pt", "", path.stat().st_size, file_sha256(path))
    monkeypatch.setitem(CHECKPOINTS, "tiny", ours)
    load_model(path)


def test_a_file_here_comes_before_a_downloaded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path / "cache"))
    downloaded = checkpoint_path("tiny")
    downloaded.parent.mkdir(parents=True)
    downloaded.touch()
    monkeypatch.chdir(tmp_path)
    assert find_weights("tiny") == downloaded
    (tmp_path / "tiny").touch()
    assert find_weights("tiny").resolve() == tmp_path / "tiny"
