"""The parts of the network that are compared with the reference, each on drawn inputs of its own.

A stage computes the same named outputs by the reference and by our model. ``covers`` are the weights (prefixes of their
names) that the stage is the first of :data:`STAGES` to look at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import torch
from sam2_reference import SCORE_BIAS, build_reference, changed, draw_weights, image_predictor, without_initialisation
from torch import Tensor

from sam2_ros.model import ImageFeatures, Sam2Model, infer_config, predict
from sam2_ros.model.checkpoint import load_strictly
from sam2_ros.model.choice import choose
from sam2_ros.model.network import ABSENT_LOGIT

Outputs = dict[str, Tensor]


class Pair(NamedTuple):
    """The reference and our model with the same weights."""

    reference: Any
    model: Sam2Model


def build_pair(size: str, version: str, image_size: int, seed: int = 0) -> Pair:
    """Both networks with drawn weights; the bias of the object score is such that its sign differs among objects."""
    reference = build_reference(size, version, image_size)
    draw_weights(reference, seed)
    SamHeads(image_size).balance_object_score(reference)
    state = reference.state_dict()
    with without_initialisation():
        model = Sam2Model(replace(infer_config(state), image_size=image_size))
    load_strictly(model, state, "the reference")
    return Pair(reference, model.eval().requires_grad_(False))


class Stage:
    """Draws its inputs; the same ones for the same image size. Networks without finer maps get zeros in their place."""

    covers: ClassVar[tuple[str, ...]]
    stride = 16  # pixels of the image for each cell of the coarsest map

    def __init__(self, image_size: int, finer: bool = True) -> None:
        self.size, self.grid, self.finer = image_size, image_size // self.stride, finer
        self.generator = torch.Generator().manual_seed(1)
        self.draw()

    def draw(self) -> None:
        raise NotImplementedError

    def reference(self, reference: Any) -> Outputs:
        raise NotImplementedError

    def ours(self, model: Sam2Model) -> Outputs:
        raise NotImplementedError

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def points(self, batch: int, number: int) -> Tensor:
        """``[batch, number, 2]`` in pixels of the square input."""
        return torch.rand((batch, number, 2), generator=self.generator) * self.size

    def features(self, batch: int = 1) -> ImageFeatures:
        g, on = self.grid, float(self.finer)
        return ImageFeatures(
            self.normal(batch, 256, g, g),
            on * self.normal(batch, 64, 2 * g, 2 * g),
            on * self.normal(batch, 32, 4 * g, 4 * g),
        )

    def nothing(self) -> list[Tensor]:
        """In place of the maps of strides 4 and 8."""
        return [torch.zeros(1, 32, 4 * self.grid, 4 * self.grid), torch.zeros(1, 64, 2 * self.grid, 2 * self.grid)]


def tokens_first(maps: Tensor, batch: int = 1) -> Tensor:
    """``[1, C, h, w]`` as the reference passes features on: ``[hw, batch, C]``."""
    return maps.flatten(2).permute(2, 0, 1).expand(-1, batch, -1)


class ImageEncoder(Stage):
    covers = ("image_encoder.", "sam_mask_decoder.conv_s")

    def draw(self) -> None:
        self.images = self.normal(1, 3, self.size, self.size)

    def reference(self, reference: Any) -> Outputs:
        out = reference.forward_image(self.images)
        position = reference._prepare_backbone_features(out)[2][-1]
        *finer, stride_16 = out["backbone_fpn"]
        stride_4, stride_8 = finer or self.nothing()
        return {**features_by_stride(stride_16, stride_8, stride_4), "code": position.transpose(0, 1)}

    def ours(self, model: Sam2Model) -> Outputs:
        out = model.encode_image(self.images)
        return {**features_by_stride(out.stride_16, out.stride_8, out.stride_4), "code": model.image_code}


class MemoryAttention(Stage):
    """Three objects in frame 30 of a video, with memories of different length.

    The reference collects each object's memory by its own rules and runs once per object. Ours runs once per object,
    and once for all objects with masked padding: the slots that an object does not use hold large numbers.
    """

    covers = ("memory_attention.", "maskmem_tpos_enc", "obj_ptr_tpos_proj")
    NOW = 30
    # Per object: frames with a prompt (33 lies in the future: its memory counts, its pointer does not), frames without.
    OBJECTS = (((0,), range(1, 30)), ((28, 33), range(29, 30)), ((27,), range(28, 30)))

    def draw(self) -> None:
        self.image = self.features()
        self.frames = [
            {t: (self.memory(), self.normal(1, 256)) for t in (*prompted, *others)} for prompted, others in self.OBJECTS
        ]

    def memory(self) -> Tensor:
        """As the reference stores it."""
        return self.normal(1, 64, self.grid, self.grid)

    def code(self, reference: Any, memory: Tensor) -> Tensor:
        """The position code that the reference stores with it."""
        return reference.memory_encoder.position_encoding(memory)

    def reference(self, reference: Any) -> Outputs:
        position = tokens_first(reference.image_encoder.neck.position_encoding(self.image.stride_16))
        outputs = {}
        for index, (prompted, _) in enumerate(self.OBJECTS):
            stored: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
            for t, (memory, pointer) in self.frames[index].items():
                kind = "cond_frame_outputs" if t in prompted else "non_cond_frame_outputs"
                code = self.code(reference, memory)
                stored[kind][t] = {"maskmem_features": memory, "maskmem_pos_enc": [code], "obj_ptr": pointer}
            outputs[f"object {index}"] = reference._prepare_memory_conditioned_features(
                frame_idx=self.NOW,
                is_init_cond_frame=False,
                current_vision_feats=[tokens_first(self.image.stride_16)],
                current_vision_pos_embeds=[position],
                feat_sizes=[(self.grid, self.grid)],
                output_dict=stored,
                num_frames=40,
            )[0]
        return {**outputs, **{f"{name}, batched": out for name, out in outputs.items()}}

    def ours(self, model: Sam2Model) -> Outputs:
        banks = [self.bank(model, index) for index in range(len(self.OBJECTS))]
        outputs = {}
        for index, (memory, memory_pos, pointers, pointer_pos) in enumerate(banks):
            tokens, codes = torch.cat((memory, pointers)), torch.cat((memory_pos, pointer_pos))
            out = model.with_memory(self.image, tokens[None], codes[None], len(pointers), None)
            outputs[f"object {index}"] = out[0]

        slots, pointer_slots = (max(len(bank[part]) for bank in banks) for part in (0, 2))
        tokens, codes = torch.full((2, len(banks), slots + pointer_slots, 64), 1e3)
        mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        for row, (memory, memory_pos, pointers, pointer_pos) in enumerate(banks):
            for start, values, value_codes in ((0, memory, memory_pos), (slots, pointers, pointer_pos)):
                used = slice(start, start + len(values))
                tokens[row, used], codes[row, used], mask[row, used] = values, value_codes, True
        batched = model.with_memory(self.image, tokens, codes, pointer_slots, mask)
        return {**outputs, **{f"object {index}, batched": out for index, out in enumerate(batched)}}

    def bank(self, model: Sam2Model, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Memory tokens, their codes, pointer tokens, their codes; each ``[N, 64]``."""
        prompted, _ = self.OBJECTS[index]
        memory, codes, pointers, ages = [], [], [], []
        for t, (feature, pointer) in self.frames[index].items():
            age = self.NOW - t
            if t in prompted or age <= 6:
                row = 6 if t in prompted else age - 1
                memory.append(feature[0] if feature.ndim == 3 else feature[0].flatten(1).T)
                codes.append(model.memory_code + model.maskmem_tpos_enc[row, 0])
            if age >= 0 and (t in prompted or age <= 15):
                pointers.append(pointer.view(4, 64))
                ages.append(age)
        pointer_codes = model.pointer_code(torch.tensor(ages)).repeat_interleave(4, dim=0)
        return torch.cat(memory), torch.cat(codes), torch.cat(pointers), pointer_codes


