"""Runs the network before the first frame, so that no live frame pays for one-time work."""

from __future__ import annotations

import numpy as np

from sam2_ros.allocator import reserve
from sam2_ros.model.arrays import autocast, float32, inference, module_of, repeated, trues, zeros
from sam2_ros.model.network import Reference
from sam2_ros.tracking.bank import POINTER_FRAMES
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.deadline import FEW_FRAMES, SMALLER
from sam2_ros.tracking.recognition import recognises
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.tracker import Tracker
from sam2_ros.tracking.transfer import on_device
from sam2_ros.tracking.types import Prompt, PromptRequest

RESERVE = 256 * 2**20  # bytes; the heap grows by about this much over the first thousand frames otherwise
OBJECTS_ON_CPU = 4  # most in the warm-up; with more, memory grows once when so many are first tracked


def warm_up(shared: SharedModel, config: TrackerConfig) -> None:
    """Tracks an object on a blank frame, then runs the network on the most objects with the usual and full memories.

    That prepares rounded weights, kernels and, on a GPU, library handles, and the allocator gets all that a frame takes
    at most. No state remains. Nobody else may use ``shared`` yet.
    """
    tracker = Tracker(shared.model, TrackerConfig(max_objects=1), shared.dtype, shared)
    frame = np.zeros((64, 64, 3), np.uint8)
    tracker.step(frame, 0)
    tracker.add([PromptRequest(Prompt(box=np.array([16, 16, 48, 48], np.float32)))])
    tracker.step(frame, 1)
    tracker.close()
    with on_device(shared.model.device), inference(shared.model.device):
        _work_on_most(shared, config)
    shared.capture_graphs(config)
    shared.batches.clear()
    if shared.model.device.type == "cpu":
        reserve(RESERVE)


def _work_on_most(shared: SharedModel, config: TrackerConfig) -> None:
    model = shared.model
    device, architecture = model.device, model.config
    cells, split = architecture.memory_tokens, architecture.hidden_dim // architecture.memory_dim
    recent, prompted = config.recent_slots, config.prompted_slots
    count = config.max_objects if device.type != "cpu" else min(config.max_objects, OBJECTS_ON_CPU)
    features = shared.encode(zeros((1, 3, architecture.image_size, architecture.image_size), device))
    with autocast(device, shared.dtype):
        # The most come last: what a GPU and the allocator keep then is large enough for all.
        for frames, slots in (1 + min(recent, FEW_FRAMES), 1), (1 + recent, 1), (prompted + recent, prompted):
            pointers = (slots + POINTER_FRAMES) * split
            memory = zeros((count, frames * cells + pointers, architecture.memory_dim), device)
            conditioned = model.with_memory(features, memory, memory, pointers, None)
        decoded = model.decode(conditioned, features, *model.no_prompt(count))
        present = trues(count, device)
        model.pointer(decoded.tokens[:, 0], present)
        model.encode_low_memory(features, float32(decoded.logits[:, :1]), present)
    if config.uses_windows(architecture.windows) and shared.window_side != architecture.image_size:
        side = shared.window_side
        shared.encode_several(zeros((1, 3, side, side), device), model.at(side))
    if config.deadline and model.shrinks:
        shared.encode(shared.prepared(np.zeros((64, 64, 3), np.uint8), SMALLER))
    if model.appearance is not None and features.appearance is not None and recognises(model, config):
        slots, cells = config.prompted_slots + 1, architecture.grid**2
        module, known = module_of(features.appearance), repeated(features.appearance, count)
        coverage = zeros((count, slots * cells), device)
        reference = Reference(module.concatenate([known] * slots, 1), coverage, zeros((count, slots, 1), device))
        model.appearance.match(features.appearance, reference)
    if device.type == "cuda":
        import torch

        for side in (64, architecture.image_size + 32):  # images that grow and that shrink
            model.preprocess(torch.zeros(side, side, 3, dtype=torch.uint8))
        torch.cuda.synchronize(device)
