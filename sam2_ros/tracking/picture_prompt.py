"""A picture as a prompt: what an awaited object looks like, and where in a frame something looks like it.

The picture is encoded in two sizes, as frames that show the thing large and small. Its cells become a reference for
:mod:`~sam2_ros.tracking.recognition`. On later frames the decoder gets the cells that match it best, as a box and a
mask prompt. If the mask looks like the picture, the object is from then on one like any other, prompted on that frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import float32, module_of, to_numpy, trues
from sam2_ros.model.choice import choose
from sam2_ros.model.network import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, Array, ImageFeatures, Network, Reference
from sam2_ros.tracking.bank import MemoryBank
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.history import StoredFrame, View
from sam2_ros.tracking.maps import averaged, resized
from sam2_ros.tracking.mask_parts import likenesses_of, trail_after_prompt
from sam2_ros.tracking.masks import masks_in_windows, without
from sam2_ros.tracking.objects import LiveObject
from sam2_ros.tracking.prompt_decoder import preferred_candidate
from sam2_ros.tracking.recognition import likeliest_boxes, look_in, look_of, recognises
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import BoolMask, CroppedMask, ObjectChange, Prompt, PromptCode, PromptError
from sam2_ros.tracking.viewer import Encoder, Viewer

SHARES = (0.6, 0.3)  # of a frame's sides that the picture has when it is encoded
PLACES = 2  # in a frame that are looked at for one object
MARGIN = 0.2  # of a given box's sides that are encoded on each side of it

Image = NDArray[np.uint8]


class _Place(NamedTuple):
    """Where the picture lies in the network's square input, pixels."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class Found:
    """An awaited object, where a frame shows something that looks like it."""

    obj: LiveObject
    view: View
    logits: Array  # [1, h, w] in the view, float32
    token: Array  # [C] for the object pointer
    score: float  # logit
    iou: float  # predicted

    def prompt(
        self,
        stored: StoredFrame,
        bank: MemoryBank,
        config: TrackerConfig,
        visibility: float,
        taken: Sequence[CroppedMask],
    ) -> list[ObjectChange]:
        """Prompts the object on ``stored``, the frame that shows it, unless that shows only what others have ``taken``.
        Returns what changed."""
        obj, view, logits = self.obj, self.view, self.logits
        (mask,) = masks_in_windows([logits], [view.window], stored.height, stored.width, non_overlap=False)
        mask = without(mask, taken)
        if not mask.crop.size:
            return []
        there = trues(1, view.model.device)
        binarize = module_of(there).full_like(there, config.binarize_prompted_memory)
        (memory,) = view.model.encode_low_memory(view.features, logits[None], there, binarize)
        (pointer,) = view.model.pointer(self.token[None], there)
        bank.store_prompted(obj.row, stored.frame, memory, pointer, view.features, logits[0], view.model)
        obj.look = None if recognises(view.model, config) else look_of(view.model, view.features, logits)
        obj.awaited, obj.logits, obj.window, obj.prompted = None, logits, view.window, True
        obj.looked_frame = stored.frame
        obj.trail = trail_after_prompt(obj.trail, view.frame, logits, bounded=True, window=view.shares)
        obj.likeness = to_numpy(likenesses_of(view.features, logits[None])[0])
        obj.set_scores(self.score, visibility, self.iou)
        area = mask.area / (stored.width * stored.height)
        presence = obj.presence_before_frame(stored.frame).prompted(
            stored.frame, stored.stamp, area, bounded=True, config=config
        )
        return obj.state_change(obj.set_presence(presence, mask))


def reference_of(shared: Encoder, prompt: Prompt, width: int, height: int) -> Reference:
    """How the thing in a picture (a checked prompt with ``like``) looks in frames of ``width`` × ``height`` pixels.

    Raises:
        PromptError: INVALID_PROMPT: nothing was found in the picture.
    """
    model = shared.model
    picture, box, mask = _around(prompt)
    is_box = prompt.box is not None
    size = model.config.image_size
    looks = []
    for share in SHARES:
        place = _place(picture, size, width, height, share)
        features = shared.encode(shared.prepared(_pasted(picture, place, size), 1.0))
        if mask is None:
            mask = _taken(_decoded(model, features, _in_input(box, picture, place), is_box), place, picture, model)
        looks.append(look_of(model, features, _mask_logits(mask, place, model)))
    joined = module_of(looks[0].tokens).concatenate
    reference = Reference(
        joined([look.tokens for look in looks], 1),
        joined([look.coverage for look in looks], 1),
        joined([look.colors for look in looks], 1),
    )
    if not bool(reference.known.all()):
        raise PromptError(
            PromptCode.INVALID_PROMPT,
            "nothing was found in the picture; give a box or a mask of the thing in it, or a picture of it alone",
        )
    return reference


