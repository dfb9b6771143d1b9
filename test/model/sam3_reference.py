"""``transformers``' tracker of SAM 3 with drawn weights in a small size, ours beside it, and the parts to compare.

Where ``transformers`` and the authors' code (facebookresearch/sam3 at commit 99d02f2) disagree, ours follows the
authors, and so do the stages below:

- The memory encoder resizes scaled probabilities of the mask, not its logits.
- The pointer of a given mask is that of the single answer, not of the best of three.
- Layer norms of the image encoder add 1e-5 to the variance, not 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import parity_stages as stages
import pytest
import torch
import torch.nn.functional as F
from parity_stages import Outputs, Pair, Stage, flat, gated, tokens_first
from sam2_reference import SCORE_BIAS, draw_weights
from torch import Tensor

from sam2_ros.model import ImageFeatures, Sam2Model, load_model

WINDOW, SIZE = 4, 168  # tokens; pixels, three windows a side as in the real size
_BIAS = "mask_decoder.pred_obj_score_head.proj_out.bias"


def build_reference(image_size: int = SIZE) -> Any:
    """Two heads and eight blocks in the image encoder; the tracker as it is."""
    reason = "transformers is missing; make setup installs it, on Python 3.11 and newer"
    found = pytest.importorskip("transformers", reason=reason)
    trunk = found.Sam3ViTConfig(
        hidden_size=128, intermediate_size=592, num_hidden_layers=8, num_attention_heads=2, window_size=WINDOW,
        global_attn_indexes=[1, 3, 5, 7], pretrain_image_size=14 * WINDOW, image_size=image_size, layer_norm_eps=1e-5,
    )  # fmt: skip
    vision = found.Sam3VisionConfig(backbone_config=trunk)
    config = found.Sam3TrackerVideoConfig(vision_config=vision, image_size=image_size)
    return found.Sam3TrackerVideoModel(config).eval().requires_grad_(False)


@torch.no_grad()
def build_drawn(seed: int = 0, gain: float = 1.4) -> Any:
    reference = build_reference()
    draw_weights(reference, seed, gain)
    points = reference.prompt_encoder.shared_embedding.positional_embedding
    reference.shared_image_embedding.positional_embedding.copy_(points)
    scores = SamHeads(SIZE).reference(reference)["tracked: object score"].flatten().sort().values
    reference.get_parameter(_BIAS).sub_((scores[2] + scores[3]) / 2)  # so that both signs occur
    return reference


def build_pair(folder: Path, seed: int = 0, gain: float = 1.4) -> Pair:
    """Both networks; ours loads a file."""
    reference = build_drawn(seed, gain)
    torch.save(reference.state_dict(), folder / "tracker.pt")
    return Pair(reference, load_model(folder / "tracker.pt"))


@contextmanager
def score_bias(reference: Any, model: Sam2Model, value: Tensor) -> Iterator[None]:
    """Both have another bias of the object score for a while."""
    biases = reference.get_parameter(_BIAS), model.get_parameter(SCORE_BIAS)
    before = [bias.clone() for bias in biases]
    try:
        for bias in biases:
            bias.copy_(value)
        yield
    finally:
        for bias, own in zip(biases, before, strict=True):
            bias.copy_(own)


def mask_side(reference: Any) -> int:
    """Of the memory encoder's masks."""
    return 4 * int(reference.prompt_encoder.mask_input_size[0])


def resized_mask(mask: Tensor, side: int) -> Tensor:
    return F.interpolate(mask, (side, side), mode="bilinear", align_corners=False, antialias=True)


def maps_of(image: ImageFeatures, stride_16: Tensor) -> list[Tensor]:
    """As the reference takes them: fine to coarse."""
    return [image.stride_4, image.stride_8, stride_16]


class ImageEncoder(stages.ImageEncoder):
    stride = 14

    def reference(self, reference: Any) -> Outputs:
        out = reference.get_image_features(self.images)
        stride_4, stride_8, stride_16 = (
            tokens.permute(1, 2, 0).unflatten(2, tuple(size))
            for tokens, size in zip(out.fpn_hidden_states, reference.backbone_feature_sizes, strict=True)
        )
        maps = stages.features_by_stride(stride_16, stride_8, stride_4)
        return {**maps, "code": out.fpn_position_encoding[-1].transpose(0, 1)}


class MemoryAttention(stages.MemoryAttention):
    stride = 14

    def reference(self, reference: Any) -> Outputs:
        code = reference.vision_encoder.neck.position_encoding(self.image.stride_16.shape, "cpu", torch.float32)
        outputs = {}
        for index, (prompted, _) in enumerate(self.OBJECTS):
            stored: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
            for t, (memory, pointer) in self.frames[index].items():
                kind = "cond_frame_outputs" if t in prompted else "non_cond_frame_outputs"
                memory_code = reference.memory_encoder.position_encoding(memory.shape, "cpu", torch.float32)
                stored[kind][t] = {
                    "maskmem_features": tokens_first(memory), "maskmem_pos_enc": tokens_first(memory_code),
                    "object_pointer": pointer,
                }  # fmt: skip
            outputs[f"object {index}"] = reference._prepare_memory_conditioned_features(
                SimpleNamespace(output_dict_per_obj=[stored], dtype=torch.float32), self.NOW, 0, False,
                tokens_first(self.image.stride_16), tokens_first(code), num_total_frames=40, streaming=True,
            )[0]  # fmt: skip
        return {**outputs, **{f"{name}, batched": out for name, out in outputs.items()}}


