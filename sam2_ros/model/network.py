"""What tracking needs of a network, whatever runs it. Free of torch.

All arrays of a network are of one kind: PyTorch's tensors on one device (:class:`~sam2_ros.model.sam2.Sam2Model`), or
NumPy's arrays. Where no dtype is given, numbers are float32 in NumPy; in PyTorch, autocast may make them bfloat16. B
counts objects, S is the side of the input, h = w = S / 16 that of the map of stride 16 (S / 14 in SAM 3, where the
names of strides stay the same), C = ``config.hidden_dim``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from sam2_ros.model.config import ModelConfig

Array: TypeAlias = Any
"""A tensor of PyTorch, or an array of NumPy."""

ABSENT_LOGIT = -1024.0  # mask logit of an absent object
IOU_SHARPNESS = 20.0  # of the step from hidden to seen around ``present_iou``
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # from probabilities to the memory encoder's input
PADDING, NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels of points

MATCH_LIMIT = 8.0  # logits of cells are clamped to ± this
BINS = 8  # of brightness, and along each of two axes of chroma
BESIDE = 0.03  # coverage up to which a cell lies beside the object
EVIDENCE = (
    "object score", "predicted IoU", "log area", "mask certainty", "best match", "prototype", "match within",
    "matched share", "share of matches", "best match outside", "chroma", "brightness",
)  # fmt: skip
# Evidence from which on a mask may show the thing that was searched for, beside the judgement (logit), for a trained
# metric and for a plain one.
LEAST = {"prototype": 0.65, "chroma": 0.9}
PLAIN_LEAST = {"prototype": 0.75, "chroma": 0.9, "match within": 1.0}
LEAST_LOGIT = 2.0  # the judgement of a trained metric


@dataclass(frozen=True)
class Host:
    """The device of NumPy's arrays."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


HOST = Host()


@dataclass(frozen=True)
class ImageFeatures:
    """One or more encoded images."""

    stride_16: Array  # [B, C, h, w]
    stride_8: Array  # [B, C / 4, 2h, 2w]
    stride_4: Array  # [B, C / 8, 4h, 4w]
    picture: Array | None = None  # [B, 3, 4h, 4w] the image itself, RGB from 0 to 1
    appearance: Array | None = None  # float32 [B, hw, D] unit vectors; only of models with a trained metric

    @property
    def tensors(self) -> list[Array]:
        maps = self.stride_16, self.stride_8, self.stride_4, self.picture, self.appearance
        return [tensor for tensor in maps if tensor is not None]


@dataclass(frozen=True)
class DecodedMasks:
    """The decoder's output; mask 0 is the single answer, masks 1 to 3 are the candidates of an ambiguous prompt."""

    logits: Array  # [B, 4, 4h, 4w]
    ious: Array  # [B, 4] predicted, [0, 1]
    tokens: Array  # [B, 4, C]
    object_score: Array  # [B, 1] logit


@dataclass(frozen=True)
class ChosenMask:
    """One mask for each object."""

    logits: Array  # [B, 1, 4h, 4w]
    iou: Array  # [B] predicted
    token: Array  # [B, C] for the object pointer
    index: Array  # int64 [B] 0 = single answer, 1 to 3 = candidates


@dataclass(frozen=True)
class Reference:
    """The prompted frames of ``B`` objects; ``M`` cells."""

    tokens: Array  # [B, M, D] as in ImageFeatures.appearance
    coverage: Array  # [B, M] share of the cell that the object covers; negative in unused cells
    colors: Array  # [B, frames, BINS² + BINS] as from color_shares, for each frame; all 0 in unused ones

    @property
    def known(self) -> Array:
        """``[B]`` bool: the object covers enough of some cell."""
        return (self.coverage > BESIDE).any(1)


@dataclass(frozen=True)
class Match:
    """How the cells of an image match those of ``B`` objects."""

    logits: Array  # [B, h, w] of the cell showing the object
    tokens: Array  # [1, hw, D] of the image
    prototype: Array  # [B, D] mean direction of the object's cells
    colors: Array  # [B, frames, BINS² + BINS] of the reference


class Metric(Protocol):
    """Tells things apart by appearance; :class:`~sam2_ros.model.appearance.Appearance` says how. All float32."""

    def match(self, tokens: Array, reference: Reference) -> Match:
        """Compares the cells of one image (``[1, hw, D]``, or ``[B, hw, D]``) with the reference of ``B`` objects."""

    def evidence(self, match: Match, picture: Array, logits: Array, scores: Array, ious: Array) -> Array:
        """The evidence for ``B`` masks, ``[B, len(EVIDENCE)]``: ``picture`` ``[1, 3, 4h, 4w]``, ``logits``
        ``[B, 4h, 4w]``, ``scores`` and ``ious`` ``[B]``."""

    def tracked(self, evidence: Array) -> Array:
        """The logit ``[..., 1]`` that a mask from the memory shows its object; only of a trained metric."""

    def found(self, evidence: Array) -> Array:
        """The logit ``[..., 1]`` that a mask from a search of the image shows its object."""


