"""EdgeTAM and EfficientTAM track as the authors' networks do, frame by frame, by the engine that tracks with SAM 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from edge_references import build_pair
from sam2_reference import SCORE_BIAS, changed, difference
from torch import Tensor
from video_reference import (
    EVENTS,
    GAIN,
    SCORE_SHIFT,
    SHIFTS,
    TOLERANCE,
    Pair,
    Prompt,
    Rgb,
    back_and_forth,
    config_for,
    run_tracker,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*sdp_kernel")  # which the references use
SIZE, FRAMES = 256, 14


@torch.no_grad()
def run_reference(pair: Pair, frames: list[Rgb]) -> dict[tuple[int, int], Tensor]:
    """Low-resolution logits by frame and object. The authors' step, with memories in bfloat16, as their predictors
    keep them."""
    network, (height, width) = pair.reference, frames[0].shape[:2]
    found: dict[tuple[int, int], Tensor] = {}
    stored: dict[int, Any] = {}
    for frame, rgb in enumerate(frames):
        image = pair.ours.preprocess(torch.from_numpy(rgb))
        _, features, positions, sizes = network._prepare_backbone_features(network.forward_image(image))
        for event in (event for event in EVENTS if event.frame <= frame):
            first = event.frame == frame
            own = stored.setdefault(event.object_id, {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}})
            with pair.score_bias(SHIFTS.get(frame, 0.0)):
                out = network.track_step(
                    frame_idx=frame, is_init_cond_frame=first, current_vision_feats=features,
                    current_vision_pos_embeds=positions, feat_sizes=sizes, mask_inputs=None, output_dict=own,
                    point_inputs=points_of(event.prompt, width, height) if first else None, num_frames=FRAMES + 16,
                )  # fmt: skip
            out["maskmem_features"] = out["maskmem_features"].to(torch.bfloat16)
            own["cond_frame_outputs" if first else "non_cond_frame_outputs"][frame] = out
            found[frame, event.object_id] = out["pred_masks"][0]
    return found


def points_of(prompt: Prompt, width: int, height: int) -> dict[str, Tensor]:
    if prompt.box is not None:
        points, labels = prompt.box.reshape(2, 2), np.array([2, 3])
    else:
        assert prompt.points is not None and prompt.labels is not None
        points, labels = prompt.points, prompt.labels
    scaled = torch.from_numpy(points) / torch.tensor([width, height]) * SIZE
    return {"point_coords": scaled[None], "point_labels": torch.from_numpy(labels.astype(np.int32))[None]}


@pytest.mark.parametrize("name", ["edgetam", "efficienttam_ti"])
def test_a_clip(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Memories fill up, the older prompt stays, and one object comes late."""
    built = build_pair(name, SIZE, tmp_path_factory.mktemp("weights"), seed=1, gain=GAIN)
    pair, frames = Pair(built.reference, built.model), back_and_forth(FRAMES)
    with changed((pair.ours, pair.reference), {SCORE_BIAS: pair.ours.state_dict()[SCORE_BIAS] + SCORE_SHIFT}):
        expected = run_reference(pair, frames)
        ours = run_tracker(pair, frames, EVENTS, config_for(post=False), SHIFTS)
    got = {(frame, object_id): output.logits for (frame, object_id, _), output in ours.items()}
    assert got.keys() == expected.keys()
    absent = [key for key, logits in expected.items() if (logits == -1024).all()]
    assert len(absent) == len(SHIFTS) * len(EVENTS)
    shown = [float((logits > 0).float().mean()) for key, logits in expected.items() if key not in absent]
    assert 0.05 < np.median(shown) < 0.95, shown
    differences = {key: difference(got[key], logits) for key, logits in expected.items()}
    assert max(differences.values()) <= TOLERANCE, differences