class MemoryEncoder(stages.MemoryEncoder):
    """By the reference's modules, in the authors' order."""

    stride = 14

    def reference(self, reference: Any) -> Outputs:
        mask = torch.where(self.binarize[:, None, None, None], (self.logits > 0).float(), self.logits.sigmoid())
        scaled = resized_mask(20.0 * mask - 10.0, mask_side(reference))
        maps, codes = reference.memory_encoder(self.image.stride_16, scaled)
        absent = reference.occlusion_spatial_embedding_parameter * ~self.present[:, None]
        return {"memory": (maps + absent[:, :, None, None]).flatten(2).transpose(1, 2), "code": codes[0].flatten(1).T}


class PromptEncoder(stages.PromptEncoder):
    stride = 14

    def reference(self, reference: Any) -> Outputs:
        points = self.xy[:, None], self.labels[:, None], None
        tokens, dense = reference.prompt_encoder(*points, self.mask_logits)
        _, no_mask = reference.prompt_encoder(*points, None)
        position = reference.get_image_wide_positional_embeddings()
        return {"tokens": tokens[:, 0], "mask": dense, "no mask": no_mask, "image code": position}


class MaskDecoder(stages.MaskDecoder):
    stride = 14

    def reference(self, reference: Any) -> Outputs:
        reference.mask_decoder.dynamic_multimask_via_stability = False  # so that mask 0 is seen
        fine = [
            self.image.stride_4.expand(self.objects, -1, -1, -1),
            self.image.stride_8.expand(self.objects, -1, -1, -1),
        ]
        position = reference.get_image_wide_positional_embeddings().expand(self.objects, -1, -1, -1)
        single, several = (
            reference.mask_decoder(self.conditioned, position, self.tokens[:, None], self.dense, each, fine)
            for each in (False, True)
        )
        reference.mask_decoder.dynamic_multimask_via_stability = True
        masks, ious, tokens = (torch.cat(pair, dim=2)[:, 0] for pair in zip(single[:3], several[:3], strict=True))
        return {"masks": masks, "predicted IoU": ious, "tokens": tokens, "object score": single[3][:, 0]}


class SamHeads(stages.SamHeads):
    stride = 14

    def reference(self, reference: Any) -> Outputs:
        """One object at a time, as the reference works."""
        outputs = {}
        reference.mask_decoder.dynamic_multimask_via_stability = False
        for name, (points, labels, mask_logits, multimask) in self.cases.items():
            rows = []
            for row in range(6):
                one = slice(row, row + 1)
                rows.append(
                    reference._single_frame_forward(
                        input_points=None if points is None else points[None, one],
                        input_labels=None if labels is None else labels[None, one],
                        input_masks=None if mask_logits is None else mask_logits[one],
                        image_embeddings=maps_of(self.image, self.conditioned[one]),
                        multimask_output=multimask,
                    )
                )
            outputs[name] = {
                **gated(torch.cat([each.pred_masks for each in rows])),
                "predicted IoU": torch.cat([each.iou_scores.amax(dim=(1, 2)) for each in rows]),
                "pointer": torch.cat([each.object_pointer[0] for each in rows]),
                "object score": torch.cat([each.object_score_logits[0] for each in rows]),
            }
        reference.mask_decoder.dynamic_multimask_via_stability = True
        return flat(outputs)


class MaskPointer(stages.MaskPointer):
    """By the reference's modules, in the authors' way."""

    stride = 14

    def reference(self, reference: Any) -> Outputs:
        outputs = {"pointer": self._pointers(reference)}
        bias = reference.get_parameter(_BIAS)
        before = bias.clone()
        bias.copy_(self.SEEN[SCORE_BIAS])
        outputs["seen"] = self._pointers(reference)
        bias.copy_(before)
        return outputs

    def _pointers(self, reference: Any) -> Tensor:
        found = []
        for mask in self.masks:
            out = reference._single_frame_forward(
                input_masks=reference.mask_downsample(mask[None]),
                image_embeddings=maps_of(self.image, self.image.stride_16),
                multimask_output=False,
            )
            found.append(out.object_pointer[0] if mask.any() else reference.no_object_pointer)
        return torch.cat(found)


class ImagePath(Stage):
    """From the resized image on: a click with the best of three masks, and a box with the single answer."""

    covers = ("no_mem_embed",)
    stride = 14

    def draw(self) -> None:
        self.images = self.normal(1, 3, self.size, self.size)
        self.click, self.box = self.points(1, 1), self.points(1, 2).sort(dim=1).values

    def reference(self, reference: Any) -> Outputs:
        click = reference._single_frame_forward(self.images, self.click[None])
        box = reference._single_frame_forward(
            self.images, input_boxes=self.box.flatten(1)[None], multimask_output=False
        )
        return {
            "click": click.pred_masks * (click.object_score_logits[..., None] > 0),
            "click's IoUs": click.iou_scores[0],
            "box": box.pred_masks * (box.object_score_logits[..., None] > 0),
            "box's IoU": box.iou_scores[0],
        }

    def ours(self, model: Sam2Model) -> Outputs:
        from sam2_ros.model import predict

        features = model.encode_image(self.images)
        click = predict(model, features, self.click, torch.ones(1, 1, dtype=torch.int64))
        box = predict(model, features, boxes=self.box.flatten(1), multimask=False, stability_fallback=True)
        best = click.logits[:, click.ious.argmax(dim=1)[0]][:, None]
        return {
            "click": best * (click.object_score[..., None, None] > 0),
            "click's IoUs": click.ious,
            "box": box.logits * (box.object_score[..., None, None] > 0),
            "box's IoU": box.ious,
        }
