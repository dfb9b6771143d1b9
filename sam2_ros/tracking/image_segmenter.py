"""Segments single images by prompts, or finds everything in them. Nothing is tracked and nothing remembered.

An image is encoded once; then any number of prompts can be decoded on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.arrays import autocast, float32, inference, module_of, repeated, to_numpy
from sam2_ros.model.choice import choose, stability
from sam2_ros.model.network import HOST, Array, DecodedMasks, ImageFeatures, Network
from sam2_ros.tracking.edges import Edges
from sam2_ros.tracking.everything import MaskFinder
from sam2_ros.tracking.everything_settings import SMALL_MODEL, EverythingSettings
from sam2_ros.tracking.masks import image_masks
from sam2_ros.tracking.prompt_checks import check_requests
from sam2_ros.tracking.prompt_decoder import PREVIOUS_LOGIT_LIMIT
from sam2_ros.tracking.prompt_inputs import clicks_of, low_logits, mask_to_network, to_network
from sam2_ros.tracking.segmentation import FoundMask, Segmentation, Slices, check_image, check_on_image, check_work
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.transfer import upload
from sam2_ros.tracking.types import (
    CroppedMask,
    MaskCandidate,
    ObjectResult,
    ObjectState,
    Prompt,
    PromptCode,
    PromptError,
    PromptRequest,
    PromptResult,
)
from sam2_ros.tracking.viewer import bounded
from sam2_ros.tracking.windows import Window

BATCH = 32  # prompts that are decoded at a time, and images that are encoded at a time at most
SLICE = 8  # prompts between two frames of a stream
MAX_SLICED = 1 << 24  # pixels of an image that is segmented in slices, each of which is to end soon
MAX_SEARCHED = 1 << 22  # the same of one in which everything is found

Image: TypeAlias = NDArray[np.uint8]
SoFar: TypeAlias = "NDArray[np.float32] | None"


@dataclass(frozen=True)
class EncodedImage:
    """An image as the network sees it; prompts are in pixels of ``width`` and ``height``."""

    width: int
    height: int
    features: ImageFeatures
    edges: Edges | None = None  # which masks get


class ImageSegmenter:
    """Promptable segmentation of images (SAM 2 paper, section 4, applied to one frame). Thread-safe, as its network is.

    Args:
        shared: a loaded network, for example of :func:`sam2_ros.inference.local.load_shared_model`; trackers may use it
            at the same time.
        stability_fallback: as ``tracker.stability_fallback``.
    """

    def __init__(self, shared: SharedModel, stability_fallback: bool = True) -> None:
        self._shared = shared
        self._stability_fallback = stability_fallback

    @property
    def model(self) -> Network:
        return self._shared.model

    @property
    def follows_edges(self) -> bool:
        """Whether masks get the edges of the image: as ``tracker.edges: auto``."""
        return self.model.config.windows

    def encode(self, image: Image) -> EncodedImage:
        """Encodes an image, RGB ``uint8 [H, W, 3]``: the slow part, once for all prompts.

        Raises:
            ValueError: another dtype or shape, or too many pixels.
        """
        features = self._features(image)
        return EncodedImage(image.shape[1], image.shape[0], features, self._edges(image))

    def encode_batch(self, images: Sequence[Image]) -> list[EncodedImage]:
        """As :meth:`encode`, of images in any sizes, :data:`BATCH` in one pass."""
        for image in images:
            check_image(image)
        encoded: list[EncodedImage] = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            with inference(self.model.device):
                sent = [upload(np.require(each, requirements="W"), self.model.device) for each in part]
                inputs = [self.model.preprocess(each) for each in sent]
                maps = self._shared.encode_several(module_of(inputs[0]).concatenate(inputs), self.model)
            encoded += [
                EncodedImage(each.shape[1], each.shape[0], features, self._edges(each))
                for each, features in zip(part, maps, strict=True)
            ]
        return encoded

    def segment(
        self, image: EncodedImage, prompts: Sequence[Prompt], so_far: Sequence[SoFar] = ()
    ) -> list[Segmentation]:
        """Segments the object of each prompt; prompts of one shape share a pass.

        A single click is ambiguous: the candidate of best predicted IoU is the answer, unless the prompt chooses
        another. Other prompts have a single answer. All three candidates are given in any case.

        Args:
            image: from :meth:`encode`.
            prompts: points with labels, a box, a mask, or several of them for one object.
            so_far: for each prompt the mask that its clicks correct, :attr:`Segmentation.so_far` of the answer before;
                None where there is none. The clicks are all that were made on the object, not only the newest.

        Raises:
            PromptError: a prompt can't be used, or there are too many.
            ValueError: ``so_far`` does not fit.
        """
        requests = [PromptRequest(prompt) for prompt in prompts]
        check_requests(requests)
        check_work(image.width, image.height, len(requests))
        for request in requests:
            check_on_image(request, image.width, image.height)
        side = 4 * self.model.config.grid
        if so_far and len(so_far) != len(prompts):
            raise ValueError(f"{len(so_far)} masks so far came with {len(prompts)} prompts; accepted: one for each")
        for earlier in so_far:
            if earlier is not None and earlier.shape != (side, side):
                raise ValueError(f"a mask so far has shape {earlier.shape}; accepted: {(side, side)}, from `so_far`")
        shapes: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            masked = prompt.mask is not None or bool(so_far and so_far[index] is not None)
            shapes[len(clicks_of(prompt)[1]), masked].append(index)
        found: dict[int, Segmentation] = {}
        for members in shapes.values():
            for start in range(0, len(members), BATCH):
                part = members[start : start + BATCH]
                before = [so_far[index] if so_far else None for index in part]
                found.update(zip(part, self._decode(image, [prompts[i] for i in part], before), strict=True))
        return [found[index] for index in range(len(prompts))]

    def everything(self, image: Image, settings: EverythingSettings | None = None) -> list[FoundMask]:
        """Every object in ``image`` (RGB ``uint8 [H, W, 3]``), those of the last searched crops first, then by quality;
        raises as :meth:`encode`. :meth:`finder` does the same in steps."""
        finder = self.finder(image, settings)
        for _ in finder.steps():
            pass
        return finder.found

    def finder(self, image: Image, settings: EverythingSettings | None = None) -> MaskFinder:
        """The search for everything in ``image``; raises as :meth:`encode`."""
        check_image(image)
        return MaskFinder(self._shared, image, self._features, settings or self.everything_settings())

    def everything_settings(self, **changes: Any) -> EverythingSettings:
        """The defaults for this model, with ``changes``."""
        return EverythingSettings(**(SMALL_MODEL if self.model.config.trunk == "tinyvit" else {}) | changes)

    # -- in slices, between the frames of a stream ---------------------------------------------------------------

    def segment_in_slices(self, image: Image, requests: Sequence[PromptRequest]) -> Slices:
        """See :class:`~sam2_ros.tracking.segmentation.ImageEngine`."""
        check_requests(requests)
        _check_slices(image, MAX_SLICED)
        check_work(image.shape[1], image.shape[0], len(requests))
        encoded = self.encode(image)
        yield 0.0
        results: list[PromptResult] = []
        for start in range(0, len(requests), SLICE):
            results += [self.answer(encoded, request) for request in requests[start : start + SLICE]]
            yield len(results) / len(requests)
        return results

    def everything_in_slices(self, image: Image, settings: EverythingSettings, most: int) -> Slices:
        """See :class:`~sam2_ros.tracking.segmentation.ImageEngine`."""
        _check_slices(image, MAX_SEARCHED)
        finder = self.finder(image, settings)
        yield from finder.steps()
        found = sorted(finder.found, key=lambda each: -each.mask.area)[:most]
        return [_found(each, index) for index, each in enumerate(found, 1)]

    def answer(self, image: EncodedImage, request: PromptRequest) -> PromptResult:
        """As :meth:`segment` for one prompt; a refusal is a result, too."""
        try:
            check_on_image(request, image.width, image.height)
            (answer,) = self.segment(image, [request.prompt])
        except PromptError as error:
            return PromptResult(error.code, str(error), name=request.name)
        result = ObjectResult(
            request.object_id or 0, answer.mask, ObjectState.VISIBLE, 0.0, 1.0, answer.predicted_iou, True,
            request.name, request.label, request.label_score,
        )  # fmt: skip
        return PromptResult(
            PromptCode.OK, "segmented", request.object_id or 0, request.name, result=result,
            stability=answer.stability, candidates=answer.candidates,
        )  # fmt: skip

    def _decode(self, image: EncodedImage, prompts: list[Prompt], so_far: list[SoFar]) -> list[Segmentation]:
        """Prompts of one shape."""
        model, size = self.model, self.model.config.image_size
        clicks = [clicks_of(prompt) for prompt in prompts]
        points = to_network(np.stack([places for places, _ in clicks]), image.width, image.height, size)
        labels = np.stack([kinds for _, kinds in clicks])
        given = bool(labels.shape[1])
        with self._shared.turn(), inference(model.device), autocast(model.device, self._shared.dtype):
            earlier = [self._low_mask(prompt, low) for prompt, low in zip(prompts, so_far, strict=True)]
            masks = [low for low in earlier if low is not None]
            decoded = self._decoded(
                image.features,
                upload(points.astype(np.float32), model.device) if given else None,
                upload(labels, model.device) if given else None,
                module_of(masks[0]).stack(masks)[:, None] if masks else None,
            )
            ambiguous = labels.shape[1] == 1 and not masks
            chosen = choose(decoded, ambiguous, self._stability_fallback).index.tolist()
            stable, ious = stability(decoded.logits).tolist(), decoded.ious.tolist()
        return [
            self._segmentation(image, decoded.logits[row], ious[row], stable[row], prompt.candidate or chosen[row])
            for row, prompt in enumerate(prompts)
        ]

    def _decoded(
        self, features: ImageFeatures, points: Array | None, labels: Array | None, masks: Array | None
    ) -> DecodedMasks:
        """The masks of prompts of one shape, in float32 but for the tokens."""
        model = self.model
        if model.device == HOST:
            if points is None:  # PyTorch's network gets no token then; its graphs have room for one and for padding
                assert masks is not None
                points, labels = model.no_prompt(len(masks))
            image = repeated(model.without_memory(features), len(points))
            decoded = model.decode(image, features, points, labels, masks)
        else:
            from sam2_ros.model.image_path import decode_prompts

            decoded = decode_prompts(self._shared.torch_model, features, points, labels, None, masks)
        return replace(decoded, logits=float32(decoded.logits), ious=float32(decoded.ious))

    def _segmentation(
        self, image: EncodedImage, logits: Array, ious: list[float], stable: list[float], index: int
    ) -> Segmentation:
        masks: dict[int, CroppedMask] = {}
        wanted = [each for each in range(4) if each or not index]
        masks.update(zip(wanted, self._masks(image, logits[wanted][:, None]), strict=True))
        candidates = tuple(MaskCandidate(each, masks[each], ious[each], stable[each]) for each in (1, 2, 3))
        low = to_numpy(logits.clip(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT))
        return Segmentation(masks[index], ious[index], stable[index], index, candidates, low)

    def _features(self, image: Image) -> ImageFeatures:
        check_image(image)
        with inference(self.model.device):
            return self._shared.encode(self._shared.prepared(image, 1.0))

    def _edges(self, image: Image) -> Edges | None:
        return Edges(bounded(image), image.shape[1], image.shape[0]) if self.follows_edges else None

    def _masks(self, image: EncodedImage, logits: Array) -> list[CroppedMask]:
        if image.edges is None:
            return image_masks(logits, image.height, image.width, non_overlap=False)
        whole = Window.whole(image.width, image.height)
        return [image.edges.draw(each, whole) for each in logits]

    def _low_mask(self, prompt: Prompt, so_far: SoFar) -> Array | None:
        """The mask that clicks correct, as the decoder takes it, ``[4h, 4w]``."""
        size, device = self.model.config.mask_size, self.model.device
        if so_far is not None:
            return upload(np.asarray(so_far, np.float32), device)
        if prompt.mask is None:
            return None
        return low_logits(mask_to_network(prompt.mask, size, device))[0, 0]


def _check_slices(image: Image, most: int) -> None:
    """
    Raises:
        PromptError: INVALID_PROMPT; no image, or one that would take too long.
    """
    try:
        check_image(image)
    except ValueError as error:
        raise PromptError(PromptCode.INVALID_PROMPT, str(error)) from None
    if image.shape[0] * image.shape[1] > most:
        size = f"the image has {image.shape[1]} x {image.shape[0]} pixels"
        raise PromptError(PromptCode.INVALID_PROMPT, f"{size}; accepted here: up to {most}; send a smaller one")


def _found(found: FoundMask, index: int) -> PromptResult:
    result = ObjectResult(index, found.mask, ObjectState.VISIBLE, 0.0, 1.0, found.predicted_iou, False)
    return PromptResult(PromptCode.OK, "found", index, result=result, stability=found.stability)
