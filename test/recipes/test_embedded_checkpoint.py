"""The checkpoint that ships with the package, and the agreement of training and tracking."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recipes.embedded.rollout import prompt_frame, track_frame
from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.model import Sam2Model, load_model
from sam2_ros.model.weight_files import EMBEDDED
from sam2_ros.tracking import Prompt, PromptRequest, Tracker, TrackerConfig
from sam2_ros.training.rollout import FramePrompt, Memory

SIDE = 448


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return load_model("embedded")


def two_movers(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """``[T, S, S, 3]`` frames and ``[T, S, S]`` labels: a striped disc (1) goes right, a dotted square (2) down."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(60, 120, (1, 3, 12, 12))).float()
    background = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[0].permute(1, 2, 0).numpy()
    y, x = np.mgrid[:SIDE, :SIDE]
    frames, labels = [], []
    for t in range(steps):
        frame, label = background.copy(), np.zeros((SIDE, SIDE), np.uint8)
        cx, cy = 110 + 12 * t, 120
        disc = (x - cx) ** 2 + (y - cy) ** 2 < 60**2
        frame[disc] = np.where((((x - cx) // 12) % 2 == 0)[disc][:, None], (220, 60, 40), (240, 200, 60))
        label[disc] = 1
        left, top = 270, 200 + 8 * t
        square = (x >= left) & (x < left + 110) & (y >= top) & (y < top + 110)
        dots = ((x - left) % 22 - 11) ** 2 + ((y - top) % 22 - 11) ** 2 < 36
        frame[square] = np.where(dots[square][:, None], (240, 240, 240), (30, 60, 170))
        label[square] = 2
        frames.append(frame.clip(0, 255).astype(np.uint8))
        labels.append(label)
    return np.stack(frames), np.stack(labels)


def test_file_is_small_enough_for_the_package() -> None:
    assert EMBEDDED.stat().st_size <= 32_000_000


@pytest.mark.parametrize("kind", ["mask", "box", "click"])
def test_follows_the_object_that_was_meant(model: Sam2Model, kind: str) -> None:
    frames, labels = two_movers(5)
    tracker = Tracker(model, TrackerConfig(window="off"))
    tracker.step(frames[0], 0)
    prompts = {
        "mask": [Prompt(mask=labels[0] == value) for value in (1, 2)],
        "box": [Prompt(box=np.array(box, np.float32)) for box in ((50, 60, 170, 180), (270, 200, 380, 310))],
        "click": [
            Prompt(points=np.array([point], np.float32), labels=np.array([1], np.int32))
            for point in ((110, 120), (325, 255))
        ],
    }[kind]
    answers = tracker.add([PromptRequest(prompt) for prompt in prompts])
    assert [answer.message for answer in answers if not answer.success] == []
    for t in range(1, len(frames)):
        result = tracker.step(frames[t], t)
        for value, answer in enumerate(answers, start=1):
            assert jaccard(result.object(answer.object_id).mask.full(), labels[t] == value) > 0.7


def test_training_rolls_out_what_the_tracker_does(model: Sam2Model) -> None:
    frames, labels = two_movers(4)
    mask = labels[0] == 1
    # Recognition judges by more than the network's score.
    tracker = Tracker(model, TrackerConfig(window="off", recognition=False, edges="off"))
    tracker.step(frames[0], 0)
    (answer,) = tracker.add([PromptRequest(Prompt(mask=mask))])
    memory = Memory(model)
    with torch.no_grad():
        for t, frame in enumerate(frames):
            features = model.encode_image(model.preprocess(torch.from_numpy(frame)))
            if t == 0:
                prompt_frame(model, memory, features, FramePrompt(mask=torch.from_numpy(mask)[None, None].float()))
                continue
            output = track_frame(model, memory, features)
            mine = F.interpolate(output.logits, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0] > 0
            theirs = tracker.step(frame, t).object(answer.object_id)
            assert jaccard(mine.numpy(), theirs.mask.full()) > 0.99  # the tracker keeps its memory in bfloat16
            assert output.decoded is not None
            assert theirs.object_score == pytest.approx(float(output.decoded.object_score), abs=0.1)
