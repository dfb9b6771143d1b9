"""Measures the inputs of the image encoder's layers, for int8: ``python -m recipes.embedded quantise --help``.

The limits of a layer are the mean, over pictures, of its lowest and of its highest input. What lies beyond them is
clipped: limits that hold everything would double the error. The stem and the first stage stay as they are: they would
add most of the error on plain surfaces, and save little.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.embedded.data import sequence_names
from sam2_ros.media.image_folder import images_of, read_image
from sam2_ros.model import load_model
from sam2_ros.model.int8_limits import digest, layers
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.model.weight_files import EMBEDDED_INT8

EXACT = ("trunk.patch_embed", "trunk.stages.0")
OF_EACH = 40  # pictures of a folder


def pictures(folders: list[Path], davis: Path | None) -> dict[str, Path]:
    """Pictures evenly chosen from each folder, and the middle ones of the sequences of DAVIS' list ``fit``, by name."""
    chosen = []
    for folder in folders:
        files = images_of(folder)
        chosen += [files[int(place)] for place in np.unique(np.linspace(0, len(files) - 1, OF_EACH).astype(int))]
    for name in sequence_names(davis, "fit") if davis else []:
        assert davis is not None
        frames = images_of(davis / "JPEGImages" / name)
        chosen.append(frames[len(frames) // 2])
    return {f"{path.parent.name}/{path.name}": path for path in chosen}


def measure(model: Sam2Model, files: list[Path]) -> dict[str, tuple[float, float]]:
    """The limits of each layer that may run in int8."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, layer in layers(model.image_encoder).items():
        if not name.startswith(EXACT):
            layer.forward = _noting(layer, found.setdefault(name, []))
    with torch.inference_mode():
        for file in files:
            model.image_maps(model.preprocess(torch.from_numpy(read_image(file))))
    means = {name: np.mean(extremes, axis=0) for name, extremes in found.items()}
    return {name: (float(f"{low:.5g}"), float(f"{high:.5g}")) for name, (low, high) in means.items()}


def _noting(layer: nn.Module, extremes: list[tuple[float, float]]) -> Callable[..., Any]:
    forward = layer.forward

    def noted(x: Tensor, *rest: Any) -> Any:
        extremes.append((min(0.0, float(x.min())), max(0.0, float(x.max()))))
        return forward(x, *rest)

    return noted


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded quantise", description=__doc__)
    parser.add_argument("--model", default="embedded", help="checkpoint: embedded (default), or a path")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help=f"folders; {OF_EACH} pictures of each")
    parser.add_argument("--davis", type=Path, help="the middle picture of each sequence of its fit.txt")
    parser.add_argument("--out", type=Path, default=EMBEDDED_INT8, help="file to write")
    args = parser.parse_args(argv)
    model, chosen = load_model(args.model), pictures(args.images, args.davis)
    limits = measure(model, list(chosen.values()))
    about = {"encoder": digest(model.image_encoder), "limits": limits, "pictures": list(chosen)}
    text = json.dumps(about, indent=1).replace(",\n   ", ", ").replace("[\n   ", "[").replace("\n  ]", "]")
    args.out.write_text(text + "\n", encoding="utf-8")
    print(f"{args.out}: limits of {len(limits)} layers, from {len(chosen)} pictures")


if __name__ == "__main__":
    main()
