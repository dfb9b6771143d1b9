"""Measures a checkpoint with one setting changed at a time: ``python -m recipes.embedded ablate --help``.

The weights stay the same, and the measurement is that of ``sam2_ros eval --no-windows``. Input size and pooling can be
changed because positions are computed, not stored. A network trained with the changed setting may score otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recipes.embedded.export import export
from sam2_ros.evaluation.datasets import open_dataset
from sam2_ros.evaluation.results import mean
from sam2_ros.evaluation.scoring import RULES
from sam2_ros.evaluation.semi_supervised import PROMPT_KINDS, run_sequence
from sam2_ros.inference.local import LocalBackend, load_shared_model
from sam2_ros.media.progress import bar
from sam2_ros.model import load_model
from sam2_ros.tracking import TrackerConfig

WHOLE = TrackerConfig(window="off")


@dataclass(frozen=True)
class Variant:
    """A checkpoint with one setting changed."""

    name: str
    model: str
    image_size: int = 0  # 0: the checkpoint's own
    config: TrackerConfig = WHOLE


def variants(model: str, folder: Path) -> Iterator[Variant]:
    """The unchanged checkpoint, then one setting changed at a time; writes changed checkpoints to ``folder``."""
    network = load_model(model)
    config = network.config
    yield Variant("unchanged", model)
    for size in (config.image_size - 128, config.image_size - 64, config.image_size + 64):
        yield Variant(f"input {size} px", model, image_size=size)
    for slots in (1, 2, 4):
        yield Variant(f"{slots} of 6 recent frames", model, config=replace(WHOLE, recent_slots=slots))
    for name, changed in (
        ("memory not pooled", replace(config, memory_pool=1)),
        ("absences remembered", replace(config, remember_absence=True, present_iou=0.0)),
        ("absences not remembered", replace(config, remember_absence=False)),
    ):
        if changed != config:
            path = folder / f"{name.replace(' ', '_')}.pt"
            network.config = changed
            export(network, path, quiet=True)
            yield Variant(name, str(path))
            network.config = config


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded ablate", description=__doc__)
    parser.add_argument("--model", default="embedded", help="checkpoint (default: embedded)")
    parser.add_argument("--data", type=Path, required=True, help="labelled sequences, as for sam2_ros eval")
    parser.add_argument("--list", type=Path, help="text file with the sequences to take")
    parser.add_argument("--prompt", choices=PROMPT_KINDS, default="box")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default: torch's choice)")
    args = parser.parse_args(argv)
    dataset = open_dataset(args.data, listed=args.list)
    print(f"| {'variant':28} | J | frames/s |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants(args.model, Path(folder)):
            scores: list[float] = []
            seconds: list[float] = []
            with bar(len(dataset.names), "sequence", quiet=False, title=variant.name) as progress:
                for name in dataset.names:
                    sequence = dataset.open(name)
                    config = replace(variant.config, max_objects=max(1, len(sequence.first_frames)))
                    network = load_shared_model(variant.model, image_size=variant.image_size, threads=args.threads)
                    with closing(LocalBackend(network, config)) as backend:
                        result = run_sequence(sequence, backend, args.prompt, 1, RULES[dataset.layout])
                    scores.append(mean(score.j for score in result.scores))
                    seconds += result.seconds
                    progress.update()
            print(f"| {variant.name:28} | {np.mean(scores):.3f} | {1 / np.mean(seconds):.1f} |", flush=True)
