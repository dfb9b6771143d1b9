"""The sizes of SAM 2, the settings of a network, and how to infer them from a state dict. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

# What can run a network (:mod:`.runtimes`); after a colon the device or the provider
RUNTIMES = (
    "auto", "torch", "openvino", "openvino:gpu", "onnxruntime", "onnxruntime:openvino", "onnxruntime:cuda",
    "onnxruntime:tensorrt",
)  # fmt: skip

DTYPES = ("auto", "float32", "bfloat16", "int8")  # of a network; see :func:`.graph_network.options_of`

_MOST = {
    "embed_dim": 1024, "num_heads": 64, "stages": 64, "global_blocks": 256, "window_sizes": 64, "position_grid": 64,
    "image_size": 4096, "memory_dim": 256, "memory_layers": 32, "memory_ffn": 1 << 14, "memory_pool": 16,
    "fuser_layers": 32, "high_res_channels": 4096, "appearance_dim": 4096, "appearance_hidden": 4096, "vit_width": 4096,
    "perceiver_side": 64, "width": 4096, "depth": 128, "hidden": 1 << 14, "window": 64,
}  # fmt: skip
"""The largest value of each size, so that a file can't ask for any amount of memory or time."""


@dataclass(frozen=True)
class HieraConfig:
    """The Hiera trunk (Ryali et al., "Hiera", 2023) in the sizes that SAM 2 uses."""

    embed_dim: int  # channels of the first stage; doubled at each later one
    num_heads: int  # attention heads of the first stage; doubled at each later one
    stages: tuple[int, int, int, int]  # blocks per stage
    global_blocks: tuple[int, ...]  # blocks that attend over the whole image
    window_sizes: tuple[int, int, int, int] = (8, 4, 14, 7)  # tokens, per stage
    position_grid: int = 7  # side of the coarse position embedding


