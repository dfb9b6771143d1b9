"""The official networks of EdgeTAM and EfficientTAM, out of their wheels, with drawn weights, and ours beside them.

``make setup`` puts the wheels beside the environment's packages without installing them, since both are called
``sam2``.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from parity_stages import MemoryAttention, MemoryEncoder, Outputs, Pair, SamHeads, tokens_first
from sam2_reference import draw_weights, without_initialisation
from torch import Tensor, nn

from sam2_ros.model import load_model

WHEELS = Path(sys.prefix) / "references"
EFFICIENT_TAM = {"efficienttam_s": 384, "efficienttam_ti": 192}
NAMES = ("edgetam", *EFFICIENT_TAM)


def wheel(package: str) -> str:
    found = sorted(WHEELS.glob(f"{package}-*.whl"))
    if not found:
        pytest.skip(f"{package} is not in {WHEELS}; make setup puts it there")
    return str(found[0])


@contextmanager
def package_sam2(package: str) -> Iterator[None]:
    """``sam2`` is what the wheel of ``package`` has under this name."""

    def loaded() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "sam2"}

    before, place = loaded(), wheel(package)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, place)
    # Neither reads its configuration files here, and hydra takes them from one package only.
    unused = (mock.patch(f"hydra.{name}") for name in ("initialize", "initialize_config_module"))
    try:
        with next(unused), next(unused):
            yield
    finally:
        sys.path.remove(place)
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)


class StandIn(ModuleType):
    """A module whose every name is an empty class: for what is imported and not used here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def timm() -> Iterator[None]:
    """The network and layers of ``timm``, without its data sets and its other networks, and without torchvision."""

    def package(name: str) -> Any:
        module = ModuleType(name)
        module.__path__ = [f"{wheel('timm')}/{name.replace('.', '/')}"]
        return module

    unused = "torchvision", "torchvision.ops", "torchvision.ops.misc", "torchvision.models", "timm.data"
    modules = {name: StandIn(name) for name in (*unused, "torchvision.models.feature_extraction")}
    top, models = package("timm"), package("timm.models")
    top.__version__ = "1.0.31"
    with mock.patch.dict(sys.modules, {**modules, "timm": top, "timm.models": models}):
        importlib.import_module("timm.models.repvit")
        create = importlib.import_module("timm.models._factory").create_model
        models.create_model = lambda name, **options: create(name, **{**options, "pretrained": False})
        yield


def build_reference(name: str, image_size: int) -> Any:
    """The official network as its configuration file describes it, for another input size."""
    with warnings.catch_warnings(), without_initialisation():
        warnings.simplefilter("ignore")
        if name == "edgetam":
            with timm(), package_sam2("edgetam_dimos"):
                return _edgetam(image_size)
        with package_sam2("efficient_track_anything"):
            return _efficient_tam(EFFICIENT_TAM[name], image_size)


def _part(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"sam2.modeling.{module}"), name)