class MemoryEncoder(Stage):
    """Four objects: each of present and absent, with the mask as probabilities and binary."""

    covers = ("memory_encoder.", "no_obj_embed_spatial")

    def draw(self) -> None:
        self.image = self.features()
        self.logits = 4 * self.normal(4, 1, self.size, self.size)
        self.present = torch.tensor([True, False, True, False])
        self.binarize = torch.tensor([True, True, False, False])

    def reference(self, reference: Any) -> Outputs:
        score = torch.where(self.present, 1.0, -1.0)[:, None]
        memories = {}
        with mock.patch.object(reference, "binarize_mask_from_pts_for_mem_enc", True):
            for binarize in (True, False):
                memory, codes = reference._encode_new_memory(
                    [tokens_first(self.image.stride_16, 4)], [(self.grid, self.grid)], self.logits, score, binarize
                )
                memories[binarize] = memory.flatten(2).transpose(1, 2)
        return {
            "memory": torch.where(self.binarize[:, None, None], memories[True], memories[False]),
            "code": codes[-1][0].flatten(1).T,
        }

    def ours(self, model: Sam2Model) -> Outputs:
        memory = model.encode_memory(self.image, self.logits, self.present, self.binarize)
        return {"memory": memory, "code": model.memory_code}


class PromptEncoder(Stage):
    covers = ("sam_prompt_encoder.",)

    def draw(self) -> None:
        self.xy = self.points(3, 3)
        self.labels = torch.tensor([[1, 0, -1], [2, 3, 1], [0, -1, 0]])
        self.mask_logits = 4 * self.normal(3, 1, 4 * self.grid, 4 * self.grid)

    def reference(self, reference: Any) -> Outputs:
        encoder = reference.sam_prompt_encoder
        tokens, dense = encoder(points=(self.xy, self.labels), boxes=None, masks=self.mask_logits)
        _, no_mask = encoder(points=(self.xy, self.labels), boxes=None, masks=None)
        return {"tokens": tokens, "mask": dense, "no mask": no_mask, "image code": encoder.get_dense_pe()}

    def ours(self, model: Sam2Model) -> Outputs:
        encoder = model.sam_prompt_encoder
        return {
            "tokens": encoder.tokens(self.xy, self.labels),
            "mask": encoder.dense(self.mask_logits),
            "no mask": encoder.dense(None).expand(3, -1, self.grid, self.grid),
            "image code": encoder.image_position(),
        }


