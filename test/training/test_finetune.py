"""Training of any model: same seed, same weights; what is frozen stays; what is trained is reached."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import CONFIG, SIZE, TINYVIT, coco, davis, small_checkpoint

from sam2_ros.model import ModelConfig, Sam2Model, load_model
from sam2_ros.model.config import HIERA
from sam2_ros.model.layers import LayerNorm2d
from sam2_ros.training.distributed import World
from sam2_ros.training.finetune import ClipTraining, open_source, save_checkpoint, starting_model
from sam2_ros.training.options import PARTS, TrainOptions, options_from
from sam2_ros.training.parts import encoder_depths, part_of, trainable_groups


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    davis(root / "davis", absent=True)
    coco(root / "coco")
    small_checkpoint(root)
    return root


def options(inputs: Path, out: Path, **more: Any) -> TrainOptions:
    given = {
        "data": [inputs / "davis", inputs / "coco"], "model": inputs / "small.pt", "out": out, "clip_length": 3,
        "clips": 1, "steps": 4, "lr": 1e-3, "warmup": 1, "dtype": "float32", "clicks": 2,
    }  # fmt: skip
    return options_from(given | more)


def training(chosen: TrainOptions) -> ClipTraining:
    model = starting_model(chosen, torch.device("cpu"))
    source = open_source(chosen, SIZE, World())
    return ClipTraining(model, chosen, source, bfloat16=chosen.dtype == "bfloat16", world=World())


def weights(one: ClipTraining) -> dict[str, torch.Tensor]:
    found = {f"model.{name}": value.clone() for name, value in one.model.state_dict().items()}
    return found | {f"average.{name}": value.clone() for name, value in one.average.state_dict().items()}


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> Iterable[str]:
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


@pytest.mark.parametrize("more", [{}, {"dtype": "bfloat16", "checkpointing": True}], ids=["float32", "bfloat16"])
def test_same_seed_same_weights_also_when_interrupted(inputs: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    whole = training(options(inputs, tmp_path / "whole", **more))
    for _ in range(4):
        whole.train_step()
    begun = training(options(inputs, tmp_path / "parts", **more))
    for _ in range(2):
        begun.train_step()
    begun.save()
    halfway = weights(begun)
    resumed = training(options(inputs, tmp_path / "parts", workers=1, **more))
    assert resumed.step == 2 and not differing(weights(resumed), halfway)
    for _ in range(2):
        resumed.train_step()
    assert not differing(weights(resumed), weights(whole))
    assert differing(halfway, weights(whole))


def test_another_seed_gives_other_weights(inputs: Path, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        one = training(options(inputs, tmp_path / str(seed), seed=seed))
        one.train_step()
        found.append(weights(one))
    assert differing(*found)


def test_a_state_of_another_training_is_refused(inputs: Path, tmp_path: Path) -> None:
    begun = training(options(inputs, tmp_path))
    begun.save()
    with pytest.raises(ValueError, match=r"--lr 0\.001, now it is 0\.002; resume with the same options"):
        training(options(inputs, tmp_path, lr=2e-3))
    assert training(options(inputs, tmp_path, lr=2e-3, resume="never")).step == 0
    assert training(options(inputs, tmp_path, save_every=7)).step == 0


@pytest.mark.parametrize("frozen", [["encoder"], ["memory", "prompts"]])
def test_frozen_parts_stay_and_the_others_are_reached(inputs: Path, tmp_path: Path, frozen: list[str]) -> None:
    one = training(options(inputs, tmp_path, freeze=frozen, clip_length=4, clips=2))
    before = {name: value.clone() for name, value in one.model.named_parameters()}
    reached: set[str] = set()
    for _ in range(4):
        one.train_step()
        reached |= {name for name, p in one.model.named_parameters() if p.grad is not None and p.grad.any()}
    moved = {name for name, value in one.model.named_parameters() if not torch.equal(value, before[name])}
    assert not [name for name in moved if part_of(name) in frozen]
    for part in set(PARTS) - set(frozen):
        names = {name for name in before if part_of(name) == part and name != "no_mem_pos_enc"}
        # Rows of the memory's codes and kinds of points that these few clips do not use are not reached.
        assert len(names & moved) > 0.9 * len(names), sorted(names - moved)
        assert len(names & reached) > 0.9 * len(names), sorted(names - reached)
    averaged = dict(one.average.named_parameters())
    name = "sam_mask_decoder.iou_token.weight"
    assert not torch.equal(averaged[name], before[name]) and not torch.equal(
        averaged[name], one.model.get_parameter(name)
    )


@pytest.mark.parametrize("config", [CONFIG, TINYVIT], ids=["hiera", "tinyvit"])
def test_encoder_blocks_learn_slower_the_earlier_they_are(config: ModelConfig) -> None:
    model = Sam2Model(config)
    depths = encoder_depths(model)
    for name, depth in depths.items():
        assert (depth == 0) == (".neck." in name)
        assert (depth == max(depths.values())) == ("embed" in name)
    assert len(set(depths.values())) == max(depths.values()) + 1
    groups = trainable_groups(model, (), rate=1.0, encoder_rate=0.5, layer_decay=0.5, weight_decay=0.1)
    rates = {id(p): (group["rate"], group["weight_decay"]) for group in groups for p in group["params"]}
    named = dict(model.named_parameters())
    first = next(name for name in depths if "patch_embed" in name and name.endswith("weight"))
    assert rates[id(named[first])][0] == 0.5 ** (max(depths.values()) + 1)
    assert rates[id(named["memory_attention.layers.0.linear1.weight"])] == (1.0, 0.1)
    assert rates[id(named["memory_attention.layers.0.linear1.bias"])] == (1.0, 0.0)
    assert rates[id(named["sam_mask_decoder.mask_tokens.weight"])] == (1.0, 0.0)
    assert id(named["no_mem_pos_enc"]) not in rates and len(rates) == len(named) - 1


def test_checkpoints_say_what_the_layout_does_not(tmp_path: Path) -> None:
    official = ModelConfig("sam2.1_hiera_tiny", hiera=HIERA["tiny"])
    for config, said in ((official, False), (CONFIG, True)):
        model = Sam2Model(config)
        save_checkpoint(model, tmp_path / "checkpoint.pt")
        content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert ("config" in content) is said
        loaded = load_model(tmp_path / "checkpoint.pt")
        assert loaded.config == config
        assert torch.equal(loaded.no_obj_ptr, model.no_obj_ptr)


def test_random_initialisation_takes_the_sizes_only(inputs: Path, tmp_path: Path) -> None:
    chosen = options(inputs, tmp_path, init="random", size=96, seed=5)
    first, again = (starting_model(chosen, torch.device("cpu")) for _ in range(2))
    assert first.config.image_size == 96 and first.config.hiera == CONFIG.hiera
    given = load_model(inputs / "small.pt").state_dict()
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.state_dict()["mask_downsample.weight"], given["mask_downsample.weight"])


def test_options_say_what_is_accepted() -> None:
    fine = {"data": "d", "out": "o"}
    assert options_from({**fine, "prompts": "mask=1,box=0"}).prompts == {"mask": 1.0, "box": 0.0}
    assert options_from({**fine, "encoder-lr": None, "warmup": 3}).warmup_steps() == 3
    for wrong, message in (
        ({"clip_length": 1}, "--clip-length is 1; accepted: 2 to 64"),
        (
            {"freeze": ["head"]},
            "--freeze 'head' is no part of the network; accepted: encoder, prompts,",
        ),
        ({"dtype": "float16"}, "--dtype is 'float16'; accepted: auto, float32, bfloat16"),
        ({"prompts": "mask"}, "--prompts is 'mask'; accepted: name=share"),
        ({"prompts": {"scribble": 1}}, "accepted: shares from 0 on, not all 0, for mask, box, click"),
        ({"steps": 1.5}, "--steps is 1.5; accepted: int"),
        ({"shares": [1, 2]}, "does not fit 1 data sets"),
        ({"learning_rate": 1}, "there is no option 'learning_rate'; accepted: data, out"),
        ({"out": ""}, "--out is missing"),
    ):
        with pytest.raises(ValueError) as error:
            options_from(fine | wrong)
        assert message in str(error.value)


def test_layer_norm_over_few_channels_is_the_same_with_gradients() -> None:
    torch.manual_seed(0)
    norm = LayerNorm2d(4)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        wanted = norm(x)
    torch.testing.assert_close(norm(x.requires_grad_()), wanted)
