"""Features of a frozen image encoder on disk, so that a training step never runs the encoder.

Stride 16 is stored in float16. The two high-resolution maps, which only refine edges, are stored in 8 bits with a scale
per channel. A 448 px frame takes 1.8 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sam2_ros.training.clips import Clip

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CHANNELS = (64, 128, 256)  # strides 4, 8, 16


@dataclass(frozen=True)
class ClipEntry:
    """Where a clip lies in the store."""

    name: str
    start: int
    length: int


@dataclass(frozen=True)
class Frame:
    """One frame of a store: maps ``[1, C, H, W]`` float32 at strides 4, 8, 16; labels ``uint8 [S, S]``."""

    stride_4: Tensor
    stride_8: Tensor
    stride_16: Tensor
    labels: NDArray[np.uint8]


def normalise(frames: NDArray[np.uint8], dtype: torch.dtype) -> Tensor:
    """RGB ``uint8 [N, S, S, 3]`` to the network's ``[N, 3, S, S]``."""
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    return ((images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)).to(dtype)


class FeatureStore:
    """Memory-mapped features and labels of clips; made by :meth:`build`."""

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "index.json").read_text())
        self.clips = [ClipEntry(**entry) for entry in meta["clips"]]
        self.size: int = meta["size"]
        self.count = sum(entry.length for entry in self.clips)
        self._maps = [np.load(folder / f"stride_{stride}.npy", mmap_mode="r") for stride in (4, 8, 16)]
        self._labels = np.load(folder / "labels.npy", mmap_mode="r")
        scales = np.load(folder / "scales.npz")
        self._scales = [torch.from_numpy(scales[name]) for name in ("stride_4", "stride_8")]

    def __getitem__(self, index: int) -> Frame:
        maps = []
        for level, array in enumerate(self._maps):
            tensor = torch.from_numpy(np.array(array[index])).float()
            if level < 2:
                tensor = tensor * self._scales[level]
            maps.append(tensor.permute(2, 0, 1)[None])
        return Frame(maps[0], maps[1], maps[2], np.array(self._labels[index]))

    def coarse(self, index: int) -> tuple[Tensor, Tensor]:
        """A frame's maps ``[1, C, H, W]`` float32 at strides 8 and 16."""
        fine = torch.from_numpy(np.array(self._maps[1][index])).float() * self._scales[1]
        coarse = torch.from_numpy(np.array(self._maps[2][index])).float()
        return fine.permute(2, 0, 1)[None], coarse.permute(2, 0, 1)[None]

    def label(self, index: int) -> NDArray[np.uint8]:
        return np.array(self._labels[index])

    @classmethod
    def build(
        cls, folder: Path, clips: Iterable[Clip], total: int, size: int, encoder: nn.Module, dtype: torch.dtype
    ) -> FeatureStore:
        """Encodes ``clips`` (at most ``total`` frames of ``size`` px) into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = [
            np.lib.format.open_memmap(
                folder / f"stride_{stride}.npy",
                "w+",
                np.float16 if stride == 16 else np.int8,
                (total, size // stride, size // stride, channels),
            )
            for stride, channels in zip((4, 8, 16), CHANNELS, strict=True)
        ]
        labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, (total, size, size))
        entries: list[ClipEntry] = []
        scales: list[Tensor] = []
        position = 0
        for clip in clips:
            length = min(len(clip.frames), total - position)
            if length <= 0:
                break
            for t in range(length):
                with torch.inference_mode():
                    maps = [m.float() for m in encoder(normalise(clip.frames[t : t + 1], dtype))]
                if not scales:
                    # 1.5 times the first frame's extreme, but at least half of an average channel's, because a
                    # channel may be near zero in one frame; larger values are clipped.
                    extremes = [m.abs().amax(dim=(0, 2, 3)) for m in maps[:2]]
                    scales = [torch.maximum(e, 0.5 * e.mean()) * (1.5 / 127) for e in extremes]
                    np.savez(folder / "scales.npz", stride_4=scales[0].numpy(), stride_8=scales[1].numpy())
                for level, array in enumerate(arrays):
                    values = maps[level][0].permute(1, 2, 0)
                    if level < 2:
                        values = (values / scales[level]).round().clamp(-127, 127)
                    array[position + t] = values.numpy().astype(array.dtype)
                labels[position + t] = clip.labels[t]
            entries.append(ClipEntry(clip.name, position, length))
            position += length
            index = {"size": size, "clips": [asdict(entry) for entry in entries]}
            (folder / "index.json").write_text(json.dumps(index))
        return cls(folder)