class MaskDecoder(Stage):
    covers = ("sam_mask_decoder.",)
    objects = 3

    def draw(self) -> None:
        count = self.objects
        self.image = self.features()
        self.conditioned, self.dense = self.features(count).stride_16, self.features(count).stride_16
        self.tokens = self.normal(count, 4, 256)

    def reference(self, reference: Any) -> Outputs:
        masks, ious, tokens, score = reference.sam_mask_decoder.predict_masks(
            image_embeddings=self.conditioned,
            image_pe=reference.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self.tokens,
            dense_prompt_embeddings=self.dense,
            repeat_image=False,
            high_res_features=[self.image.stride_4, self.image.stride_8],
        )
        return {"masks": masks, "predicted IoU": ious, "tokens": tokens, "object score": score}

    def ours(self, model: Sam2Model) -> Outputs:
        position = model.sam_prompt_encoder.image_position()
        out = model.sam_mask_decoder(
            self.conditioned, position, self.tokens, self.dense, self.image.stride_8, self.image.stride_4
        )
        return {
            "masks": out.logits,
            "predicted IoU": out.ious,
            "tokens": out.tokens,
            "object score": out.object_score,
        }


class ManyMasks(MaskDecoder):
    """So many objects that their scores, one number each, say something of rounding."""

    objects = 96


class SamHeads(Stage):
    """Six objects, tracked (no prompt), clicked and boxed: one mask each, its score and its pointer."""

    covers = ("obj_ptr_proj.",)

    def draw(self) -> None:
        self.image = self.features()
        self.conditioned = self.features(6).stride_16
        self.mask_logits = 4 * self.normal(6, 1, 4 * self.grid, 4 * self.grid)
        click, box = self.points(6, 1), self.points(6, 2).sort(dim=1).values
        # Points, labels, mask logits of an earlier answer, one of three masks.
        self.cases: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None, bool]] = {
            "tracked": (None, None, None, True),
            "clicked": (click, torch.ones(6, 1, dtype=torch.int64), None, True),
            "boxed": (box, torch.tensor([[2, 3]]).expand(6, 2), None, False),
            "corrected": (click, torch.zeros(6, 1, dtype=torch.int64), self.mask_logits, False),
        }

    def reference(self, reference: Any) -> Outputs:
        outputs = {}
        for name, (points, labels, mask_logits, multimask) in self.cases.items():
            _, _, ious, masks, _, pointer, score = reference._forward_sam_heads(
                backbone_features=self.conditioned,
                point_inputs=None if points is None else {"point_coords": points, "point_labels": labels},
                mask_inputs=mask_logits,
                high_res_features=[self.image.stride_4, self.image.stride_8],
                multimask_output=multimask,
            )
            iou = ious.amax(dim=1)  # of three masks the reference takes the one of highest predicted IoU
            outputs[name] = {"predicted IoU": iou, "pointer": pointer, "object score": score, **gated(masks)}
        return flat(outputs)

    def ours(self, model: Sam2Model) -> Outputs:
        outputs = {}
        for name, (points, labels, mask_logits, multimask) in self.cases.items():
            if points is None or labels is None:
                points, labels = model.no_prompt(6)
            decoded = model.decode(self.conditioned, self.image, points, labels, mask_logits)
            chosen = choose(decoded, multimask, stability_fallback=False)
            present = decoded.object_score[:, 0] > 0
            masks = torch.where(present[:, None, None, None], chosen.logits, ABSENT_LOGIT)
            outputs[name] = {
                **gated(masks),
                "predicted IoU": chosen.iou,
                "pointer": model.pointer(chosen.token, present),
                "object score": decoded.object_score,
            }
        return flat(outputs)

    @torch.no_grad()
    def balance_object_score(self, reference: Any) -> None:
        """Moves the bias of the object score between the scores of the tracked objects, so that both signs occur."""
        scores = self.reference(reference)["tracked: object score"].flatten().sort().values
        reference.get_parameter(SCORE_BIAS).sub_((scores[2] + scores[3]) / 2)


