"""Makes the embedded checkpoint: ``python -m sam2_ros.training.embedded --help``.

Features of the frozen encoder on disk; a first training, which turns feature matching into tracking; a second one on
clips in which objects are covered and leave; a third one with a second layer of memory attention, which also sees
objects from close by; export. What is there already is not made again, and an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sam2_ros.model import load_model
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.model.tinyvit import TinyViTEncoder
from sam2_ros.training import clips as clips_module
from sam2_ros.training import mobilesam
from sam2_ros.training.clips import Clip, Image, Still
from sam2_ros.training.evaluate import evaluate
from sam2_ros.training.export import export
from sam2_ros.training.features import FeatureStore
from sam2_ros.training.initialise import Matching, deepened, embedded_config, initial_model, score_from_iou
from sam2_ros.training.loop import Phase, Schedule, Trainer
from sam2_ros.training.sampling import PROMPT_KINDS, Sampler, Source
from sam2_ros.training.synthetic import OcclusionClips

ENCODER_DTYPE = torch.bfloat16  # as the tracker runs it on a CPU
COMPOSITE_LENGTH = 6
PHASES = (Phase(200, 4, 3), Phase(1400, 4, 4), Phase(2000, 3, 6))
OCCLUSIONS = {  # clips and their frames, by store
    "occlusion": (450, 10),
    "longer_occlusion": (160, 20),
    "longest_occlusion": (130, 40),
}
SECOND_PHASES = (Phase(1600, 3, 8), Phase(3200, 2, 12))
THIRD_PHASES = (Phase(600, 3, 8), Phase(1900, 2, 12))
LAYERS = 2  # of memory attention in the third training


def phase(text: str) -> Phase:
    """Reads ``UNTIL:CLIPS:LENGTH``."""
    until, clips, length = (int(part) for part in text.split(":"))
    return Phase(until, clips, length)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sam2_ros.training.embedded", description=__doc__)
    parser.add_argument("--mobilesam", type=Path, required=True, help="MobileSAM's mobile_sam.pt")
    parser.add_argument("--davis", type=Path, required=True, help="JPEGImages/, Annotations/, fit.txt and dev.txt")
    parser.add_argument("--coco", type=Path, required=True, help="images/ and labels/ with YOLO polygons")
    parser.add_argument("--stills", type=Path, required=True, help="images/ and annotations.json in COCO's format")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and training state (about 22 GB)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--size", type=int, default=448, help="side of the network's input (default: 448)")
    parser.add_argument("--composites", type=int, default=530, help="clips made of stills (default: 530)")
    parser.add_argument(
        "--phases",
        type=phase,
        nargs="+",
        default=PHASES,
        metavar="UNTIL:CLIPS:LENGTH",
        help="up to which update how many clips of how many frames make one (default: 200:4:3 1400:4:4 2000:3:6)",
    )
    parser.add_argument("--first-stage", type=Path, help="checkpoint of the first training, instead of doing it")
    parser.add_argument("--second-stage", type=Path, help="checkpoint of the second training, instead of both")
    for name, phases in (("second", SECOND_PHASES), ("third", THIRD_PHASES)):
        usual = " ".join(f"{p.until}:{p.clips}:{p.length}" for p in phases)
        parser.add_argument(
            f"--{name}-phases",
            type=phase,
            nargs="+",
            default=phases,
            metavar="UNTIL:CLIPS:LENGTH",
            help=f"the same for the {name} training (default: {usual})",
        )
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    parser.add_argument("--export-only", action="store_true", help="export the state as it is, without training")
    return parser


def sequence_names(davis: Path, part: str) -> list[str]:
    return (davis / f"{part}.txt").read_text().split()


def frame_count(davis: Path, names: list[str]) -> list[int]:
    return [len(list((davis / "JPEGImages" / name).glob("*.jpg"))) for name in names]


def composites(args: argparse.Namespace) -> Iterator[Clip]:
    """Clips of COCO and pantry photographs, with their instances and DAVIS' objects flying over them."""
    rng = np.random.default_rng(2)
    stills = clips_module.read_coco_stills(args.coco) + clips_module.read_coco_json_stills(args.stills)
    pieces: list[tuple[Image, Image]] = [piece for still in stills for piece in clips_module.cutouts(still)]
    for name in sequence_names(args.davis, "fit"):
        clip = clips_module.read_sequence(args.davis, name)
        for t in range(0, len(clip.frames), 15):
            pieces += clips_module.cutouts(Still(name, clip.frames[t], clip.labels[t]))
    for _ in range(args.composites):
        background = stills[rng.integers(len(stills))]
        chosen = rng.integers(len(pieces), size=int(rng.integers(1, 5)))
        yield clips_module.composite(background, [pieces[i] for i in chosen], rng, args.size, COMPOSITE_LENGTH)


def filmed(args: argparse.Namespace) -> Iterator[Clip]:
    """Every second frame of the fit sequences, seen by a moving virtual camera."""
    rng = np.random.default_rng(1)
    for name in sequence_names(args.davis, "fit"):
        clip = clips_module.read_sequence(args.davis, name)
        yield clips_module.film(Clip(name, clip.frames[::2], clip.labels[::2]), rng, args.size)


def approached(args: argparse.Namespace) -> Iterator[Clip]:
    """Every second frame of the fit sequences, seen by a camera that comes close to their objects."""
    rng = np.random.default_rng(3)
    for name in sequence_names(args.davis, "fit"):
        clip = clips_module.read_sequence(args.davis, name)
        yield clips_module.approach(Clip(name, clip.frames[::2], clip.labels[::2]), rng, args.size)