HIERA = {
    "tiny": HieraConfig(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "small": HieraConfig(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "base_plus": HieraConfig(112, 2, (2, 3, 16, 3), (12, 16, 20), position_grid=14),
    "large": HieraConfig(144, 2, (2, 6, 36, 4), (23, 33, 43), window_sizes=(8, 4, 16, 8)),
}
SIZES = ", ".join(HIERA)  # for messages and help


@dataclass(frozen=True)
class RotaryViTConfig:
    """The plain vision transformer of SAM 3 (Carion et al., "SAM 3: Segment Anything with Concepts", 2025)."""

    width: int = 1024  # channels; 64 in each attention head
    depth: int = 32  # blocks; the last of each quarter attends over the whole image
    hidden: int = 4736  # width of the feed-forward part
    window: int = 24  # tokens, side of a window and of the position embedding


# Official checkpoints: name, bytes, SHA-256. Meta publishes no checksums; independent projects pin these, such as
# computational-cell-analytics/micro-sam.
CHECKPOINT_FILES = (
    ("tiny", 156_008_466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    ("small", 184_416_285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    ("base_plus", 323_606_802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    ("large", 898_083_611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    ("tiny-2.0", 155_906_050, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    ("small-2.0", 184_309_650, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    ("base_plus-2.0", 323_493_298, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    ("large-2.0", 897_952_466, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to build a :class:`~sam2_ros.model.sam2.Sam2Model`."""

    name: str
    trunk: Literal["hiera", "tinyvit", "vit", "repvit", "sam3"] = "hiera"
    hiera: HieraConfig = HIERA["tiny"]
    vit_width: int = 384  # channels of the plain ViT; a multiple of 64
    rotary_vit: RotaryViTConfig = RotaryViTConfig()  # of the trunk "sam3"
    image_size: int = 1024  # pixels, side of the square input; a multiple of 32, with the trunk "sam3" of 14
    memory_dim: int = 64  # channels of a memory token
    memory_layers: int = 4  # layers of memory attention
    memory_ffn: int = 2048  # hidden width of its feed-forward part
    memory_pool: int = 1  # memory tokens are averaged over squares of this side before they are stored
    perceiver_side: int = 0  # a memory is condensed to twice the square of this many tokens; 0 = one token a cell
    fuser_layers: int = 2  # of the memory encoder
    high_res_channels: tuple[int, int] = (256, 256)  # of the encoder's stride-4 and stride-8 maps; 0 = it has none
    image_code_scale: float = 1.0  # factor of the memory attention's sine code, for features of another magnitude
    occlusion_embedding: bool = True  # this one and the next are what SAM 2.1 added to SAM 2.0
    pointer_time_code: bool = True
    visibility_scale: float = 1.0  # visibility = sigmoid(scale * object score + bias); plain unless calibrated
    visibility_bias: float = 0.0
    remember_absence: bool = True  # frames without the object enter its memory, as in SAM 2; see memory_waits
    appearance_dim: int = 0  # channels of the metric that recognises objects (model/appearance.py); 0 = no such metric
    appearance_hidden: int = 192  # width of its hidden layer
    present_iou: float = 0.0  # an object counts as not seen below this predicted IoU; 0 = off

    hidden_dim = 256
    num_memory_frames = 7  # a prompted one and six recent ones: rows of the temporal code
    max_pointers = 16

    @property
    def version(self) -> str:
        """ "2.1" or "2.0"."""
        return "2.1" if self.occlusion_embedding else "2.0"

    @property
    def memory_waits(self) -> bool:
        """Whether an object's memories stop ageing while it is not seen: by training, or with ``present_iou``."""
        return bool(self.present_iou) or not self.remember_absence

    @property
    def stride(self) -> int:
        """Pixels of the input along each side of a cell of the coarsest map that the decoder sees. What is called
        "stride 16" elsewhere has this stride, and the finer maps half and a quarter of it."""
        return 14 if self.trunk == "sam3" else 16

    @property
    def size_step(self) -> int:
        """What :attr:`image_size` is a multiple of, pixels."""
        return 14 if self.trunk == "sam3" else 32

    def scaled_size(self, scale: float) -> int:
        """The possible side of the input nearest to ``scale`` times :attr:`image_size`."""
        return max(2, round(scale * self.image_size / self.size_step)) * self.size_step

    @property
    def normalisation(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation of RGB from 0 to 1, which become 0 and 1 in the input."""
        if self.trunk == "sam3":
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    @property
    def grid(self) -> int:
        """Side of the stride-16 feature map."""
        return self.image_size // self.stride

    @property
    def mask_size(self) -> int:
        """Side of the masks that the memory encoder takes: 16 for each cell, whatever the stride."""
        return 16 * self.grid

    @property
    def memory_grid(self) -> int:
        """Side of the memory encoder's map."""
        return self.grid // self.memory_pool

    @property
    def memory_tokens(self) -> int:
        """Tokens of a stored memory."""
        return 2 * self.perceiver_side**2 or self.memory_grid**2

    @property
    def windows(self) -> bool:
        """Whether ``auto`` means on for ``tracker.window`` and ``tracker.edges``: for the embedded model, with which
        both were measured."""
        return self.trunk == "tinyvit"

    def __post_init__(self) -> None:
        check_numbers(self)
        check_numbers(self.hiera)
        check_numbers(self.rotary_vit)
        heads, width = self.hiera.num_heads, self.hiera.embed_dim
        if not heads or width % heads:
            raise ValueError(f"num_heads is {heads}; accepted: divisors of embed_dim, {width}")
        for name, step in (("width", 64), ("depth", 4), ("hidden", 1), ("window", 1)):
            if (value := getattr(self.rotary_vit, name)) % step or not value:
                raise ValueError(f"{name} is {value}; accepted: multiples of {step}, without 0")
        if 0 in self.hiera.window_sizes:
            raise ValueError(f"window_sizes is {self.hiera.window_sizes}; accepted: 1 and more")
        if self.trunk not in ("hiera", "tinyvit", "vit", "repvit", "sam3"):
            raise ValueError(f"trunk is {self.trunk!r}; accepted: 'hiera', 'tinyvit', 'vit', 'repvit', 'sam3'")
        if self.vit_width % 64 or not self.vit_width:
            raise ValueError(f"vit_width is {self.vit_width}; accepted: multiples of 64")
        if all(self.high_res_channels) == (self.trunk == "vit"):
            accepted = "(0, 0) with trunk 'vit', more with the others"
            raise ValueError(f"high_res_channels is {self.high_res_channels}; accepted: {accepted}")
        if self.image_size % self.size_step or self.image_size < 2 * self.size_step:
            accepted = f"multiples of {self.size_step} from {2 * self.size_step} on"
            raise ValueError(f"image_size is {self.image_size}; accepted: {accepted}")
        if self.appearance_dim and self.trunk != "tinyvit":
            raise ValueError(f"appearance_dim is {self.appearance_dim}; accepted: 0 with trunk '{self.trunk}'")
        if self.memory_pool < 1 or self.grid % self.memory_pool:
            raise ValueError(f"memory_pool {self.memory_pool} does not divide the feature grid of {self.grid}")
        if self.memory_dim < 1 or self.hidden_dim % self.memory_dim:
            raise ValueError(f"memory_dim is {self.memory_dim}; accepted: divisors of {self.hidden_dim}")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as our own checkpoints store them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of :meth:`to_dict`, also of lists in place of tuples; TypeError or ValueError where it fails."""
        known = _with_tuples(values)
        if not isinstance(known.get("name"), str) or not known["name"].isprintable() or len(known["name"]) > 100:
            raise ValueError("name is missing, or no short text")
        if "hiera" in known:
            known["hiera"] = HieraConfig(**_with_tuples(known["hiera"]))
        if "rotary_vit" in known:
            known["rotary_vit"] = RotaryViTConfig(**known["rotary_vit"])
        return cls(**known)


def check_numbers(config: HieraConfig | RotaryViTConfig | ModelConfig) -> None:
    """Refuses numbers and flags of another type than the default's, and sizes that no network has.

    Raises:
        ValueError: with the field and what is accepted.
    """
    for field in fields(config):
        value, accepted = getattr(config, field.name), ""
        if isinstance(field.default, bool):
            accepted = "" if isinstance(value, bool) else "True or False"
        elif isinstance(field.default, float):
            accepted = "" if isinstance(value, int | float) and math.isfinite(value) else "a finite number"
        elif field.name in _MOST:
            most, kind = _MOST[field.name], str(field.type)  # "int", "tuple[int, int]", "tuple[int, ...]"
            several = value if isinstance(value, tuple) and kind != "int" else (value,)
            if not all(type(number) is int and 0 <= number <= most for number in several):
                accepted = f"whole numbers up to {most}"
            elif kind != "int" and "..." not in kind and len(several) != kind.count("int"):
                accepted = f"{kind.count('int')} whole numbers up to {most}"
        if accepted:
            raise ValueError(f"{field.name} is {str(value)[:40]!r}; accepted: {accepted}")


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in dict(values).items()}


_AS_IN_SAM_2_0: dict[str, Any] = {"occlusion_embedding": False, "pointer_time_code": False}
_WITHOUT_FINER_MAPS: dict[str, Any] = {"trunk": "vit", "high_res_channels": (0, 0), **_AS_IN_SAM_2_0}
EDGE_MODELS = {
    "edgetam": ModelConfig("edgetam", trunk="repvit", memory_layers=2, perceiver_side=16, **_AS_IN_SAM_2_0),
    "efficienttam_ti": ModelConfig("efficienttam_ti", vit_width=192, **_WITHOUT_FINER_MAPS),
    "efficienttam_s": ModelConfig("efficienttam_s", vit_width=384, **_WITHOUT_FINER_MAPS),
}
"""Models of others for small machines, with SAM 2's parts behind an image encoder of their own."""
WHOLE_SIDE, WINDOW_SIDE = 448, 384
"""Sides of the embedded model's input, pixels: for whole frames, and for what is seen through windows, where a frame
takes four fifths of the time."""
SAM3 = ModelConfig("sam3", trunk="sam3", image_size=1008)
"""The tracker of SAM 3: SAM 2.1's parts behind an image encoder of its own."""


def infer_config(state: Mapping[str, Tensor]) -> ModelConfig:
    """Infers the configuration of an official checkpoint from its tensors.

    Raises:
        ValueError: the tensors are not those of a video model of SAM 2, SAM 2.1, SAM 3, EdgeTAM or EfficientTAM.
    """
    if "spatial_perceiver.latents" in state:
        return EDGE_MODELS["edgetam"]
    patch = state.get("image_encoder.trunk.patch_embed.proj.weight")
    if "image_encoder.trunk.ln_pre.weight" in state:
        return _infer_sam3(state)
    if patch is None or patch.ndim != 4:
        raise ValueError(
            "not a SAM 2 checkpoint: 'image_encoder.trunk.patch_embed.proj.weight' is missing; accepted: the official "
            f"SAM 2.0 and 2.1 checkpoints ({SIZES}), SAM 3's, EdgeTAM's, EfficientTAM's and sam2_ros's own"
        )
    width = patch.shape[0]
    if "image_encoder.neck.convs.0.conv_1x1.weight" in state:
        plain = {config.vit_width: config for config in EDGE_MODELS.values() if config.trunk == "vit"}
        if width not in plain:
            known = ", ".join(f"{config.name} ({each} wide)" for each, config in plain.items())
            raise ValueError(f"unknown EfficientTAM size: {width} wide; accepted: {known}")
        return plain[width]
    depth = len({key.split(".")[3] for key in state if key.startswith("image_encoder.trunk.blocks.")})
    name = next((n for n, h in HIERA.items() if (h.embed_dim, sum(h.stages)) == (width, depth)), None)
    if name is None:
        known = ", ".join(f"{n} ({h.embed_dim} wide, {sum(h.stages)} blocks)" for n, h in HIERA.items())
        raise ValueError(f"unknown SAM 2 size: {width} wide, {depth} blocks; accepted: {known}")
    new = "no_obj_embed_spatial" in state or "obj_ptr_tpos_proj.weight" in state
    return official_config(name if new else f"{name}-2.0")


def _infer_sam3(state: Mapping[str, Tensor]) -> ModelConfig:
    """Sizes of the trunk by the shapes in ``state``: the real ones, or small ones for tests."""
    trunk = "image_encoder.trunk."
    depth = len({key.split(".")[3] for key in state if key.startswith(f"{trunk}blocks.")})
    for name, axes in ((position := f"{trunk}pos_embed", 3), (first := f"{trunk}blocks.0.mlp.layers.0.weight", 2)):
        if name not in state or state[name].ndim != axes:
            raise ValueError(f"not a SAM 3 checkpoint: tensor '{name}' is missing or has not {axes} axes")
    _, cells, width = state[position].shape
    window = math.isqrt(cells)
    sizes = RotaryViTConfig(width, depth, state[first].shape[0], window)
    return replace(SAM3, rotary_vit=sizes, image_size=SAM3.stride * 3 * window)


def official_config(name: str) -> ModelConfig:
    """The configuration of an official model, such as ``tiny`` (SAM 2.1), ``tiny-2.0``, ``sam3`` or a key of
    :data:`EDGE_MODELS`; KeyError for other names."""
    if name == SAM3.name:
        return SAM3
    if name in EDGE_MODELS:
        return EDGE_MODELS[name]
    size, _, version = name.partition("-")
    new = version != "2.0"
    name = f"sam2{'.1' if new else ''}_hiera_{size}"
    return ModelConfig(name, hiera=HIERA[size], occlusion_embedding=new, pointer_time_code=new)
