"""EdgeTAM and EfficientTAM track as the authors' networks do, frame by frame, by the engine that tracks with SAM 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from edge_references import build_pair
from sam2_reference import SCORE_BIAS, changed
from torch import Tensor
from video_reference import (
    EVENTS,
    GAIN,
    SCORE_SHIFT,
    SHIFTS,
    Pair,
    Rgb,
    assert_tracks_as,
    back_and_forth,
    config_for,
    points_of,
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
            points, labels = points_of(event.prompt, SIZE, width, height)
            prompted = {"point_coords": points[None], "point_labels": labels[None]}
            first = event.frame == frame
            own = stored.setdefault(event.object_id, {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}})
            with pair.score_bias(SHIFTS.get(frame, 0.0)):
                out = network.track_step(
                    frame_idx=frame, is_init_cond_frame=first, current_vision_feats=features,
                    current_vision_pos_embeds=positions, feat_sizes=sizes, mask_inputs=None, output_dict=own,
                    point_inputs=prompted if first else None, num_frames=FRAMES + 16,
                )  # fmt: skip
            out["maskmem_features"] = out["maskmem_features"].to(torch.bfloat16)
            own["cond_frame_outputs" if first else "non_cond_frame_outputs"][frame] = out
            found[frame, event.object_id] = out["pred_masks"][0]
    return found


@pytest.mark.parametrize("name", ["edgetam", "efficienttam_ti"])
def test_a_clip(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Memories fill up, the older prompt stays, and one object comes late."""
    built = build_pair(name, SIZE, tmp_path_factory.mktemp("weights"), seed=1, gain=GAIN)
    pair, frames = Pair(built.reference, built.model), back_and_forth(FRAMES)
    with changed((pair.ours, pair.reference), {SCORE_BIAS: pair.ours.state_dict()[SCORE_BIAS] + SCORE_SHIFT}):
        expected = run_reference(pair, frames)
        ours = run_tracker(pair, frames, EVENTS, config_for(post=False), SHIFTS)
    assert_tracks_as(ours, expected)