def _edgetam(image_size: int) -> Any:
    """As ``configs/edgetam.yaml`` has it."""
    grid = [image_size // 16] * 2
    trunk = _part("backbones.timm.TimmBackbone")("repvit_m1.dist_in1k", ["layer0", "layer1", "layer2", "layer3"])
    neck = _part("backbones.image_encoder.FpnNeck")(
        _sine(256), 256, [384, 192, 96, 48], fpn_top_down_levels=[2, 3], fpn_interp_model="nearest"
    )
    cross = _part("sam.transformer.RoPEAttentionv2")(
        q_sizes=grid, k_sizes=[16, 16], embedding_dim=256, num_heads=1, kv_in_dim=64
    )
    perceiver = _part("perceiver.PerceiverResampler")(
        dim=64, depth=2, num_latents=256, num_latents_2d=256, hidden_dropout_p=0.0, attention_dropout_p=0.0,
        pos_enc_at_key_value=True, position_encoding=_sine(64), use_self_attn=True,
    )  # fmt: skip
    encoder = _part("backbones.image_encoder.ImageEncoder")(trunk, neck, scalp=1)
    return _network(encoder, cross, 2, image_size, use_high_res_features_in_sam=True, spatial_perceiver=perceiver)


def _efficient_tam(width: int, image_size: int) -> Any:
    """As ``configs/efficienttam/efficienttam_s.yaml`` and its sibling have it."""
    trunk = _part("backbones.vitdet.ViT")(embed_dim=width, depth=12, num_heads=width // 64)
    neck = _part("backbones.image_encoder.ViTDetNeck")(_sine(256), 256, [width], neck_norm="LN")
    grid = [image_size // 16] * 2
    cross = _part("sam.transformer.RoPEAttention")(
        feat_sizes=grid, rope_k_repeat=True, embedding_dim=256, num_heads=1, kv_in_dim=64
    )
    return _network(_part("backbones.image_encoder.ImageEncoder")(trunk, neck), cross, 4, image_size)


def _sine(channels: int) -> Any:
    return _part("position_encoding.PositionEmbeddingSine")(channels)


def _network(encoder: Any, cross: Any, layers: int, image_size: int, **options: Any) -> Any:
    """What both have in common, which is SAM 2.0's."""
    own = _part("sam.transformer.RoPEAttention")(feat_sizes=[image_size // 16] * 2, embedding_dim=256, num_heads=1)
    layer = _part("memory_attention.MemoryAttentionLayer")("relu", cross, 256, 2048, 0.0, False, True, False, own)
    memory = importlib.import_module("sam2.modeling.memory_encoder")
    return _part("sam2_base.SAM2Base")(
        encoder,
        _part("memory_attention.MemoryAttention")(256, True, layer, layers),
        memory.MemoryEncoder(
            64, memory.MaskDownSampler(256, 3, 2, 1), memory.Fuser(memory.CXBlock(256, 7, 3), 2), _sine(64)
        ),
        image_size=image_size, sigmoid_scale_for_mem_enc=20.0, sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True, directly_add_no_mem_embed=True, multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True, use_obj_ptrs_in_encoder=True, add_tpos_enc_to_obj_ptrs=False,
        only_obj_ptrs_in_the_past_for_eval=True, pred_obj_scores=True, pred_obj_scores_mlp=True, fixed_no_obj_ptr=True,
        multimask_output_for_tracking=True, use_multimask_token_for_obj_ptr=True, multimask_min_pt_num=0,
        multimask_max_pt_num=1, use_mlp_for_obj_ptr_proj=True, **options,
    ).eval().requires_grad_(False)  # fmt: skip


@torch.no_grad()
def draw(reference: Any, image_size: int, seed: int, gain: float) -> None:
    """Draws weights; batch normalisation gets its statistics from a drawn image, so that activations stay moderate."""
    draw_weights(reference, seed, gain)
    norms = [module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = 1.0
    if norms:
        reference.image_encoder.trunk(torch.randn(1, 3, image_size, image_size, generator=torch.Generator()))
    for norm in norms:
        norm.eval()


def build_pair(name: str, image_size: int, folder: Path, seed: int = 0, gain: float = 1.4) -> Pair:
    """Both networks with drawn weights, which ours loads from a file as the authors publish it."""
    reference = build_reference(name, image_size)
    draw(reference, image_size, seed, gain)
    SamHeads(image_size, finer=name == "edgetam").balance_object_score(reference)
    path = folder / f"{name}.pt"
    torch.save({"model": reference.state_dict()}, path)
    return Pair(reference, load_model(path, image_size=image_size))


def encode_memory(reference: Any, stride_16: Tensor, logits: Tensor, binarize: bool) -> tuple[Tensor, Tensor]:
    """The reference's memory of one object and its position code, ``[N, 64]`` each."""
    options = {}
    if "object_score_logits" in inspect.signature(reference._encode_new_memory).parameters:
        options["object_score_logits"] = torch.ones(1, 1)
    with mock.patch.object(reference, "binarize_mask_from_pts_for_mem_enc", True):
        memory, codes = reference._encode_new_memory(
            current_vision_feats=[tokens_first(stride_16)], feat_sizes=[tuple(stride_16.shape[2:])],
            pred_masks_high_res=logits, is_mask_from_pts=binarize, **options,
        )  # fmt: skip
    memory, code = (each if each.ndim == 3 else each.flatten(2).transpose(1, 2) for each in (memory, codes[-1]))
    return memory[0], code[0]


class EdgeMemoryEncoder(MemoryEncoder):
    """One object after another, since EdgeTAM's perceiver takes no more on a CPU; these networks know no absence."""

    covers = ("memory_encoder.", "spatial_perceiver.")

    def reference(self, reference: Any) -> Outputs:
        rows = [
            encode_memory(reference, self.image.stride_16, self.logits[row, None], bool(self.binarize[row]))
            for row in range(len(self.logits))
        ]
        return {"memory": torch.stack([memory for memory, _ in rows]), "code": rows[0][1]}


class CondensedMemoryAttention(MemoryAttention):
    """Memories as EdgeTAM's perceiver makes them."""

    def memory(self) -> Tensor:
        return self.normal(1, 512, 64)

    def code(self, reference: Any, memory: Tensor) -> Tensor:
        code = reference.spatial_perceiver.position_encoding(memory.new_zeros(1, 64, 16, 16)).flatten(2).transpose(1, 2)
        return torch.cat((torch.zeros_like(code), code), dim=1)