def find(viewer: Viewer, objects: Sequence[LiveObject], stored: StoredFrame) -> list[Found]:
    """Those of the awaited ``objects`` that ``stored`` shows."""
    whole = viewer.whole_view(stored)
    found = []
    for obj in objects:
        assert obj.awaited is not None
        for box in likeliest_boxes(whole, obj.awaited, most=PLACES):
            (view,) = viewer.views_for_boxes([box], stored)
            seen = look_in(view, box, obj.awaited)
            if seen is not None:
                chosen, score = seen
                logits, iou = float32(chosen.logits[0]), float(chosen.iou[0])
                found.append(Found(obj, view, logits, chosen.token[0], score, iou))
                break
    return found


def _decoded(model: Network, features: ImageFeatures, corners: NDArray[np.float32], is_box: bool) -> Array:
    """The mask (logits ``[1, 1, h, w]``) of a box, or of what is in its middle: a stable mask of a click there."""
    points, labels = (corners, [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]) if is_box else (corners.mean(axis=0)[None], [1])
    prompt = upload(points[None], model.device), upload([labels], model.device)
    decoded = model.decode(model.without_memory(features), features, *prompt)
    candidate = None if is_box else preferred_candidate(decoded, "stable")
    return choose(decoded, multimask=not is_box, stability_fallback=is_box, candidate=candidate).logits


def _around(prompt: Prompt) -> tuple[Image, NDArray[np.float64], BoolMask | None]:
    """The part of the picture around the thing, the thing's box in it (edges in pixels), and its mask if given."""
    picture, mask = prompt.like, prompt.mask
    assert picture is not None
    height, width = picture.shape[:2]
    box = np.array([0, 0, width, height], np.float64)
    if prompt.box is not None:
        box = np.clip(np.asarray(prompt.box, np.float64).reshape(4), 0, [width, height] * 2)
    elif mask is not None:
        box = np.array(CroppedMask.from_full(mask).box, np.float64)
    else:
        return picture, box, None
    margin = MARGIN * (box[2:] - box[:2])
    x0, y0 = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    x1, y1 = np.ceil(np.minimum(box[2:] + margin, [width, height])).astype(int)
    return picture[y0:y1, x0:x1], box - [x0, y0, x0, y0], None if mask is None else mask[y0:y1, x0:x1]


def _place(picture: Image, size: int, width: int, height: int, share: float) -> _Place:
    """In the middle; squashed as a frame of ``width`` × ``height`` is."""
    rows, columns = picture.shape[:2]
    factor = share * size * min(width / columns, height / rows)
    wide, high = max(1, round(factor * columns / width)), max(1, round(factor * rows / height))
    x0, y0 = (size - wide) // 2, (size - high) // 2
    return _Place(x0, y0, x0 + wide, y0 + high)


def _pasted(picture: Image, place: _Place, size: int) -> Image:
    """The input of ``size`` × ``size`` with the picture at its place, on the colour of the picture's border."""
    border = np.concatenate((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = np.median(border, axis=0)
    canvas[place.y0 : place.y1, place.x0 : place.x1] = _resized(picture, place)
    return canvas


def _resized(picture: NDArray[np.uint8], place: _Place) -> Image:
    size = place.x1 - place.x0, place.y1 - place.y0
    shrinks = size[0] < picture.shape[1] or size[1] < picture.shape[0]
    return np.asarray(
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8
    )


def _in_input(box: NDArray[np.float64], picture: Image, place: _Place) -> NDArray[np.float32]:
    """Corners ``[2, 2]`` of a box of the picture, in pixels of the input."""
    shares = box.reshape(2, 2) / [picture.shape[1], picture.shape[0]]
    corners = np.array(place).reshape(2, 2)
    return np.asarray(corners[0] + shares * (corners[1] - corners[0]), np.float32)


def _taken(logits: Array, place: _Place, picture: Image, model: Network) -> BoolMask:
    """The mask of the picture in the decoder's ``logits`` (``[1, 1, h, w]``) of the input."""
    size = model.config.image_size
    full = resized(float32(logits), size, size)[0, 0]
    part = to_numpy(full[place.y0 : place.y1, place.x0 : place.x1] > 0).astype(np.uint8)
    return np.asarray(cv2.resize(part, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0)


def _mask_logits(mask: BoolMask, place: _Place, model: Network) -> Array:
    """The picture's mask as logits of the input, ``[1, h, w]``."""
    size = model.config.image_size
    canvas = np.zeros((size, size), np.float32)
    canvas[place.y0 : place.y1, place.x0 : place.x1] = _resized(mask.view(np.uint8) * np.uint8(255), place) / 255
    return averaged(upload(canvas[None], model.device), 4 * model.config.grid) - 0.5
