"""Tracks a recording again: the same images, and the prompts as they were applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from sam2_ros.inference import commands
from sam2_ros.inference.backend import Backend
from sam2_ros.media.errors import UserError
from sam2_ros.msg import ObjectMask
from sam2_ros.ros import prompt_messages
from sam2_ros.ros.image_conversion import decode_compressed, to_rgb
from sam2_ros.ros.messages import full_mask, to_stamp
from sam2_ros.ros.recording_reader import PromptCall, Recording
from sam2_ros.text import counted
from sam2_ros.tracking.types import BoolMask, PromptError, PromptRequest

Masks = dict[int, BoolMask]  # full masks, bool [H, W], by the recorded object's id


@dataclass
class Comparison:
    """How the masks of a replay compare with the recorded ones."""

    frames: int = 0
    masks: int = 0
    same: int = 0
    lowest: float = 1.0  # IoU
    ids: set[int] = field(default_factory=set)  # of the objects compared

    def add(self, masks: Masks, recorded: Masks) -> None:
        """A frame's masks; one that is missing on one side has IoU 0."""
        self.frames += 1
        self.ids |= masks.keys() | recorded.keys()
        both = masks.keys() & recorded.keys()
        ious = [0.0] * len(masks.keys() ^ recorded.keys())
        for ours, theirs in ((masks[object_id], recorded[object_id]) for object_id in both):
            union = int((ours | theirs).sum())
            ious.append(int((ours & theirs).sum()) / union if union else 1.0)
        self.masks += len(ious)
        self.same += ious.count(1.0)
        self.lowest = min([self.lowest, *ious])

    def __str__(self) -> str:
        among = f"{counted(self.masks, 'mask')} in {counted(self.frames, 'frame')}"
        same = f"{self.same} of {among} are the same, pixel for pixel"
        return same if self.same == self.masks else f"{same}; the lowest IoU is {self.lowest:.4f}"


def replay(recording: Recording, backend: Backend) -> Iterator[tuple[Masks, Masks]]:
    """For every frame the masks of the replay and the recorded ones.

    Raises:
        UserError: an image, a call or a mask in the file can't be used.
    """
    ids: dict[int, int] = {}  # recorded -> replayed
    for number, (frame, image) in enumerate(recording.played()):
        try:
            rgb = decode_compressed(image.data, image.format) if hasattr(image, "format") else to_rgb(image)
            masks = {obj.object_id: obj.mask.full() for obj in backend.step(rgb, frame.stamp).objects}
            for call in frame.calls:
                _repeat(backend, call, ids)
                # A frame's tracks are published once more after a prompt; an object that is removed stays in them.
                if (corrected := backend.objects()) is not None:
                    masks |= {obj.object_id: obj.mask.full() for obj in corrected.objects}
            height, width = rgb.shape[:2]
            recorded = {obj.id: _mask(obj.mask, height, width) for obj in frame.tracks.objects if obj.id in ids}
        except ValueError as error:
            raise UserError(f"frame {number} can't be replayed: {error}") from None
        yield {old: masks[new] for old, new in ids.items() if old in recorded and new in masks}, recorded


def _mask(message: ObjectMask, height: int, width: int) -> BoolMask:
    """The recorded mask, ``bool [height, width]``.

    Raises:
        ValueError: it does not fit the image.
    """
    right, bottom, area = message.x + message.width, message.y + message.height, message.width * message.height
    held = int(np.sum(message.counts, dtype=np.uint64)) if message.encoding == ObjectMask.RLE else len(message.data)
    if (message.image_height, message.image_width) != (height, width) or right > width or bottom > height:
        raise ValueError(f"a recorded mask does not fit the image of {width} x {height} pixels")
    if held != area:
        raise ValueError(f"a recorded mask holds {held} pixels in place of {area}")
    return full_mask(message)


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
