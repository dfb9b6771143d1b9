"""Tracks a recording again: the same images, and the prompts as they were applied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sam2_ros.inference import commands
from sam2_ros.inference.backend import Backend
from sam2_ros.ros import prompt_messages
from sam2_ros.ros.image_conversion import decode_compressed, to_rgb
from sam2_ros.ros.messages import full_mask, to_stamp
from sam2_ros.ros.recording_file import PromptCall, RecordedFrame
from sam2_ros.tracking.types import BoolMask, PromptError, PromptRequest

Masks = dict[int, BoolMask]  # full masks, bool [H, W], by the recorded object's id


@dataclass
class Comparison:
    """How the masks of a replay compare with the recorded ones."""

    frames: int = 0
    masks: int = 0
    same: int = 0
    lowest: float = 1.0  # IoU

    def add(self, masks: Masks, recorded: Masks) -> None:
        """A frame's masks; one that is missing on one side has IoU 0."""
        self.frames += 1
        both = masks.keys() & recorded.keys()
        ious = [0.0] * len(masks.keys() ^ recorded.keys())
        for ours, theirs in ((masks[object_id], recorded[object_id]) for object_id in both):
            union = int((ours | theirs).sum())
            ious.append(int((ours & theirs).sum()) / union if union else 1.0)
        self.masks += len(ious)
        self.same += ious.count(1.0)
        self.lowest = min([self.lowest, *ious])

    def __str__(self) -> str:
        same = f"{self.same} of {self.masks} masks in {self.frames} frames are the same, pixel for pixel"
        return same if self.same == self.masks else f"{same}; the lowest IoU is {self.lowest:.4f}"


def replay(frames: Iterable[RecordedFrame], backend: Backend) -> Iterator[tuple[Masks, Masks]]:
    """For every frame the masks of the replay and the recorded ones."""
    ids: dict[int, int] = {}  # recorded -> replayed
    for frame in frames:
        image = frame.image
        rgb = decode_compressed(image.data, image.format) if hasattr(image, "format") else to_rgb(image)
        masks = {obj.object_id: obj.mask.full() for obj in backend.step(rgb, frame.stamp).objects}
        for call in frame.calls:
            _repeat(backend, call, ids)
            # A frame's tracks are published once more after a prompt; an object that is removed stays in them.
            if (corrected := backend.objects()) is not None:
                masks |= {obj.object_id: obj.mask.full() for obj in corrected.objects}
        recorded = {obj.id: full_mask(obj.mask) for obj in frame.tracks.objects if obj.id in ids}
        yield {old: masks[new] for old, new in ids.items() if old in recorded and new in masks}, recorded


def _repeat(backend: Backend, call: PromptCall, ids: dict[int, int]) -> None:
    request, response = call.request, call.response

    def renumbered(prompt: PromptRequest | PromptError) -> PromptRequest | PromptError:
        if isinstance(prompt, PromptRequest) and prompt.object_id is not None:
            return replace(prompt, object_id=ids.get(prompt.object_id, prompt.object_id))
        return prompt

    def name_or_id() -> str:
        recorded = str(request.object_id)
        return str(ids.get(int(recorded), recorded)) if recorded.isdecimal() else recorded

    if call.service == "AddObjects":
        for prompt, result in zip(prompt_messages.from_add_objects(request), response.results, strict=True):
            if result.success:
                (answer,) = commands.add(backend, [renumbered(prompt)], to_stamp(result.applied_stamp))
                ids[result.object_id] = answer.object_id
    elif not response.success:
        return
    elif call.service == "RefineObject":
        prompt = renumbered(prompt_messages.from_prompt(request.prompt))
        commands.refine(backend, prompt, to_stamp(response.result.applied_stamp))
    elif call.service == "RemoveObject":
        commands.remove(backend, name_or_id())
    elif call.service == "RenameObject":
        commands.rename(backend, name_or_id(), request.name, request.label)
    elif call.service == "Reset":
        backend.reset()
