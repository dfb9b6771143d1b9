"""Feature store, roll-out and training loop of the embedded recipe, on a network of full width and small images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.embedded.features import FeatureStore, normalise
from recipes.embedded.initialise import deepened, embedded_config
from recipes.embedded.rollout import roll_out
from recipes.embedded.sampler import Sampler, Source, disturb_masks
from recipes.embedded.trainer import Phase, Schedule, Trainer, clip_loss
from sam2_ros.model.network import ImageFeatures
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.model.tinyvit import TinyViTEncoder
from sam2_ros.training.clips import Clip
from sam2_ros.training.rollout import FramePrompt

SIZE = 64


def moving_square(steps: int = 6) -> Clip:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 80, (1, SIZE, SIZE, 3), dtype=np.uint8), steps, axis=0)
    labels = np.zeros((steps, SIZE, SIZE), np.uint8)
    for t in range(steps):
        frames[t, 20:44, 10 + 4 * t : 34 + 4 * t] = 220
        labels[t, 20:44, 10 + 4 * t : 34 + 4 * t] = 1
    return Clip("square", frames, labels)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    torch.manual_seed(0)
    encoder = TinyViTEncoder().eval()
    clip = moving_square()
    return FeatureStore.build(tmp_path_factory.mktemp("features"), [clip], 6, SIZE, encoder, torch.float32)


def test_store_gives_back_what_the_encoder_said(store: FeatureStore) -> None:
    torch.manual_seed(0)
    encoder = TinyViTEncoder().eval()
    clip = moving_square()
    with torch.no_grad():
        wanted = encoder(normalise(clip.frames[3:4], torch.float32))
    frame = store[3]
    for found, map_ in zip((frame.stride_4, frame.stride_8, frame.stride_16), wanted, strict=True):
        assert (found - map_).abs().max() < 0.02 * map_.abs().max()
    assert np.array_equal(frame.labels, clip.labels[3])


def test_disturbed_share_of_the_masks_is_spoilt() -> None:
    target = torch.zeros(400, 1, 32, 32)
    target[..., 8:24, 8:24] = 1
    logits = target * 20 - 10
    spoilt = disturb_masks(logits, np.random.default_rng(0), 0.5)
    changed = (spoilt != logits).flatten(1).any(dim=1)
    assert 0.4 < changed.float().mean() < 0.6
    sizes = (spoilt[changed] > 0).flatten(1).sum(dim=1)
    assert (sizes < 256).any() and (sizes > 256).any() and (sizes == 0).any()
    assert torch.equal(disturb_masks(logits, np.random.default_rng(0), 0.0), logits)


def test_clips_with_a_hidden_object_are_drawn_more_often(tmp_path: Path) -> None:
    clip = moving_square()
    clip.labels[2] = 0
    store = FeatureStore.build(tmp_path, [clip], 6, SIZE, TinyViTEncoder().eval(), torch.float32)

    def hidden(share: float) -> int:
        sampler = Sampler([Source(store, 1.0, 1, share)], seed=0)
        return sum(any(bool((seen == 0).all()) for seen in sampler.batch(1, 2).seen) for _ in range(40))

    assert hidden(1.0) == 40 and hidden(0.0) < 20


def test_certainty_scales_the_score_in_the_loss(store: FeatureStore) -> None:
    model = Sam2Model(embedded_config(SIZE)).eval()
    batch = Sampler([Source(store, 1.0, 1)], seed=0).batch(1, 3)
    with torch.no_grad():
        assert clip_loss(model, batch, certainty=0.0)["presence"] == pytest.approx(np.log(2))
        assert clip_loss(model, batch)["presence"] != pytest.approx(np.log(2))


def make_trainer(store: FeatureStore, folder: Path, steps: int) -> Trainer:
    torch.manual_seed(0)
    model = Sam2Model(embedded_config(SIZE))
    phases = (Phase(2, clips=2, length=2), Phase(steps, clips=1, length=3))
    schedule = Schedule(phases, warmup=1, bfloat16=False, rate=2e-3, decoder_rate=1e-3)
    return Trainer(model, [Sampler([Source(store, 1.0, 1)], seed=0)], schedule, folder)


def test_training_lowers_the_loss_leaves_the_encoder_and_resumes(store: FeatureStore, tmp_path: Path) -> None:
    trainer = make_trainer(store, tmp_path, steps=40)
    encoder = {name: value.clone() for name, value in trainer.model.image_encoder.state_dict().items()}
    losses = [trainer.train_step()["mask"] for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])
    for name, value in trainer.model.image_encoder.state_dict().items():
        assert torch.equal(value, encoder[name])
    trainer.save()
    again = make_trainer(store, tmp_path, steps=40)
    assert again.step == 40
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(again.average.state_dict()[name], value)


def test_rate_0_freezes_all_that_frames_without_memory_need(store: FeatureStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sam2Model(embedded_config(SIZE))
    schedule = Schedule((Phase(2, clips=1, length=2),), warmup=1, bfloat16=False, rate=2e-3, decoder_rate=0)
    trainer = Trainer(model, [Sampler([Source(store, 1.0, 1)], seed=0)], schedule, tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train_step()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed >= {"memory_attention", "memory_encoder"}
    assert not changed & {"image_encoder", "sam_prompt_encoder", "sam_mask_decoder", "no_mem_embed", "appearance"}


def test_an_interrupted_training_ends_with_the_same_weights(store: FeatureStore, tmp_path: Path) -> None:
    whole = make_trainer(store, tmp_path / "whole", steps=4)
    for _ in range(4):
        whole.train_step()
    begun = make_trainer(store, tmp_path / "parts", steps=4)
    for _ in range(2):
        begun.train_step()
    begun.save()
    resumed = make_trainer(store, tmp_path / "parts", steps=4)
    for _ in range(2):
        resumed.train_step()
    for mine, theirs in ((resumed.model, whole.model), (resumed.average, whole.average)):
        wanted = theirs.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in mine.state_dict().items())
    assert not torch.equal(whole.model.no_obj_ptr, begun.model.no_obj_ptr) or not torch.equal(
        whole.model.no_mem_embed, begun.model.no_mem_embed
    )


def test_a_new_layer_of_memory_attention_changes_nothing_at_first_and_learns() -> None:
    torch.manual_seed(0)
    model = Sam2Model(embedded_config(SIZE)).eval()
    deeper = deepened(model, 3).eval()
    features, memory = torch.randn(1, 256, 4, 4), torch.randn(2, 8, 64)
    image = ImageFeatures(features, torch.zeros(1, 64, 8, 8), torch.zeros(1, 32, 16, 16))
    before, after = (m.with_memory(image, memory, torch.randn(2, 8, 64) * 0, 4, None) for m in (model, deeper))
    assert deeper.config.memory_layers == 3
    assert torch.equal(before, after)
    after.square().sum().backward()
    gradients = {
        name: p.grad for name, p in deeper.named_parameters() if name.endswith("cross_attn_image.out_proj.weight")
    }
    assert len(gradients) == 3 and all(g is not None and bool(g.any()) for g in gradients.values())
    with pytest.raises(ValueError, match="accepted: 3 or more"):
        deepened(deeper, 1)


def test_frames_that_lead_up_are_run_as_the_tracker_runs_them_and_cost_no_gradient() -> None:
    torch.manual_seed(0)
    model = Sam2Model(embedded_config(SIZE)).eval()
    frames = [
        ImageFeatures(torch.randn(1, 256, 4, 4), torch.randn(1, 64, 8, 8), torch.randn(1, 32, 16, 16)) for _ in range(5)
    ]
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 16:40, 16:40] = 1
    prompt = FramePrompt(mask=mask)
    disturbed: list[int] = []

    def disturb(logits: torch.Tensor) -> torch.Tensor:
        disturbed.append(len(disturbed))
        return logits

    told = [torch.zeros(1)] * 5  # "absent", which would silence the memory of every frame that listens
    plain = roll_out(model, frames, prompt)
    led = roll_out(model, frames, prompt, disturb, told, lead=3)
    for t in range(1, 5):
        mine, theirs = led[t].decoded, plain[t].decoded
        assert mine is not None and theirs is not None
        # Without gradients some products are merged, which rounds differently.
        torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-4, atol=1e-4)
        assert led[t].logits.requires_grad == (t > 3)
    assert not disturbed  # only the last frame has gradients, and it is not remembered
    last = led[4].decoded
    assert last is not None
    last.logits.square().sum().backward()
    first = next(model.memory_encoder.parameters())
    assert first.grad is not None and bool(first.grad.any())  # through the prompted frame's memory


def test_a_training_with_leading_frames_counts_only_the_others(store: FeatureStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    schedule = Schedule((Phase(20, clips=2, length=2, lead=3),), warmup=1, bfloat16=False)
    trainer = Trainer(Sam2Model(embedded_config(SIZE)), [Sampler([Source(store, 1.0, 1)], seed=0)], schedule, tmp_path)
    batches = trainer.batches(0)
    drawn = [next(batches)[0] for _ in range(12)]
    assert {batch.lead for batch in drawn} == {0, 1, 2, 3}
    assert all(len(batch.targets) == 2 + batch.lead for batch in drawn)
    led = next(batch for batch in drawn if batch.lead == 3)
    for value in led.targets[1:4]:
        value.fill_(float("nan"))  # whatever is wanted of them, it counts for nothing
    assert all(bool(loss.isfinite()) for loss in trainer.losses(led).values())