class Runner(Protocol):
    """A runtime beside PyTorch that runs a network. Its ``str`` names it in logs, such as "openvino 2026.4"."""

    def report(self) -> str:
        """How long its graphs took to be ready, for logs."""


class Network(Protocol):
    """SAM 2's network as tracking uses it. It knows nothing of time: the caller chooses the memories."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> Any:
        """Of all arrays: a ``torch.device``, or :data:`HOST` for NumPy's."""

    @property
    def shrinks(self) -> bool:
        """Whether :meth:`preprocess` can make the input smaller."""

    @property
    def graphs(self) -> Runner | None:
        """The runtime that runs it; None: PyTorch."""

    @property
    def appearance(self) -> Metric | None:
        """The trained metric, if it has one (``config.appearance_dim``)."""

    @property
    def metric(self) -> Metric:
        """The trained metric, or one that needs no training."""

    @property
    def memory_code(self) -> Array:
        """Position code of the tokens of a stored memory, float32 ``[memory_tokens, memory_dim]``."""

    @property
    def maskmem_tpos_enc(self) -> Array:
        """Temporal code of a memory by its age in frames, less 1; float32 ``[num_memory_frames, 1, 1, memory_dim]``."""

    def at(self, image_size: int) -> Network:
        """The same network for another size of its square input.

        Raises:
            ValueError: a size that the network cannot have; the message gives those that it can.
        """

    def preprocess(self, image: Array, scale: float = 1.0) -> Array:
        """RGB ``uint8 [H, W, 3]`` → normalised ``float32 [1, 3, S, S]``, resized to a square (bilinear, antialiased).

        ``scale`` makes S smaller than the model's input; networks of fixed shapes take no notice of it.
        """

    def encode_image(self, images: Array) -> ImageFeatures:
        """Normalised ``float32 [B, 3, S, S]`` → features; the slowest part of a frame, once for all objects."""

    def looks(self, features: ImageFeatures) -> Array:
        """The cells of ``features`` as :attr:`metric` compares them, float32 ``[B, hw, D]``."""

    def look(self, features: ImageFeatures, logits: Array) -> Reference:
        """How the objects of the masks ``logits`` (``[B, 4h, 4w]``) look on one image that has a picture: tokens
        ``[1, hw, D]``, coverage ``[B, hw]``, colors ``[B, 1, BINS² + BINS]``."""

    def without_memory(self, features: ImageFeatures) -> Array:
        """Features for an object without memories, ``[1, C, h, w]``."""

    def with_memory(
        self, features: ImageFeatures, memory: Array, memory_pos: Array, num_pointers: int, mask: Array | None
    ) -> Array:
        """Features conditioned on ``B`` memories, ``[B, C, h, w]``.

        ``memory`` and its position codes ``memory_pos`` (float32 ``[B, K, memory_dim]``) hold whole frames, then
        ``num_pointers`` tokens of pointers. ``mask`` (bool ``[B, K]``): False = ignore; None: all count.
        """

    def decode(
        self,
        conditioned: Array,
        features: ImageFeatures,
        points: Array,
        labels: Array,
        mask_logits: Array | None = None,
    ) -> DecodedMasks:
        """Decodes ``B`` prompts on ``conditioned`` features ``[B, C, h, w]`` of one image.

        ``points`` (float32 ``[B, N, 2]``, x and y in pixels of the input, N at least 1) and their ``labels`` (int32 or
        int64 ``[B, N]``: :data:`PADDING` and those after it). ``mask_logits`` float32 ``[B, 1, 4h, 4w]``: earlier
        logits, or a mask prompt.
        """

    def no_prompt(self, batch: int) -> tuple[Array, Array]:
        """Points and labels for :meth:`decode` without a prompt."""

    def pointer(self, token: Array, present: Array) -> Array:
        """Pointer float32 ``[B, C]`` from a mask token ``[B, C]``; the learned "no object" where not ``present``
        (bool ``[B]``)."""

    def mask_pointer(self, features: ImageFeatures, masks: Array) -> Array:
        """Pointer ``[B, C]`` of given binary ``masks`` (float32 ``[B, 1, 16h, 16w]``), without memory."""

    def encode_low_memory(
        self, features: ImageFeatures, mask_logits: Array, present: Array, binarize: Array | None = None
    ) -> Array:
        """Memory ``[B, memory_tokens, memory_dim]`` of a frame with ``mask_logits`` (float32 ``[B, 1, 4h, 4w]``).

        ``present`` (bool ``[B]``) says where the object is seen, ``binarize`` (bool ``[B]``; None = nowhere) where the
        mask enters as 0 or 1 in place of a probability.
        """

    def pointer_code(self, ages: Array) -> Array:
        """Temporal code of pointers from int64 ``ages`` in frames (``[...]`` → ``[..., memory_dim]``)."""

    def present(self, object_score: Array, iou: Array) -> Array:
        """Whether a tracked object is seen (bool ``[B]``), from its object score (logit) and predicted IoU ``[B]``."""

    def visibility(self, object_score: Array, iou: Array) -> Array:
        """Probability that the object is seen; above one half where :meth:`present` is true. Also of single numbers."""
