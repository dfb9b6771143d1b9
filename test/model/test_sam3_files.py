"""Files of SAM 3 are recognised in every layout, only what the tracker needs is used, and bad ones are named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sam2_reference import draw_weights
from sam3_reference import SIZE, WINDOW, build_drawn
from torch import Tensor

from sam2_ros.model import CheckpointError, ModelConfig, Sam2Model, load_model
from sam2_ros.model.config import SAM3, RotaryViTConfig, official_config
from sam2_ros.model.safetensors_file import read_safetensors

SMALL = replace(SAM3, rotary_vit=RotaryViTConfig(128, 8, 592, WINDOW), image_size=SIZE)
BACKBONE = "detector.backbone.vision_backbone"


@pytest.fixture(scope="module")
def ours() -> dict[str, Tensor]:
    """Drawn weights by our names."""
    model = Sam2Model(SMALL)
    draw_weights(model)
    return model.state_dict()


@pytest.fixture
def theirs(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same as the authors' file has it, with a little of everything that the tracker does not need."""
    prefixes = {
        "image_encoder.trunk": f"{BACKBONE}.trunk", "image_encoder.neck.convs": f"{BACKBONE}.sam2_convs",
        "memory_attention": "tracker.transformer.encoder", "memory_encoder": "tracker.maskmem_backbone",
    }  # fmt: skip
    state: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        prefix = next((each for each in prefixes if name.startswith(f"{each}.")), "")
        kind = "fc" if prefix == "image_encoder.trunk" else "lin"
        end = name.removeprefix(prefix).removeprefix(".")
        if ".mlp.layers." in name:
            end = end.replace(".mlp.layers.0.", f".mlp.{kind}1.").replace(".mlp.layers.1.", f".mlp.{kind}2.")
        if name.endswith("trunk.pos_embed"):
            tensor = torch.cat((torch.full_like(tensor[:, :1], 9.0), tensor), dim=1)  # the class token's comes first
        state[f"{prefixes.get(prefix, 'tracker')}.{end}"] = tensor
    return state | {
        f"{BACKBONE}.trunk.blocks.0.attn.freqs_cis": torch.zeros(WINDOW**2, 32, dtype=torch.complex64),
        f"{BACKBONE}.sam2_convs.3.conv_1x1.weight": torch.zeros(256, 128, 1, 1),
        f"{BACKBONE}.convs.0.conv_1x1.weight": torch.zeros(256, 32, 1, 1),
        "detector.backbone.language_backbone.encoder.ln_final.weight": torch.full((8,), torch.nan),
        "detector.transformer.decoder.query_embed.weight": torch.zeros(200, 256),
    }


def write_safetensors(path: Path, state: dict[str, Tensor], **changes: Any) -> Path:
    """A file in that format; ``changes`` go to the header's entry of the first tensor."""
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    for name, tensor in state.items():
        data = bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())
        begin = sum(map(len, blocks))
        entry = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, begin + len(data)]}
        header[name] = entry | (changes if not blocks else {})
        blocks.append(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blocks))
    return path


def assert_loaded(model: Sam2Model, expected: dict[str, Tensor]) -> None:
    loaded = model.state_dict()
    assert loaded.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(loaded[name], value)] == []


def test_the_authors_file(tmp_path: Path, ours: dict[str, Tensor], theirs: dict[str, Tensor], said: list[str]) -> None:
    torch.save(theirs, tmp_path / "sam3.pt")
    model = load_model(tmp_path / "sam3.pt")
    assert model.config == SMALL
    assert_loaded(model, ours)
    assert said[-1] == "SAM 3: only its tracker is used"


