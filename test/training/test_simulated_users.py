"""The roll-out that is trained is the tracker's, and simulated users do what users do."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from small_tracker import object_score, scene, small_model

from sam2_ros.model import Sam2Model
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig, prompt_decoder
from sam2_ros.training import interactive
from sam2_ros.training.interactive import InteractiveRollOut, keep, recompute
from sam2_ros.training.losses import frame_loss
from sam2_ros.training.options import TrainOptions
from sam2_ros.training.rollout import FrameOutput, FramePrompt
from sam2_ros.training.simulated_user import NEGATIVE, POSITIVE, Plan, correction_clicks, draw_plan

SIZE = 128


def frames(count: int) -> list[np.ndarray]:
    return [cv2.resize(scene(t), (SIZE, SIZE)).astype(np.uint8) for t in range(count)]


def squares(count: int) -> torch.Tensor:
    """Masks of two moving squares, ``[T, 2, 1, S, S]``."""
    masks = torch.zeros(count, 2, 1, SIZE, SIZE)
    for t in range(count):
        masks[t, 0, 0, 20:60, 20 + 2 * t : 60 + 2 * t] = 1
        masks[t, 1, 0, 70:110, 60 - 2 * t : 100 - 2 * t] = 1
    return masks


def run(model: Sam2Model, plan: Plan, count: int, call: interactive.Call = keep) -> list[tuple[int, FrameOutput]]:
    roll_out = InteractiveRollOut(model, call=call)
    images = torch.cat([model.preprocess(torch.from_numpy(frame)) for frame in frames(count)])
    features = roll_out.encode(images, frozen=False)
    return roll_out.run(features, list(squares(count)), plan, np.random.default_rng(0))


PLANS = [
    Plan("box", (0,), {}),
    Plan("click", (0,), {0: 2, 2: 3}),
    Plan("mask", (0, 3), {1: 1}),
    Plan("box", (0, 2), {4: 2}),
]


@pytest.mark.parametrize("plan", PLANS, ids=["box", "corrected clicks", "two masks", "two boxes"])
def test_it_is_what_the_tracker_does(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[FramePrompt] = []
    # The tracker's own rules for boxes that contradict the memory are no part of what is trained.
    monkeypatch.setattr(prompt_decoder, "BELIEVED", -1.0)

    def recorded(name: str) -> None:
        original = getattr(interactive, name)

        def call(*args: object) -> FramePrompt:
            asked.append(original(*args))
            return asked[-1]

        monkeypatch.setattr(interactive, name, call)

    recorded("make_prompt")
    recorded("correction_clicks")
    model, count = small_model(), 9  # longer than the ring of recent frames
    with torch.no_grad():
        outputs = run(model, plan, count)

    config = TrackerConfig(
        max_objects=2,
        stability_fallback=False,
        reject_strays=False,
        recognition=False,
        look_alikes=False,
    )
    tracker = Tracker(model, config, "float32")
    tracker.bank.spatial = tracker.bank.spatial.float()  # the tracker rounds its memory to bfloat16, training does not
    ids: list[int | None] = [None, None]
    wanted: list[torch.Tensor] = []

    def shown() -> torch.Tensor:
        return torch.stack([found for i in ids if i and (found := tracker._objects[i].logits) is not None]).float()

    for t, frame in enumerate(frames(count)):
        tracker.step(frame, t)
        # A frame whose mask is given is not tracked before.
        if t > 0 and not (plan.kind == "mask" and t in plan.prompted):
            wanted.append(shown())
        for _ in range((t in plan.prompted) + plan.clicks.get(t, 0)):
            given = asked.pop(0)
            answers = tracker.add([PromptRequest(as_prompt(given, b), object_id=ids[b]) for b in range(2)])
            assert all(answer.success for answer in answers)
            ids = [answer.object_id for answer in answers]
            wanted.append(shown())
    assert not asked and len(outputs) == len(wanted)
    # Rounding, 1e-6 of the largest logit; and where a prompted mask has a logit that rounding takes over 0, its memory
    # has another pixel, which is worth 5e-4.
    for (t, output), logits in zip(outputs, wanted, strict=True):
        assert (output.logits - logits).abs().max() < 1e-3 * max(1.0, float(logits.abs().max())), t


def as_prompt(given: FramePrompt, index: int) -> Prompt:
    """A prompt of the roll-out as the tracker takes it; network and image have the same size."""
    if given.mask is not None:
        return Prompt(mask=given.mask[index, 0].numpy() > 0)
    assert given.points is not None and given.labels is not None
    points, labels = given.points[index].numpy(), given.labels[index].numpy()
    if labels[0] == 2:
        return Prompt(box=points.reshape(4))
    return Prompt(points=points, labels=labels.astype(np.int32))


def gradients(model: Sam2Model, call: interactive.Call) -> dict[str, torch.Tensor]:
    model.requires_grad_(True)
    model.zero_grad()
    outputs = run(model, PLANS[1], 4, call)
    targets = squares(4)
    total = torch.zeros(())
    for t, output in outputs:
        total = total + sum(frame_loss(output, targets[t]).values())
    total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.requires_grad_(False)
    return found


def test_recomputed_activations_give_the_same_gradients_and_all_parts_receive_some() -> None:
    model = small_model()
    kept, again = gradients(model, keep), gradients(model, recompute)
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        assert torch.allclose(gradient, again[name], rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-9), name
    for part in ("image_encoder.trunk.patch_embed", "image_encoder.neck", "memory_attention", "memory_encoder",
                 "sam_mask_decoder.pred_obj_score_head", "sam_mask_decoder.iou_prediction_head", "obj_ptr_proj",
                 "sam_prompt_encoder.mask_downscaling", "sam_prompt_encoder.point_embeddings", "maskmem_tpos_enc",
                 "obj_ptr_tpos_proj", "no_mem_embed", "sam_mask_decoder.conv_s0"):  # fmt: skip
        assert any(name.startswith(part) and bool(gradient.any()) for name, gradient in kept.items()), part


def test_an_object_that_is_taken_for_absent_is_remembered_as_absent() -> None:
    model = small_model()
    with object_score(model, -5.0):
        found = gradients(model, keep)
    assert found["no_obj_ptr"].any() and found["no_obj_embed_spatial"].any()


def test_clicks_correct_errors() -> None:
    truth = np.zeros((3, 32, 32), np.bool_)
    truth[:2, 8:16, 8:16] = True
    predicted = truth.copy()
    predicted[0, :, :12] = False  # half of the first is missed
    predicted[1, 20:24, 20:24] = True  # something else is taken for the second; the third is absent, and said to be
    for seed in range(20):
        prompt = correction_clicks(predicted, truth, np.random.default_rng(seed), anywhere=0.0)
        assert prompt.points is not None and prompt.labels is not None
        (x0, y0), (x1, y1), _ = prompt.points[:, 0].int().tolist()
        assert prompt.labels[:, 0].tolist() == [POSITIVE, NEGATIVE, NEGATIVE]
        assert 8 <= x0 < 12 and 8 <= y0 < 16
        assert 20 <= x1 < 24 and 20 <= y1 < 24
    anywhere = [correction_clicks(predicted, truth, np.random.default_rng(s), anywhere=1.0).labels for s in range(5)]
    assert all(labels is not None and labels[:, 0].tolist() == [POSITIVE, POSITIVE, NEGATIVE] for labels in anywhere)


def test_plans_follow_the_options() -> None:
    visible = np.ones((8, 2), np.bool_)
    visible[4:, 1] = False
    rng = np.random.default_rng(0)
    plans = [draw_plan(TrainOptions(["data"], "out"), visible, rng) for _ in range(2000)]
    share = {kind: np.mean([plan.kind == kind for plan in plans]) for kind in ("mask", "box", "click")}
    assert abs(share["mask"] - 0.5) < 0.05 and abs(share["box"] - 0.25) < 0.05
    second = [plan.prompted[1] for plan in plans if len(plan.prompted) == 2]
    assert 800 < len(second) < 1200 and set(second) == {1, 2, 3}  # all objects are seen there
    for plan in plans:
        assert plan.prompted[0] == 0 and len(plan.clicks) <= 2
        assert all(1 <= count <= 7 for count in plan.clicks.values())
        assert plan.kind != "mask" or not set(plan.clicks) & set(plan.prompted)
    assert {len(plan.clicks) for plan in plans} == {0, 1, 2}
    assert any(0 in plan.clicks for plan in plans)
    with pytest.raises(ValueError, match="mask, box, click"):
        TrainOptions(["data"], "out", prompts={"scribble": 1.0})
