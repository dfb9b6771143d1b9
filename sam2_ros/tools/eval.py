"""``sam2_ros eval``: measures tracking on a labelled data set by the published protocols."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2_ros.evaluation.job import Job
    from sam2_ros.evaluation.results import SequenceResult

PROTOCOLS = ("vos",)


def register(subparsers: Any) -> None:
    """Adds the verb to the command line."""
    from sam2_ros.tools.track import add_model_arguments

    parser = subparsers.add_parser(
        "eval",
        help="measure tracking on a labelled data set (DAVIS, YouTube-VOS, MOSE, LVOS, SA-V)",
        description="Tracks the labelled objects of DATASET and reports J, F and J&F by the data set's protocol, "
        "visibility, identity switches and speed. What is finished is kept: the same command goes on there.",
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of the data set")
    parser.add_argument(
        "--layout", default="auto", choices=("auto", "davis", "youtube", "sav"), help="default: recognised"
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="text file with the sequences to take, one a line")
    parser.add_argument("--sequences", nargs="+", metavar="NAME", help="only these sequences")
    parser.add_argument("--protocol", default="vos", choices=PROTOCOLS, help="default: vos (semi-supervised)")
    parser.add_argument("--prompt", default="mask", choices=("mask", "box", "click"), help="default: mask")
    parser.add_argument("--clicks", type=int, default=1, metavar="N", help="clicks on an object's first frame")
    add_model_arguments(parser)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="sequences at a time (default: 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: eval_output/DATASET_MODEL_PROMPT")
    parser.add_argument("--overwrite", action="store_true", help="throw away what --out holds of other settings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the report also to this file")
    parser.add_argument("--masks-out", type=Path, metavar="DIR", help="predicted masks as evaluation servers take them")
    parser.add_argument(
        "--present-from",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="an object counts as present from this share of its median area on (default: 0.05)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the verb; returns the exit code."""
    from sam2_ros.evaluation.datasets import open_dataset
    from sam2_ros.evaluation.job import Job, Settings, finished, weights_digest
    from sam2_ros.evaluation.pool import run_all
    from sam2_ros.evaluation.scoring import RULES
    from sam2_ros.tools.progress import bar

    _check(args)
    dataset = open_dataset(args.dataset, args.layout, args.list, args.sequences)
    settings = Settings(
        dataset=str(args.dataset.resolve()),
        layout=dataset.layout,
        model=args.model,
        weights=weights_digest(args.model),
        device=args.device,
        dtype=args.dtype,
        protocol=args.protocol,
        prompt=args.prompt,
        clicks=args.clicks,
        rule=RULES[dataset.layout],
    )
    job = Job(settings, args.out or _default_out(args), args.threads, args.masks_out)
    _claim(job, args.overwrite)
    results = {name: result for name in dataset.names if (result := finished(job, name)) is not None}
    left = [name for name in dataset.names if name not in results]
    if results and not args.quiet:
        print(f"{len(results)} of {len(dataset.names)} sequences are finished in {job.out}", file=sys.stderr)
    total = sum(len(dataset.open(name)) for name in left)
    try:
        with bar(total, "frame", args.quiet) as progress:
            for result in run_all(job, left, args.jobs, progress.update):
                results[result.name] = result
                progress.set_postfix_str(result.name)
    except KeyboardInterrupt:
        print(f"sam2_ros: stopped; {len(results)} sequences are finished, the same command goes on", file=sys.stderr)
        if not results:
            raise
    _write(job, [results[name] for name in dataset.names if name in results], args)
    return 0 if len(results) == len(dataset.names) else 130


def _check(args: argparse.Namespace) -> None:
    from sam2_ros.tools.errors import UserError

    for option, value in (("--clicks", args.clicks), ("--jobs", args.jobs)):
        if value < 1:
            raise UserError(f"{option} is {value}; accepted: 1 or more")
    if args.clicks > 1 and args.prompt != "click":
        raise UserError(f"--clicks {args.clicks} came with --prompt {args.prompt}; clicks belong to --prompt click")
    if not 0 < args.present_from <= 1:
        raise UserError(f"--present-from is {args.present_from}; accepted: more than 0, up to 1")


def _default_out(args: argparse.Namespace) -> Path:
    model = Path(args.model).stem if "/" in args.model else args.model
    prompt = args.prompt + (str(args.clicks) if args.clicks > 1 else "")
    return Path("eval_output") / f"{args.dataset.resolve().name}_{model}_{prompt}".replace(":", "-")


def _claim(job: Job, overwrite: bool) -> None:
    """Makes the output folder, or goes on in one of the same settings.

    Raises:
        UserError: the folder holds results of other settings.
    """
    import shutil
    from dataclasses import asdict

    from sam2_ros.tools.errors import UserError

    path = job.out / "settings.json"
    wanted = asdict(job.settings)
    if path.is_file() and (there := json.loads(path.read_text(encoding="utf-8"))) != wanted:
        changed = [key for key in wanted if there.get(key) != wanted[key]]
        if not overwrite:
            raise UserError(
                f"{job.out} holds results of other settings ({', '.join(changed)} differ); give another --out, or "
                "--overwrite to replace them"
            )
        for name in ("sequences", "worst"):
            shutil.rmtree(job.out / name, ignore_errors=True)
    job.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _write(job: Job, results: list[SequenceResult], args: argparse.Namespace) -> None:
    """The report's files, and the table on stdout."""
    from sam2_ros.evaluation.plots import failure_sheet, j_over_time, reliability
    from sam2_ros.evaluation.report import report, table, write_rows
    from sam2_ros.tools.pictures import write_png

    summary = report(results, job.settings, args.present_from)
    text = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    files = [job.out / "report.json"] + ([args.json] if args.json else [])
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    write_rows(job.out / "rows.csv", results)
    if summary["objects_scored"]:
        write_png(job.out / "j_over_time.png", j_over_time(results))
    write_png(job.out / "reliability.png", reliability(summary["visibility"]))
    sheet = failure_sheet(job.out / "worst", results)
    if sheet is None:
        (job.out / "failures.png").unlink(missing_ok=True)
    else:
        write_png(job.out / "failures.png", sheet)
    if not args.quiet:
        print(table(summary))
        print(f"written: {', '.join(str(file) for file in files)}; rows and pictures in {job.out}")
