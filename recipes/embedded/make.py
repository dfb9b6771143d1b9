"""Makes the embedded checkpoint: ``python -m recipes.embedded make --help``.

1. Features of the frozen encoder, stored on disk.
2. A first training turns feature matching into tracking.
3. A second training uses clips in which objects are covered and leave.
4. A third training adds a second layer of memory attention, and close views of objects.
5. On request, a fourth training on frames after some that the network tracked itself.
6. A metric that recognises objects.
7. Export.

Existing results are reused, and an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recipes.embedded import mobilesam
from recipes.embedded.data import prepare_features
from recipes.embedded.evaluate import evaluate
from recipes.embedded.export import export
from recipes.embedded.features import FeatureStore
from recipes.embedded.initialise import Matching, deepened, embedded_config, initial_model, score_from_iou
from recipes.embedded.metric import begin, train, with_appearance
from recipes.embedded.sampler import Sampler, Source
from recipes.embedded.trainer import Phase, Schedule, Trainer
from sam2_ros.model import load_model
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.training.options import PROMPT_KINDS

PHASES = (Phase(200, 4, 3), Phase(1400, 4, 4), Phase(2000, 3, 6))
SECOND_PHASES = (Phase(1600, 3, 8), Phase(3200, 2, 12))
THIRD_PHASES = (Phase(600, 3, 8), Phase(1900, 2, 12))
METRIC_STEPS, METRIC_WIDTH, METRIC_DIM = 2600, 256, 64
METRIC_SHARES = {
    "longest_occlusion": 0.35, "occlusion": 0.2, "longer_occlusion": 0.2, "fit": 0.15, "approach": 0.1
}  # fmt: skip
LAYERS = 2  # of memory attention from the third training on


def phase(text: str) -> Phase:
    """Reads ``UNTIL:CLIPS:LENGTH`` or ``UNTIL:CLIPS:LENGTH:LEAD``."""
    until, clips, length, *lead = (int(part) for part in text.split(":"))
    return Phase(until, clips, length, *lead)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded make", description=__doc__)
    parser.add_argument("--mobilesam", type=Path, required=True, help="MobileSAM's mobile_sam.pt")
    parser.add_argument("--davis", type=Path, required=True, help="JPEGImages/, Annotations/, fit.txt and dev.txt")
    parser.add_argument("--no-video", action="store_true", help="train on photographs alone; DAVIS only evaluates")
    parser.add_argument("--coco", type=Path, required=True, help="images/ and labels/ with YOLO polygons")
    parser.add_argument("--stills", type=Path, required=True, help="images/ and annotations.json in COCO's format")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and training state (31 GB)")
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
    parser.add_argument("--third-stage", type=Path, help="checkpoint of the third training, instead of all three")
    for name, phases in (("second", SECOND_PHASES), ("third", THIRD_PHASES), ("fourth", ())):
        usual = " ".join(f"{p.until}:{p.clips}:{p.length}" + (f":{p.lead}" if p.lead else "") for p in phases)
        parser.add_argument(
            f"--{name}-phases",
            type=phase,
            nargs="+",
            default=phases,
            metavar="UNTIL:CLIPS:LENGTH[:LEAD]",
            help=f"the same for the {name} training (default: {usual or 'none'}); LEAD: at most so many frames lead up",
        )
    parser.add_argument(
        "--metric-steps",
        type=int,
        default=METRIC_STEPS,
        help=f"of the metric's training (default: {METRIC_STEPS}); 0: none",
    )
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    parser.add_argument("--export-only", action="store_true", help="export the state as it is, without training")
    return parser


def _trained(args: argparse.Namespace, model: Sam2Model, sampler: Sampler, schedule: Schedule, name: str) -> Sam2Model:
    """Runs the training with the state in the folder ``name``; returns its averaged network."""
    trainer = Trainer(model, [sampler], schedule, args.work / name)
    if not args.export_only:
        trainer.run(args.work / name / "log.jsonl")
    return trainer.average


def sources_of(stores: dict[str, FeatureStore], *shares: tuple[str, float, int]) -> list[Source]:
    """The sources that there are; each is the name of its store, its share of the clips and its largest stride."""
    return [Source(stores[name], share, stride) for name, share, stride in shares if name in stores]


def first_stage(args: argparse.Namespace, mobile: mobilesam.StateDict, stores: dict[str, FeatureStore]) -> Sam2Model:
    """Turns feature matching into tracking."""
    videos = stores["composite" if args.no_video else "fit"]
    sample = torch.cat([videos[index].stride_16 for index in range(0, videos.count, 40)])
    model = initial_model(embedded_config(args.size), mobile, sample, Matching())
    sources = sources_of(stores, ("fit", 0.4, 8), ("composite", 0.42, 1), ("camera", 0.18, 3))
    return _trained(args, model, Sampler(sources, seed=0), Schedule(tuple(args.phases)), "run")


def _second_model(args: argparse.Namespace, mobile: mobilesam.StateDict, stores: dict[str, FeatureStore]) -> Sam2Model:
    if args.second_stage:
        return load_model(str(args.second_stage))
    first = load_model(str(args.first_stage)) if args.first_stage else first_stage(args, mobile, stores)
    return second_stage(args, first, stores)


def second_stage(args: argparse.Namespace, model: Sam2Model, stores: dict[str, FeatureStore]) -> Sam2Model:
    """Learns when an object is hidden."""
    model.config = replace(model.config, present_iou=0.0, remember_absence=False)
    score_from_iou(model)
    sources = sources_of(stores, ("fit", 0.2, 5), ("occlusion", 0.3, 1), ("longer_occlusion", 0.5, 1))
    schedule = Schedule(tuple(args.second_phases), rate=3e-4, decoder_rate=2.25e-4)
    return _trained(args, model.train(), Sampler(sources, seed=1), schedule, "run2")


def third_stage(args: argparse.Namespace, model: Sam2Model, stores: dict[str, FeatureStore]) -> Sam2Model:
    """Adds a second layer of memory attention, and close views of objects."""
    deeper = deepened(model, LAYERS)
    sources = sources_of(
        stores, ("fit", 0.27, 5), ("approach", 0.13, 3), ("occlusion", 0.2, 1), ("longer_occlusion", 0.4, 1)
    )
    sampler = Sampler(sources, seed=2, largest=0.85)
    schedule = Schedule(tuple(args.third_phases), rate=3e-4, decoder_rate=1.5e-4)
    return _trained(args, deeper.train(), sampler, schedule, "run3")


def fourth_stage(args: argparse.Namespace, model: Sam2Model, stores: dict[str, FeatureStore]) -> Sam2Model:
    """Uses long clips, in which the memory contains the network's own mistakes.

    Not run by default: it did not improve the shipped checkpoint (see the model card).
    """
    sources = sources_of(
        stores, ("fit", 0.22, 2), ("approach", 0.08, 2), ("longer_occlusion", 0.3, 1), ("longest_occlusion", 0.4, 1)
    )
    sampler = Sampler(sources, seed=3, largest=0.85)
    schedule = Schedule(tuple(args.fourth_phases), rate=3e-4, decoder_rate=2e-4)
    return _trained(args, model.train(), sampler, schedule, "run4")


def metric_stage(args: argparse.Namespace, model: Sam2Model, stores: dict[str, FeatureStore]) -> Sam2Model:
    """Adds a metric that recognises objects, with a first judgement (see :mod:`recipes.embedded.judge`)."""
    shares = {name: share for name, share in METRIC_SHARES.items() if name in stores}
    chosen = {name: stores[name] for name in shares}
    appearance = train(chosen, shares, args.metric_steps, 0, METRIC_WIDTH, METRIC_DIM, args.work / "metric.pt")
    begin(appearance)
    return with_appearance(model, appearance)


def main(argv: list[str] | None = None) -> None:
    args = arguments().parse_args(argv)
    torch.set_num_threads(args.threads)
    mobile = mobilesam.load_mobilesam(args.mobilesam)
    stores = prepare_features(args, mobile)
    if args.third_stage:
        model = load_model(str(args.third_stage))
    else:
        model = third_stage(args, _second_model(args, mobile, stores), stores)
    average = fourth_stage(args, model, stores) if args.fourth_phases else model
    if args.metric_steps:
        average = metric_stage(args, average, stores)
    export(average, args.out)
    for kind in PROMPT_KINDS:
        scores = evaluate(average, stores["dev"], kind)
        print(kind, json.dumps({"mean": round(float(np.mean(list(scores.values()))), 3), **scores}), flush=True)
