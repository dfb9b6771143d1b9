"""The SAM 2 network (Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024): tensors in, tensors out.

It knows nothing of time: the caller chooses the memories (:mod:`sam2_ros.tracking`). The state dict of an official
configuration has the official names.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2_ros.model.appearance import PLAIN, Appearance, color_shares, coverage_of
from sam2_ros.model.config import ModelConfig
from sam2_ros.model.dispatch import uses_triton
from sam2_ros.model.gpu import memory_attention as gpu_attention
from sam2_ros.model.image_encoder import PyramidEncoder, build_encoder
from sam2_ros.model.layers import Conv2d, Linear, Mlp, shallow_copy
from sam2_ros.model.mask_decoder import MaskDecoder
from sam2_ros.model.memory_attention import Memory, MemoryAttention
from sam2_ros.model.memory_encoder import MemoryEncoder, enlarged
from sam2_ros.model.network import IOU_SHARPNESS, MASK_BIAS, MASK_SCALE, DecodedMasks, ImageFeatures, Reference
from sam2_ros.model.padded import PaddedMemory
from sam2_ros.model.perceiver import SpatialPerceiver
from sam2_ros.model.position import frame_code, sine_code_1d, sine_code_2d
from sam2_ros.model.prompt_encoder import PromptEncoder

APPEARANCE_FINE = 128  # channels of TinyViT's map of stride 8


class Sam2Model(nn.Module):
    """SAM 2 and 2.1 in every size, the tracker of SAM 3, EdgeTAM, EfficientTAM and the embedded model;
    :class:`ModelConfig` says which."""

    shrinks, graphs = True, None  # see Network
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
        self.sam_prompt_encoder = PromptEncoder(dim, config.image_size, config.grid)
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
        for name, color in zip(("pixel_mean", "pixel_std"), config.normalisation, strict=True):
            self.register_buffer(name, torch.tensor(color).view(3, 1, 1), persistent=False)
        self._make_codes()
        self._sizes: dict[int, Sam2Model] = {config.image_size: self}

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
            other.sam_prompt_encoder = self.sam_prompt_encoder.at(image_size, other.config.grid)
            self._sizes[image_size] = other.to(self.device)
        return self._sizes[image_size]

    @property
    def device(self) -> torch.device:
        return self.no_obj_ptr.device

    def preprocess(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """RGB ``uint8 [H, W, 3]`` → normalised ``float32 [1, 3, S, S]``, resized to a square (antialiased).

        ``scale`` makes S smaller than the model's input, see :meth:`ModelConfig.scaled_size`.
        """
        size = self.config.scaled_size(scale)
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
        stride_16, stride_8, stride_4, *appearance = self.image_maps(images)
        picture = F.adaptive_avg_pool2d(images.float(), 4 * self.config.grid) * self.pixel_std + self.pixel_mean
        return ImageFeatures(stride_16, stride_8, stride_4, picture.clamp(0, 1), *appearance)

    def image_maps(self, images: Tensor) -> list[Tensor]:
        """The maps of :class:`ImageFeatures` in its order, without the picture."""
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

    def look(self, features: ImageFeatures, logits: Tensor) -> Reference:
        """How the objects of the masks ``logits`` (``[B, 4h, 4w]``) look on one image that has a picture: tokens
        ``[1, hw, D]``, coverage ``[B, hw]``, colors ``[B, 1, BINS² + BINS]``."""
        assert features.picture is not None
        cells, colors = self.looks(features), color_shares(features.picture, logits)[:, None]
        return Reference(cells, coverage_of(logits, math.isqrt(cells.shape[1])), colors)

    def without_memory(self, features: ImageFeatures) -> Tensor:
        """Features for an object without memories, ``[B, C, h, w]``."""
        return features.stride_16 + self.no_mem_embed[0, 0, :, None, None]

    def with_memory(
        self, features: ImageFeatures, memory: Tensor, memory_pos: Tensor, num_pointers: int, mask: Tensor | None
    ) -> Tensor:
        """Features conditioned on ``B`` memories, ``[B, C, h, w]``; arguments as in :class:`MemoryAttention`."""
        image = features.stride_16
        tokens = image.flatten(2).transpose(1, 2)
        out = self.memory_attention(tokens, self.image_code, memory, memory_pos, num_pointers, mask)
        return out.transpose(1, 2).unflatten(2, image.shape[2:])

    def attend_image(self, stride_16: Tensor) -> Tensor:
        """The first part of :meth:`with_memory`, for export: ``[1, C, h, w]`` → tokens ``[1, hw, C]``."""
        return self.memory_attention.attend_image(stride_16.flatten(2).transpose(1, 2), self.image_code)

    def attend_memory(
        self, tokens: Tensor, frames: Tensor, frame_codes: Tensor, pointers: Tensor, pointer_codes: Tensor
    ) -> Tensor:
        """The other part, of one object: ``frames`` ``[1, F, memory_tokens, memory_dim]`` and tokens of pointers
        ``[1, P, memory_dim]``, each with its position codes."""
        memory = torch.cat((frames.flatten(1, 2), pointers), dim=1)
        keys = memory + torch.cat((frame_codes.flatten(1, 2), pointer_codes), dim=1)
        out = self.memory_attention.attend_memory(tokens, Memory(memory, keys, pointers.shape[1], None))
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
        """Object pointer ``[B, C]`` of given binary ``masks`` (float ``[B, 1, 16h, 16w]``), without memory.

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
        """As :meth:`encode_memory`, from the decoder's logits (``[B, 1, 4h, 4w]``)."""
        size = self.config.image_size
        if uses_triton(mask_logits) and mask_logits.shape[2:] == (size / 4, size / 4):
            encoder, image = self.memory_encoder, features.stride_16
            return self._memory(encoder.of_logits(image, mask_logits, binarize, MASK_SCALE, MASK_BIAS), present)
        full = F.interpolate(mask_logits, (size, size), mode="bilinear", align_corners=False)
        return self.encode_memory(features, full, present, binarize)

    def memory_of(self, stride_16: Tensor, logits: Tensor, sharpness: Tensor, present: Tensor | None = None) -> Tensor:
        """As :meth:`encode_low_memory`, for export: ``sharpness`` (``[B]``) multiplies the logits, and makes their
        probabilities 0 or 1 where it is large; ``present`` (``[B]``) is 0 or 1, and counts in SAM 2.1 only."""
        full = sharpness[:, None, None, None] * enlarged(logits, self.config.image_size)
        maps = self.memory_encoder(stride_16, full.sigmoid() * MASK_SCALE + MASK_BIAS)
        return self._memory(maps, (sharpness if present is None else present) > 0)

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