def prepare_features(args: argparse.Namespace, mobile: mobilesam.StateDict) -> dict[str, FeatureStore]:
    """The stores ``fit``, ``dev``, ``approach``, those of OCCLUSIONS, and for the first training ``camera`` and
    ``composite``."""
    encoder = TinyViTEncoder().eval().requires_grad_(False)
    encoder.load_state_dict(mobilesam.image_encoder_state(mobile))
    encoder.to(ENCODER_DTYPE)
    plans: dict[str, tuple[Callable[[], Iterator[Clip]], int]] = {}
    for part in ("dev", "fit"):
        names = sequence_names(args.davis, part)

        def squashed(names: list[str] = names) -> Iterator[Clip]:
            for name in names:
                yield clips_module.squash(clips_module.read_sequence(args.davis, name), args.size)

        plans[part] = (squashed, sum(frame_count(args.davis, names)))
    for index, (name, (count, steps)) in enumerate(OCCLUSIONS.items()):

        def covered(seed: int = 11 + index, count: int = count, steps: int = steps) -> Iterator[Clip]:
            stills = clips_module.read_stills(args.coco) + clips_module.read_stills(args.stills)
            made = OcclusionClips(stills, seed, args.size, steps)
            return (made[number] for number in range(count))

        plans[name] = (covered, count * steps)
    halves = [(count + 1) // 2 for count in frame_count(args.davis, sequence_names(args.davis, "fit"))]
    plans["approach"] = (lambda: approached(args), sum(halves))
    if args.first_stage or args.second_stage:
        return _stores(args, plans, encoder)
    plans["camera"] = (lambda: filmed(args), sum(halves))
    plans["composite"] = (lambda: composites(args), args.composites * COMPOSITE_LENGTH)
    return _stores(args, plans, encoder)


def _stores(
    args: argparse.Namespace, plans: dict[str, tuple[Callable[[], Iterator[Clip]], int]], encoder: TinyViTEncoder
) -> dict[str, FeatureStore]:
    """Encodes the clips of each plan, where that was not done before."""
    stores = {}
    for name, (source, total) in plans.items():
        folder = args.work / "features" / name
        done = folder / "done"
        if not done.exists():
            print(f"features of '{name}': {total} frames", flush=True)
            FeatureStore.build(folder, source(), total, args.size, encoder, ENCODER_DTYPE)
            done.touch()
        stores[name] = FeatureStore(folder)
    return stores


def first_stage(args: argparse.Namespace, mobile: mobilesam.StateDict, stores: dict[str, FeatureStore]) -> Sam2Model:
    """From feature matching to tracking."""
    fit = stores["fit"]
    sample = torch.cat([fit[index].stride_16 for index in range(0, fit.count, 40)])
    model = initial_model(embedded_config(args.size), mobile, sample, Matching())
    sources = [Source(fit, 0.4, 8), Source(stores["composite"], 0.42, 1), Source(stores["camera"], 0.18, 3)]
    trainer = Trainer(model, Sampler(sources, seed=0), Schedule(tuple(args.phases)), args.work / "run")
    if not args.export_only:
        trainer.run(args.work / "run" / "log.jsonl")
    return trainer.average


def second_stage(args: argparse.Namespace, model: Sam2Model, stores: dict[str, FeatureStore]) -> Sam2Model:
    """From tracking what is seen to knowing when it is not."""
    model.config = replace(model.config, present_iou=0.0, remember_absence=False)
    score_from_iou(model)
    short, long, _ = (stores[name] for name in OCCLUSIONS)
    sources = [Source(stores["fit"], 0.2, 5), Source(short, 0.3, 1), Source(long, 0.5, 1)]
    schedule = Schedule(tuple(args.second_phases), rate=3e-4, decoder_rate=2.25e-4)
    trainer = Trainer(model.train(), Sampler(sources, seed=1), schedule, args.work / "run2")
    if not args.export_only:
        trainer.run(args.work / "run2" / "log.jsonl")
    return trainer.average


def third_stage(args: argparse.Namespace, model: Sam2Model, stores: dict[str, FeatureStore]) -> Sam2Model:
    """With a second look at the memory, and objects from close by."""
    deeper = deepened(model, LAYERS)
    short, long, _ = (stores[name] for name in OCCLUSIONS)
    shares = ((stores["fit"], 0.27, 5), (stores["approach"], 0.13, 3), (short, 0.2, 1), (long, 0.4, 1))
    sampler = Sampler([Source(*share) for share in shares], seed=2, largest=0.85)
    schedule = Schedule(tuple(args.third_phases), rate=3e-4, decoder_rate=1.5e-4)
    trainer = Trainer(deeper.train(), sampler, schedule, args.work / "run3")
    if not args.export_only:
        trainer.run(args.work / "run3" / "log.jsonl")
    return trainer.average


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    torch.set_num_threads(args.threads)
    mobile = mobilesam.load_mobilesam(args.mobilesam)
    stores = prepare_features(args, mobile)
    if args.second_stage:
        model = load_model(str(args.second_stage))
    else:
        first = load_model(str(args.first_stage)) if args.first_stage else first_stage(args, mobile, stores)
        model = second_stage(args, first, stores)
    average = third_stage(args, model, stores)
    export(average, args.out)
    for kind in PROMPT_KINDS:
        scores = evaluate(average, stores["dev"], kind)
        print(kind, json.dumps({"mean": round(float(np.mean(list(scores.values()))), 3), **scores}), flush=True)


if __name__ == "__main__":
    main()