class MaskPointer(Stage):
    """Pointers of given masks, as the decoder's score has it and where it sees the object; the last mask is empty."""

    covers = ("mask_downsample", "no_obj_ptr")
    SEEN: ClassVar = {SCORE_BIAS: torch.tensor([10.0])}

    def draw(self) -> None:
        self.image = self.features()
        cell = 2 * self.grid
        coarse = self.normal(3, 1, 8, 8).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
        self.masks = (coarse > 0).float()
        self.masks[2] = 0

    def reference(self, reference: Any) -> Outputs:
        image, stride_8, stride_4 = (
            m.expand(3, -1, -1, -1) for m in (self.image.stride_16, self.image.stride_8, self.image.stride_4)
        )
        outputs = {"pointer": reference._use_mask_as_output(image, [stride_4, stride_8], self.masks)[5]}
        with changed((reference,), self.SEEN):
            outputs["seen"] = reference._use_mask_as_output(image, [stride_4, stride_8], self.masks)[5]
        return outputs

    def ours(self, model: Sam2Model) -> Outputs:
        outputs = {"pointer": model.mask_pointer(self.image, self.masks)}
        with changed((model,), self.SEEN):
            outputs["seen"] = model.mask_pointer(self.image, self.masks)
        return outputs


class ImagePath(Stage):
    """From the resized image on, through ``SAM2ImagePredictor``: every prompt kind, three masks, one, one if stable.

    It includes the image encoder, :class:`ImageEncoder` apart is for quick tests.
    """

    covers = ("no_mem_embed",)
    MODES: ClassVar = {"three": (True, False), "single": (False, False), "stable": (False, True)}

    def draw(self) -> None:
        self.images = self.normal(1, 3, self.size, self.size)
        point, two = self.points(1, 1), self.points(1, 2)
        box = self.points(1, 2).sort(dim=1).values.flatten(1)
        logits = 4 * self.normal(1, 1, 4 * self.grid, 4 * self.grid)
        one, mixed = torch.tensor([[1]]), torch.tensor([[1, 0]])
        # Points, labels, boxes, mask logits.
        self.prompts: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]] = {
            "positive point": (point, one, None, None),
            "positive and negative point": (two, mixed, None, None),
            "box": (None, None, box, None),
            "box and points": (two, mixed, box, None),
            "mask": (None, None, None, logits),
            "mask and point": (point, one, None, logits),
            "mask and box": (None, None, box, logits),
            "three boxes": (None, None, self.points(3, 2).sort(dim=1).values.flatten(1), None),
        }

    def reference(self, reference: Any) -> Outputs:
        predictor = image_predictor(reference, self.images)
        stride_4, stride_8 = predictor._features["high_res_feats"] or self.nothing()
        outputs = {"features": features_by_stride(predictor._features["image_embed"], stride_8, stride_4)}
        for mode, (multimask, fallback) in self.MODES.items():
            with mock.patch.object(reference.sam_mask_decoder, "dynamic_multimask_via_stability", fallback):
                for name, prompt in self.prompts.items():
                    logits, ious, _ = predictor._predict(*prompt, multimask_output=multimask, return_logits=True)
                    outputs[f"{name}, {mode}"] = {"logits": logits, "predicted IoU": ious}
        return flat(outputs)

    def ours(self, model: Sam2Model) -> Outputs:
        features = model.encode_image(self.images)
        outputs = {"features": features_by_stride(model.without_memory(features), features.stride_8, features.stride_4)}
        for mode, (multimask, fallback) in self.MODES.items():
            for name, prompt in self.prompts.items():
                out = predict(model, features, *prompt, multimask=multimask, stability_fallback=fallback)
                outputs[f"{name}, {mode}"] = {"logits": out.logits, "predicted IoU": out.ious}
        return flat(outputs)


def features_by_stride(stride_16: Tensor, stride_8: Tensor, stride_4: Tensor) -> Outputs:
    return {"stride 16": stride_16, "stride 8": stride_8, "stride 4": stride_4}


def gated(masks: Tensor) -> Outputs:
    """Masks apart from the logit of absent objects, beside whose size no other difference would be seen."""
    present = masks != ABSENT_LOGIT
    return {"mask": masks * present, "present": present.float()}


def flat(outputs: dict[str, Outputs]) -> Outputs:
    return {f"{outer}: {inner}": value for outer, values in outputs.items() for inner, value in values.items()}


STAGES: tuple[type[Stage], ...] = (
    ImageEncoder,
    MemoryAttention,
    MemoryEncoder,
    PromptEncoder,
    MaskDecoder,
    SamHeads,
    MaskPointer,
    ImagePath,
)
COMPARED = STAGES[1:]  # the last one includes the first