@pytest.mark.parametrize("whole", [True, False], ids=["whole model", "tracker"])
def test_hugging_faces_file(tmp_path: Path, said: list[str], whole: bool) -> None:
    """Of a model that keeps its numbers in bfloat16."""
    state = {name: tensor.bfloat16() for name, tensor in build_drawn().state_dict().items()}
    torch.save(state, tmp_path / "tracker.pt")
    expected = load_model(tmp_path / "tracker.pt").state_dict()
    if whole:
        places = {"vision_encoder.backbone.": "detector_model.", "vision_encoder.neck.": ""}
        state = {
            next((to for start, to in places.items() if name.startswith(start)), "tracker_model.") + name: tensor
            for name, tensor in state.items()
        }
        state = {name.replace("vision_encoder.neck.", "tracker_neck."): tensor for name, tensor in state.items()}
        state["detector_model.text_encoder.text_model.embeddings.position_ids"] = torch.arange(32)
    assert_loaded(load_model(write_safetensors(tmp_path / "model.safetensors", state)), expected)
    assert said[-1] == "SAM 3: only its tracker is used"


def test_the_real_size() -> None:
    """1008 pixels are three windows of 24 patches of 14 pixels; the trunk has 446 million weights."""
    config = official_config("sam3")
    assert (config.image_size, config.grid, config.mask_size, config.memory_tokens) == (1008, 72, 1152, 5184)
    with torch.device("meta"):
        trunk: Any = Sam2Model(config).image_encoder.get_submodule("trunk")
    assert sum(weight.numel() for weight in trunk.parameters()) == 446_236_672
    assert [index for index, block in enumerate(trunk.blocks) if not block.window] == [7, 15, 23, 31]


@pytest.mark.parametrize("size", [1000, 14])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size is {size}; accepted: multiples of 14 from 28 on"):
        ModelConfig("sam3", trunk="sam3", image_size=size)


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def with_(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda state: [state.pop(name) for name in list(state) if name.startswith("tracker.")],
            r"a file of SAM 3 without its tracker; accepted: sam3\.pt",
        ),
        (without("tracker.no_obj_ptr"), r"does not fit sam3: tensor 'no_obj_ptr' \(1, 256\) is missing"),
        (without(f"{BACKBONE}.trunk.pos_embed"), "tensor 'image_encoder.trunk.pos_embed' is missing"),
        (without(f"{BACKBONE}.sam2_convs.1.dconv_2x2.bias"), r"'image_encoder.neck.convs.1.dconv_2x2.bias' .* missing"),
        (with_("tracker.cond_frame_obj_ptr_embedding", torch.zeros(1, 256)), r"embedding' \(1, 256\) is unexpected"),
        (with_("tracker.no_obj_ptr", torch.zeros(256)), r"'no_obj_ptr' has shape \(256,\), expected \(1, 256\)"),
        (with_("tracker.no_obj_ptr", torch.full((1, 256), torch.nan)), "'no_obj_ptr' holds 256 values that are NaN"),
        (with_(f"{BACKBONE}.trunk.pos_embed", torch.zeros(1, 17, 96)), "width is 96; accepted: multiples of 64"),
        (with_(f"{BACKBONE}.trunk.blocks.0.mlp.fc1.weight", torch.zeros(5)), "is missing or has not 2 axes"),
        (with_(f"{BACKBONE}.trunk.blocks.9.norm1.bias", torch.zeros(5)), "depth is 9; accepted: multiples of 4"),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, theirs: dict[str, Tensor], change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    change(theirs)
    torch.save(theirs, tmp_path / "sam3.pt")
    with pytest.raises(CheckpointError, match=problem) as raised:
        load_model(tmp_path / "sam3.pt")
    assert "sam3.pt" in str(raised.value) and "\n" not in str(raised.value)


def test_a_network_of_another_size_is_refused_before_it_is_built(tmp_path: Path, theirs: dict[str, Tensor]) -> None:
    """This one would take 100 GB."""
    wide = torch.zeros(()).expand(1, 1 + WINDOW**2, 4096)
    theirs[f"{BACKBONE}.trunk.pos_embed"] = wide
    theirs |= {f"{BACKBONE}.trunk.blocks.{index}.norm1.bias": torch.zeros(1) for index in range(128)}
    torch.save(theirs, tmp_path / "sam3.pt")
    with pytest.raises(
        CheckpointError, match=r"does not fit sam3: tensor 'image_encoder.trunk.patch_embed.proj.weight'"
    ):
        load_model(tmp_path / "sam3.pt")


