"""``sam2_ros eval``: measures tracking on a labelled data set by the published protocols."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_ros.cli.options import (
    add_live_arguments,
    add_model_arguments,
    add_tracker_arguments,
    check_least,
    check_live,
    tracker_settings,
)
from sam2_ros.media.errors import UserError
from sam2_ros.media.whole_files import make_folder
from sam2_ros.text import counted

if TYPE_CHECKING:
    from sam2_ros.evaluation.datasets import Dataset
    from sam2_ros.evaluation.job import Job

PROTOCOLS = ("vos", "offline", "online", "noc")
CLICKS = {"vos": 1, "offline": 3, "online": 3, "noc": 20}  # unless --clicks says otherwise


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="measure tracking on a labelled data set (DAVIS, YouTube-VOS, MOSE, LVOS, SA-V), or masks on pictures",
        description="Tracks the labelled objects of DATASET and reports J, F and J&F by the data set's protocol, "
        "visibility, identity switches and speed. After an interruption, the same command continues.",
    )
    add = parser.add_argument
    add("dataset", type=Path, metavar="DATASET", help="folder of the data set")
    add(
        "--layout", default="auto", choices=("auto", "davis", "youtube", "sav", "sav-train"), help="default: recognised"
    )
    add("--list", type=Path, metavar="FILE", help="text file with the names of the sequences, one on each line")
    add("--sequences", nargs="+", metavar="NAME", help="only these sequences")
    add(
        "--protocol",
        default="vos",
        choices=PROTOCOLS,
        help="vos (default): prompt once, track; offline, online: click on several frames; noc: click until good",
    )
    add("--prompt", choices=("mask", "box", "click"), help="default: mask for vos, else click")
    add_tracker_arguments(parser)
    add(
        "--clicks",
        type=int,
        metavar="N",
        help="vos: on an object's first frame (1); offline, online: on each such frame (3); noc: at most (20)",
    )
    add("--interactions", type=int, default=8, metavar="N", help="frames with clicks (default: 8)")
    add(
        "--images",
        action="store_true",
        help="measure single images instead: mIoU after 1, 3 and 5 clicks and from a box. DATASET holds images/ with "
        "annotations.json (COCO polygons) or with labels/*.txt (YOLO polygons)",
    )
    add("--max-images", type=int, metavar="N", help="with --images: only N pictures, evenly chosen")
    add_live_arguments(
        parser,
        "play each sequence at RATE images a second while the engine takes its time, and measure for every image the "
        "mask that is there in time: the network's newest, and that one carried to the image",
    )
    add(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="with --live: after an image, when its mask is needed (default: one period)",
    )
    add_model_arguments(parser, several=True)
    add("--jobs", type=int, default=1, metavar="N", help="sequences at a time (default: 1)")
    add("--out", type=Path, metavar="DIR", help="default: eval_output/DATASET_MODEL_PROMPT")
    add("--overwrite", action="store_true", help="delete the results in --out and start again")
    add("--json", type=Path, metavar="FILE", help="write the report to this file too")
    add("--compare", type=Path, metavar="FILE", help="report.json of an earlier run to compare with")
    add("--masks-out", type=Path, metavar="DIR", help="predicted masks as evaluation servers accept them")
    add(
        "--present-from",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="least share of its median area at which an object counts as present (default: 0.05)",
    )
    add("--quiet", action="store_true", help="no progress bar and no table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sam2_ros.evaluation.compare import comparison, models_table
    from sam2_ros.evaluation.datasets import open_dataset
    from sam2_ros.evaluation.job import check_loads
    from sam2_ros.evaluation.report_files import claim, read_report
    from sam2_ros.inference import is_null_model
    from sam2_ros.media.whole_files import check_writable, write_json

    _check(args)
    if args.json:
        check_writable(args.json)
    if args.images:
        return _run_images(args)
    earlier = read_report(args.compare) if args.compare else None
    dataset = open_dataset(args.dataset, args.layout, args.list, args.sequences)
    jobs = [_job(args, dataset, model) for model in dict.fromkeys(args.model)]
    for job in jobs[1:]:  # the first one is loaded at once
        if not is_null_model(job.settings.model):
            check_loads(job.settings.model)
    for job in jobs:
        make_folder(job.out)
        if not args.overwrite:
            claim(job, False)
    reports = []
    stopped = None
    for job in jobs:
        if args.overwrite:  # now, so that an interruption leaves the results of later models
            claim(job, True)
        summary, stopped = _run_job(args, dataset, job)
        reports.append(summary)
        if not args.quiet and earlier is not None:
            print(comparison(earlier, summary))
        if stopped:
            break
    if args.json:
        write_json(args.json, reports[0] if len(args.model) == 1 else {"models": reports})
    if len(reports) > 1 and not args.quiet:
        print(models_table(reports))
    if stopped:
        raise stopped
    return 0


def _run_images(args: argparse.Namespace) -> int:
    """Measures single images; after an interruption, what was measured until then is reported."""
    from dataclasses import asdict

    from sam2_ros.evaluation.image_clicks import InstanceScore, score_photo, summary, table
    from sam2_ros.evaluation.job import check_loads
    from sam2_ros.media.errors import engine_errors
    from sam2_ros.media.labelled_photos import photos_in
    from sam2_ros.media.progress import bar
    from sam2_ros.media.whole_files import write_json

    with engine_errors():
        photos = photos_in(args.dataset)
    count = min(len(photos), args.max_images or len(photos))
    photos = [photos[index * len(photos) // count] for index in range(count)]
    reports, stopped = [], None
    models = list(dict.fromkeys(args.model))
    for model in models[1:]:  # the first one is loaded at once
        check_loads(model)
    for model in models:
        with engine_errors():
            from sam2_ros.inference.local import load_shared_model
            from sam2_ros.tracking.image_segmenter import ImageSegmenter

            shared = load_shared_model(model, args.device, args.dtype, threads=args.threads, runtime=args.runtime)
            segmenter = ImageSegmenter(shared)
        scores: list[InstanceScore] = []
        try:
            with bar(len(photos), "picture", args.quiet, model) as progress:
                for photo in photos:
                    with engine_errors():  # also of what a label file holds
                        scores += score_photo(segmenter, photo)
                    progress.update()
        except KeyboardInterrupt as error:
            stopped = error
        reports.append(summary(model, scores) | {"objects": [asdict(score) for score in scores]})
        if stopped:
            break
    if args.json:
        write_json(args.json, {"dataset": str(args.dataset), "models": reports})
    if not args.quiet:
        print(table(reports))
    if stopped:
        raise stopped
    return 0


def _job(args: argparse.Namespace, dataset: Dataset, model: str) -> Job:
    from sam2_ros.evaluation.job import Job, Settings, weights_digest
    from sam2_ros.evaluation.scoring import RULES

    settings = Settings(
        dataset=str(args.dataset.resolve()),
        layout=dataset.layout,
        model=model,
        weights=weights_digest(model),
        device=args.device,
        dtype=args.dtype,
        runtime=args.runtime,
        **tracker_settings(args),
        protocol=args.protocol,
        prompt=args.prompt,
        clicks=args.clicks,
        interactions=args.interactions if args.protocol in ("offline", "online") else 0,
        rule=RULES[dataset.layout],
        live=args.live,
        latency=args.latency,
        deadline=args.deadline,
    )
    return Job(settings, _out(args, model), args.threads, args.masks_out)


def _run_job(args: argparse.Namespace, dataset: Dataset, job: Job) -> tuple[dict[str, Any], KeyboardInterrupt | None]:
    """Evaluates one model; returns the report of the finished sequences, and what stopped it, if anything did."""
    from sam2_ros.evaluation.job import finished
    from sam2_ros.evaluation.pool import run_all
    from sam2_ros.evaluation.report_files import write_report
    from sam2_ros.evaluation.summary import table
    from sam2_ros.media.progress import bar

    results = {name: result for name in dataset.names if (result := finished(job, name)) is not None}
    left = [name for name in dataset.names if name not in results]
    if results and not args.quiet:
        print(f"{len(results)} of {len(dataset.names)} sequences are already in {job.out}", file=sys.stderr)
    # With clicks, the number of passes is not known.
    total = sum(len(dataset.open(name)) for name in left) if args.protocol == "vos" else None
    stopped = None
    try:
        with bar(total, "frame", args.quiet, job.settings.model) as progress:
            for result in run_all(job, left, args.jobs, progress.update):
                results[result.name] = result
                progress.set_postfix_str(result.name)
    except KeyboardInterrupt as error:
        stopped = error
        print(
            f"sam2_ros: stopped; {counted(len(results), 'sequence')} finished, the same command continues",
            file=sys.stderr,
        )
        if not results:
            raise
    summary = write_report(job, [results[name] for name in dataset.names if name in results], args.present_from)
    if not args.quiet:
        print(table(summary))
        print(f"written: {job.out}")
    if not summary["objects_scored"] and args.protocol != "noc":
        print(
            "sam2_ros: nothing was measured: no object is labelled between the first and the last labelled frame. "
            "If a server has the labels, --masks-out writes the files that it accepts.",
            file=sys.stderr,
        )
    return summary, stopped


def _check(args: argparse.Namespace) -> None:
    """Refuses options that do not fit together, and sets the protocol's defaults."""
    of_videos = ("live", "masks_out", "compare", "list", "sequences", "out", "windows", "window_budget", "edges")
    videos = [name for name in of_videos if getattr(args, name) is not None]
    if args.images and videos:
        raise UserError(f"--{videos[0].replace('_', '-')} came with --images; it belongs to videos")
    if args.max_images is not None and not args.images:
        raise UserError("--max-images belongs to --images")
    check_least(args, max_images=1)
    clicked = args.protocol != "vos"
    args.prompt = args.prompt or ("click" if clicked else "mask")
    if clicked and args.prompt != "click":
        raise UserError(f"--prompt {args.prompt} came with --protocol {args.protocol}; it is made of clicks")
    if clicked and args.masks_out:
        raise UserError(f"--masks-out came with --protocol {args.protocol}; accepted with vos, which has one pass")
    if args.clicks is None:
        args.clicks = CLICKS[args.protocol] if args.prompt == "click" else 1
    check_least(args, clicks=1, jobs=1, interactions=1)
    if args.interactions > 64:
        raise UserError(f"--interactions is {args.interactions}; accepted: up to 64, which the tracker can remember")
    if args.masks_out and len(args.model) > 1:
        raise UserError(f"--masks-out came with {len(args.model)} models; accepted: one model")
    if args.clicks > 1 and args.prompt != "click":
        raise UserError(f"--clicks {args.clicks} came with --prompt {args.prompt}; clicks belong to --prompt click")
    check_live(args)
    if args.live and (clicked or args.clicks > 1):
        raise UserError(
            "--live came with more than one click or with another --protocol; accepted: one prompt with vos"
        )
    if not 0 < args.present_from <= 1:
        raise UserError(f"--present-from is {args.present_from}; accepted: more than 0, up to 1")


def _out(args: argparse.Namespace, model: str) -> Path:
    """The folder of a model's results: --out, or with several models a folder in it."""
    name = _short_name(model)
    if sum(_short_name(each) == name for each in set(args.model)) > 1:  # files of one name, in different folders
        name = model.strip("/").replace("/", "-")
    if args.out:
        return Path(args.out) / name if len(args.model) > 1 else Path(args.out)
    prompt = args.prompt + (str(args.clicks) if args.clicks > 1 else "")
    what = prompt if args.protocol == "vos" else args.protocol
    if args.live:
        what += "_live" + "".join(
            f"_{value * 1000:g}ms" for value in (args.latency, args.deadline) if value is not None
        )
    return Path("eval_output") / f"{args.dataset.resolve().name}_{name}_{what}"


def _short_name(model: str) -> str:
    return (Path(model).stem if "/" in model else model).replace(":", "-")
