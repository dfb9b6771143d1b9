"""The folder of an evaluation and the report's files in it:

``settings.json``, ``sequences/NAME.json`` (every object and frame), ``worst/`` (pictures), ``report.json``,
``rows.csv``, ``j_over_time.png``, ``reliability.png``, with ``--live`` ``j_over_age.png`` and, if there are bad frames,
``failures.png``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sam2_ros.evaluation.job import Job
from sam2_ros.evaluation.plots import failure_sheet, j_over_age, j_over_time, reliability
from sam2_ros.evaluation.results import SequenceResult
from sam2_ros.evaluation.summary import report, write_rows
from sam2_ros.media.errors import UserError
from sam2_ros.media.figures import write_png
from sam2_ros.media.whole_files import write_json


def claim(job: Job, overwrite: bool) -> None:
    """Makes the output folder, or continues in one with the same settings; ``overwrite`` deletes its results.

    Raises:
        UserError: the folder holds results of other settings.
    """
    path = job.out / "settings.json"
    wanted = asdict(job.settings)
    if overwrite:
        for name in ("sequences", "worst"):
            shutil.rmtree(job.out / name, ignore_errors=True)
    elif path.is_file():
        try:
            there = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            there = {}
        changed = [key for key in wanted if there.get(key) != wanted[key]]
        if changed:
            raise UserError(
                f"{job.out} holds results of other settings ({', '.join(changed)} differ); give another --out, or "
                "--overwrite to replace them"
            )
    write_json(path, wanted)


def write_report(job: Job, results: Sequence[SequenceResult], present_from: float) -> dict[str, Any]:
    """Writes the report's files; returns the report."""
    summary = report(results, job.settings, present_from)
    write_json(job.out / "report.json", summary)
    write_rows(job.out / "rows.csv", results)
    sheet = failure_sheet(job.out / "worst", results)
    for name, picture in (
        ("j_over_time.png", j_over_time(results) if summary["objects_scored"] else None),
        ("j_over_age.png", j_over_age(summary["live"]["by_age"]) if "live" in summary else None),
        ("reliability.png", reliability(summary["visibility"])),
        ("failures.png", sheet),
    ):
        if picture is None:
            (job.out / name).unlink(missing_ok=True)
        else:
            write_png(job.out / name, picture)
    return summary


def read_report(path: Path) -> dict[str, Any]:
    """An earlier report.

    Raises:
        UserError: no such report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "mean_over_objects" not in content:
            raise ValueError("it has no 'mean_over_objects'")
    except FileNotFoundError:
        raise UserError(f"{path}: no such report; accepted: the report.json of an evaluation") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a report ({error}); accepted: the report.json of an evaluation") from None
    return content