QUERIES = "vision_encoder.backbone.layers.0.attention.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        # Joined, these would take 2 GiB, 12 TiB and nothing.
        (QUERIES, torch.zeros(1).expand(1 << 14, 1 << 15), r"its tensors have 22\d+ bytes, but the file has \d+;"),
        (QUERIES, torch.zeros(1).expand(1 << 20, 1 << 20), r"it holds 1099\d+ numbers; accepted: up to 1073741824"),
        (QUERIES, torch.zeros(128, 7), "tensors that belong together have sizes that do not fit"),
        ("prompt_encoder.point_embed.weight", torch.tensor(1.0), "tensors that belong together have sizes that do not"),
        (QUERIES, torch.zeros(128, 128, dtype=torch.int64), "is torch.int64.*; accepted: dense numbers of float32"),
    ],
    ids=["expanded", "huge", "widths", "no axes", "whole numbers"],
)
def test_tensors_are_checked_before_they_are_joined(tmp_path: Path, name: str, value: Tensor, problem: str) -> None:
    state = build_drawn().state_dict()
    assert name in state
    torch.save(state | {name: value}, tmp_path / "tracker.pt")
    with pytest.raises(CheckpointError, match=problem):
        load_model(tmp_path / "tracker.pt")


def test_two_position_codes_of_points_are_refused(tmp_path: Path) -> None:
    state = build_drawn().state_dict()
    state["shared_image_embedding.positional_embedding"] = torch.zeros(2, 128)
    torch.save(state, tmp_path / "tracker.pt")
    with pytest.raises(CheckpointError, match=r"'shared_image_embedding.positional_embedding' and .* differ"):
        load_model(tmp_path / "tracker.pt")


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "F8"},
        {"shape": [3]},
        {"shape": [-2, -1]},
        {"data_offsets": [0, 80]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [8, 16]},  # those of the other tensor
        {"shape": None},
    ],
)
def test_a_damaged_safetensors_file_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": torch.zeros(2), "b": torch.zeros(2)}, **changes)
    with pytest.raises(CheckpointError, match=r"model\.safetensors can't be read as a checkpoint: it is damaged"):
        load_model(path)


def test_a_safetensors_file_that_is_cut_off_is_named(tmp_path: Path, theirs: dict[str, Tensor]) -> None:
    state = {name: tensor for name, tensor in theirs.items() if not tensor.is_complex()}
    path = write_safetensors(tmp_path / "model.safetensors", state)
    whole = path.read_bytes()
    for size in (len(whole) - 1, 200):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors can't be read as a checkpoint"):
            load_model(path)


def test_a_safetensors_file_may_be_cut_while_and_after_it_is_read(tmp_path: Path) -> None:
    """Whoever reads a mapping of it is killed by the system. Only the tensors that are needed are read."""
    numbers = torch.arange(1_000_000.0)
    path = write_safetensors(tmp_path / "model.safetensors", {"a": torch.zeros(2), "b": numbers})
    found = read_safetensors(path, lambda names: [name for name in names if name == "b"], 1_000_000)
    os.truncate(path, 0)
    assert list(found) == ["b"] and torch.equal(found["b"], numbers)

    def cutting(names: Iterable[str]) -> Iterable[str]:
        os.truncate(path, 1_000_000)
        return names

    write_safetensors(path, {"b": numbers})
    with pytest.raises(ValueError, match="it holds more than 999999 numbers"):
        read_safetensors(path, lambda names: names, 999_999)
    with pytest.raises(ValueError, match="it became shorter while it was read"):
        read_safetensors(path, cutting, 1_000_000)
