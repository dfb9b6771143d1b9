"""The SAM 2 network (Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024): tensors in, tensors out.

It knows nothing of time: the caller chooses the memories (:mod:`sam2_ros.tracking`). The state dict of an official
configuration has the official names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.appearance import PLAIN, Appearance
from sam2_ros.model.config import ModelConfig
from sam2_ros.model.dispatch import uses_triton
from sam2_ros.model.gpu import memory_attention as gpu_attention
from sam2_ros.model.image_encoder import PyramidEncoder, build_encoder
from sam2_ros.model.layers import Conv2d, Linear, Mlp, shallow_copy
from sam2_ros.model.mask_decoder import DecodedMasks, MaskDecoder
from sam2_ros.model.memory_attention import Memory, MemoryAttention
from sam2_ros.model.memory_encoder import MemoryEncoder, enlarged
from sam2_ros.model.padded import PaddedMemory
from sam2_ros.model.perceiver import SpatialPerceiver
from sam2_ros.model.position import frame_code, sine_code_1d, sine_code_2d
from sam2_ros.model.prompt_encoder import PromptEncoder

ABSENT_LOGIT = -1024.0  # mask logit of an absent object
IOU_SHARPNESS = 20.0  # of the step from hidden to seen around ``present_iou``
APPEARANCE_FINE = 128  # channels of TinyViT's map of stride 8
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # from probabilities to the memory encoder's input


@dataclass(frozen=True)
class ImageFeatures:
    """One or more encoded images."""

    stride_16: Tensor  # [B, C, h, w]
    stride_8: Tensor  # [B, C / 4, 2h, 2w]
    stride_4: Tensor  # [B, C / 8, 4h, 4w]
    picture: Tensor | None = None  # [B, 3, 4h, 4w] the image itself, RGB from 0 to 1
    appearance: Tensor | None = None  # [B, hw, D] unit vectors; only of models with a trained metric

    @property
    def tensors(self) -> list[Tensor]:
        maps = self.stride_16, self.stride_8, self.stride_4, self.picture, self.appearance
        return [tensor for tensor in maps if tensor is not None]


class Graphs(Protocol):
    """Parts of the network as another runtime runs them (:class:`.graph_runner.GraphRunner`). Methods are as those of
    :class:`Sam2Model`; None: PyTorch has to run it."""

    def image_maps(self, model: Sam2Model, images: Tensor) -> list[Tensor]: ...

    def with_memory(
        self, model: Sam2Model, stride_16: Tensor, memory: Tensor, codes: Tensor, pointers: int, mask: Tensor | None
    ) -> Tensor | None: ...

    def decode(
        self, model: Sam2Model, source: Tensor, prompt: Tensor, stride_8: Tensor, stride_4: Tensor
    ) -> list[Tensor] | None: ...

    def memory_maps(self, model: Sam2Model, stride_16: Tensor, logits: Tensor) -> Tensor: ...

    def seal(self) -> None: ...

    def report(self) -> str: ...


class Sam2Model(nn.Module):
    """SAM 2 and 2.1 in every size, EdgeTAM, EfficientTAM and the embedded model; :class:`ModelConfig` says which."""

    pixel_mean: Tensor
    pixel_std: Tensor
    image_code: Tensor
    memory_code: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, memory_dim = config.hidden_dim, config.memory_dim
        self.image_encoder = build_encoder(config)
        self.memory_attention = MemoryAttention(
            dim, memory_dim, config.memory_ffn, config.memory_layers, config.grid, config.memory_pool,
            config.perceiver_side,
        )  # fmt: skip
        self.memory_encoder = MemoryEncoder(dim, memory_dim, config.memory_pool, config.fuser_layers)
        self.spatial_perceiver = SpatialPerceiver(memory_dim, config.perceiver_side) if config.perceiver_side else None
        self.sam_prompt_encoder = PromptEncoder(dim, config.image_size)
        self.sam_mask_decoder = MaskDecoder(dim, config.high_res_channels)
        self.mask_downsample = Conv2d(1, 1, 4, stride=4)
        self.obj_ptr_proj = Mlp(dim, dim, dim, dim)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(config.num_memory_frames, 1, 1, memory_dim))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))  # in every checkpoint, never used
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        if config.occlusion_embedding:
            self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, memory_dim))
        self.appearance = None
        if config.appearance_dim:
            self.appearance = Appearance(APPEARANCE_FINE, dim, config.appearance_hidden, config.appearance_dim)
        if config.pointer_time_code:
            self.obj_ptr_tpos_proj = Linear(dim, memory_dim)
        for name, value in (
            ("pixel_mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)),
            ("pixel_std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)),
        ):
            self.register_buffer(name, value, persistent=False)
        self._make_codes()
        self._sizes: dict[int, Sam2Model] = {config.image_size: self}
        self.graphs: Graphs | None = None

    def _make_codes(self) -> None:
        config = self.config
        for name, value in (
            ("image_code", config.image_code_scale * sine_code_2d(config.hidden_dim, config.grid).flatten(1).T[None]),
            ("memory_code", frame_code(config.memory_dim, config.memory_grid, config.perceiver_side)),
        ):  # [1, hw, C] and [memory_tokens, memory_dim]
            self.register_buffer(name, value, persistent=False)

    def at(self, image_size: int) -> Sam2Model:
        """The same network, with the same weights in memory, for another size of its square input.

        Raises:
            ValueError: a size that the network cannot have.
        """
        if image_size == self.config.image_size:
            return self
        if image_size not in self._sizes:
            other = shallow_copy(self)
            other.config = replace(self.config, image_size=image_size)
            other._make_codes()
            other.memory_attention = self.memory_attention.at(other.config.grid)
            other.sam_prompt_encoder = self.sam_prompt_encoder.at(image_size)
            self._sizes[image_size] = other.to(self.device)
        return self._sizes[image_size]

    def with_graphs(self, graphs: Graphs) -> Sam2Model:
        """The same network, with the same weights in memory, run by ``graphs`` where they are faster."""
        other = shallow_copy(self)
        other.graphs, other._sizes = graphs, {self.config.image_size: other}
        return other

    @property
    def device(self) -> torch.device:
        return self.no_obj_ptr.device

    def preprocess(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """RGB ``uint8 [H, W, 3]`` → normalised ``float32 [1, 3, S, S]``, resized to a square (antialiased).

        ``scale`` makes S smaller than the model's input, to the nearest multiple of 32.
        """
        size = self.config.image_size if scale == 1 else max(64, 32 * round(scale * self.config.image_size / 32))
        pixels = image.to(self.device).permute(2, 0, 1)[None].float() / 255
        if pixels.shape[2:] != (size, size):
            # Antialiasing is slow on a GPU and does nothing where no side shrinks.
            antialias = self.device.type != "cuda" or max(pixels.shape[2:]) > size
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=antialias)
        return (pixels - self.pixel_mean) / self.pixel_std

    def resized(self, image: Tensor, shape: Tensor) -> Tensor:
        """:meth:`preprocess` by a Triton kernel, of an image that does not shrink; see :func:`.gpu.image.resized`."""
        from sam2_ros.model.gpu.image_kernels import resized

        return resized(image, shape, self.pixel_mean, self.pixel_std, self.config.image_size)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Normalised ``float32 [B, 3, S, S]`` → features; the slowest part of a frame, once for all objects.

        Features of images in another size than the model's are resampled to its grid.
        """
        maps = self.image_maps(images) if self.graphs is None else self.graphs.image_maps(self, images)
        stride_16, stride_8, stride_4, *appearance = maps
        picture = F.adaptive_avg_pool2d(images.float(), 4 * self.config.grid) * self.pixel_std + self.pixel_mean
        return ImageFeatures(stride_16, stride_8, stride_4, picture.clamp(0, 1), *appearance)

    def image_maps(self, images: Tensor) -> list[Tensor]:
        """The maps of :class:`ImageFeatures` in its order, without the picture, by PyTorch."""
        encoder, decoder = self.image_encoder, self.sam_mask_decoder
        wide = None
        if self.config.trunk == "vit":
            stride_4, stride_8, stride_16 = encoder(images)  # without finer maps, there is nothing to project
        elif isinstance(encoder, PyramidEncoder) and not torch.is_grad_enabled():
            stride_4, stride_8, stride_16 = encoder(images, (decoder.conv_s0, decoder.conv_s1))
        else:
            stride_4, wide, stride_16 = encoder(images)
            stride_4, stride_8 = decoder.conv_s0(stride_4), decoder.conv_s1(wide)
        grid = self.config.grid
        if images.shape[-1] != self.config.image_size:
            stride_4, stride_8, stride_16, wide = (
                None if maps is None else F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
                for maps, side in ((stride_4, 4 * grid), (stride_8, 2 * grid), (stride_16, grid), (wide, 2 * grid))
            )
        if self.appearance is None:
            return [stride_16, stride_8, stride_4]
        assert wide is not None, "only TinyViT models recognise objects"
        return [stride_16, stride_8, stride_4, self.appearance.embed(wide, stride_16)]

    @property
    def metric(self) -> Appearance:
        """What tells things apart by appearance: the trained metric, or one that needs no training."""
        return PLAIN if self.appearance is None else self.appearance

    def looks(self, features: ImageFeatures) -> Tensor:
        """The cells of ``features`` as :attr:`metric` compares them, ``[B, hw, D]``."""
        if features.appearance is not None:
            return features.appearance
        return self.metric.embed(features.stride_8, features.stride_16)

    def without_memory(self, features: ImageFeatures) -> Tensor:
        """Features for an object without memories, ``[B, C, h, w]``."""
        return features.stride_16 + self.no_mem_embed[0, 0, :, None, None]

    def with_memory(
        self, features: ImageFeatures, memory: Tensor, memory_pos: Tensor, num_pointers: int, mask: Tensor | None
    ) -> Tensor:
        """Features conditioned on ``B`` memories, ``[B, C, h, w]``; arguments as in :class:`MemoryAttention`."""
        image = features.stride_16
        if self.graphs is not None:
            conditioned = self.graphs.with_memory(self, image, memory, memory_pos, num_pointers, mask)
            if conditioned is not None:
                return conditioned
        tokens = image.flatten(2).transpose(1, 2)
        out = self.memory_attention(tokens, self.image_code, memory, memory_pos, num_pointers, mask)
        return out.transpose(1, 2).unflatten(2, image.shape[2:])

    def attend_image(self, stride_16: Tensor) -> Tensor:
        """The first part of :meth:`with_memory`, by PyTorch: ``[1, C, h, w]`` → tokens ``[1, hw, C]``."""
        return self.memory_attention.attend_image(stride_16.flatten(2).transpose(1, 2), self.image_code)

    def attend_memory(self, tokens: Tensor, memory: Tensor, keys: Tensor, num_pointers: int, bias: Tensor) -> Tensor:
        """The other part, of one object: ``keys`` are ``memory`` with its codes, ``bias`` ``[1, K]`` is added to the
        logits."""
        out = self.memory_attention.attend_memory(tokens, Memory(memory, keys, num_pointers, bias[:, None, None, :]))
        return out.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))

    def with_padded_memory(self, features: ImageFeatures, memory: PaddedMemory) -> Tensor:
        """As :meth:`with_memory`, for objects with different numbers of memories."""
        tokens = features.stride_16.flatten(2).transpose(1, 2)
        if not uses_triton(tokens):
            flat, codes, valid = memory.flat(self.memory_code)
            return self.with_memory(features, flat, codes, memory.pointers.shape[1], valid)
        out = gpu_attention.condition(self.memory_attention, tokens, self.image_code, self.memory_code, memory)
        return out.transpose(1, 2).unflatten(2, features.stride_16.shape[2:])

    def decode(
        self,
        conditioned: Tensor,
        features: ImageFeatures,
        points: Tensor,
        labels: Tensor,
        mask_logits: Tensor | None = None,
    ) -> DecodedMasks:
        """Decodes ``B`` prompts on ``conditioned`` features ``[B, C, h, w]`` of one image, or of ``B``.

        ``points`` (at least one; see :meth:`no_prompt`) and ``labels`` are as in :meth:`PromptEncoder.tokens`.
        ``mask_logits`` ``[B, 1, 4h, 4w]`` are earlier logits or a mask prompt.
        """
        encoder = self.sam_prompt_encoder
        tokens, dense = encoder.tokens(points, labels), encoder.dense(mask_logits)
        if self.graphs is not None:
            decoded = self.graphs.decode(self, conditioned + dense, tokens, features.stride_8, features.stride_4)
            if decoded is not None:
                return DecodedMasks(*decoded)
        return self.sam_mask_decoder(
            conditioned, encoder.image_position(), tokens, dense, features.stride_8, features.stride_4
        )

    def no_prompt(self, batch: int) -> tuple[Tensor, Tensor]:
        """Points and labels for :meth:`decode` without a prompt."""
        labels = torch.full((batch, 1), -1, dtype=torch.int64, device=self.device)
        return torch.zeros(batch, 1, 2, device=self.device), labels

    def pointer(self, token: Tensor, present: Tensor) -> Tensor:
        """Pointer ``[B, C]`` from a mask token ``[B, C]``; the learned "no object" where not ``present`` (``[B]``)."""
        return torch.where(present[:, None], self.obj_ptr_proj(token).float(), self.no_obj_ptr)

    def mask_pointer(self, features: ImageFeatures, masks: Tensor) -> Tensor:
        """Object pointer ``[B, C]`` of given binary ``masks`` (float ``[B, 1, S, S]``), without memory.

        As in the reference, an empty mask and a negative object score give the "no object" pointer.
        """
        image = features.stride_16.expand(len(masks), -1, -1, -1)
        decoded = self.decode(image, features, *self.no_prompt(len(masks)), self.mask_downsample(masks))
        # Mask 0: without points, the reference asks for the single answer here.
        present = (decoded.object_score[:, 0] > 0) & (masks.flatten(1) > 0).any(dim=1)
        return self.pointer(decoded.tokens[:, 0], present)

    def encode_memory(
        self, features: ImageFeatures, mask_logits: Tensor, present: Tensor, binarize: Tensor | None = None
    ) -> Tensor:
        """Memory ``[B, memory_tokens, memory_dim]`` of a frame with ``mask_logits`` ``[B, 1, S, S]``, S of the input.

        ``present`` (``[B]`` bool) says where the object is seen, ``binarize`` (``[B]`` bool; None = nowhere) where the
        mask enters as 0 or 1 in place of a probability.
        """
        mask = mask_logits.float().sigmoid()
        if binarize is not None:
            mask = torch.where(binarize[:, None, None, None], (mask_logits > 0).float(), mask)
        return self._memory(self.memory_encoder(features.stride_16, mask * MASK_SCALE + MASK_BIAS), present)

    def _memory(self, maps: Tensor, present: Tensor) -> Tensor:
        memory = maps.flatten(2).transpose(1, 2)
        if self.config.occlusion_embedding:
            memory = memory + torch.where(present[:, None, None], 0.0, self.no_obj_embed_spatial)
        return memory if self.spatial_perceiver is None else self.spatial_perceiver(memory)

    def encode_low_memory(
        self, features: ImageFeatures, mask_logits: Tensor, present: Tensor, binarize: Tensor | None = None
    ) -> Tensor:
        """As :meth:`encode_memory`, from the decoder's logits (``[B, 1, S / 4, S / 4]``)."""
        size = self.config.image_size
        if uses_triton(mask_logits) and mask_logits.shape[2:] == (size // 4, size // 4):
            encoder, image = self.memory_encoder, features.stride_16
            return self._memory(encoder.of_logits(image, mask_logits, binarize, MASK_SCALE, MASK_BIAS), present)
        if self.graphs is not None and (binarize is None or not binarize.any()):
            return self._memory(self.graphs.memory_maps(self, features.stride_16, mask_logits), present)
        full = F.interpolate(mask_logits, (size, size), mode="bilinear", align_corners=False)
        return self.encode_memory(features, full, present, binarize)

    def memory_maps(self, stride_16: Tensor, logits: Tensor) -> Tensor:
        """Maps ``[B, memory_dim, h / pool, w / pool]`` of memories, from the decoder's ``logits``, by PyTorch."""
        full = enlarged(logits, self.config.image_size)
        return self.memory_encoder(stride_16, full.sigmoid() * MASK_SCALE + MASK_BIAS)

    def pointer_code(self, ages: Tensor) -> Tensor:
        """Temporal code of pointers from ``ages`` in frames (``[...]`` → ``[..., memory_dim]``); zero in SAM 2.0."""
        if not self.config.pointer_time_code:
            return torch.zeros(*ages.shape, self.config.memory_dim, device=ages.device)
        return self.obj_ptr_tpos_proj(sine_code_1d(ages / (self.config.max_pointers - 1), self.config.hidden_dim))

    def present(self, object_score: Tensor, iou: Tensor) -> Tensor:
        """Whether a tracked object is seen (``[B]`` bool), from its object score (logit) and predicted IoU.

        The official rule is score > 0. Where the score saw few absences in training, the predicted IoU
        (``present_iou``) drops long before it when the object is covered.
        """
        return (object_score > 0) & (iou >= self.config.present_iou)

    def visibility(self, object_score: Tensor, iou: Tensor) -> Tensor:
        """Probability that the object is seen; above one half where :meth:`present` is true."""
        config = self.config
        probability = torch.sigmoid(config.visibility_scale * object_score + config.visibility_bias)
        if not config.present_iou:
            return probability
        return torch.minimum(probability, torch.sigmoid(IOU_SHARPNESS * (iou - config.present_iou)))
