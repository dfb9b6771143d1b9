"""The results of an evaluation as a dictionary for JSON, as a table, and as rows in CSV."""

from __future__ import annotations

import csv
import io
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from sam2_ros.evaluation.click_protocols import clicks_needed
from sam2_ros.evaluation.identity import count_switches
from sam2_ros.evaluation.job import NOC_TARGETS, Settings
from sam2_ros.evaluation.kinds import by_kind, kinds_table
from sam2_ros.evaluation.presence import visibility_score
from sam2_ros.evaluation.results import Row, SequenceResult, mean
from sam2_ros.evaluation.streaming import KINDS, live_summary
from sam2_ros.media.text_table import align, number
from sam2_ros.media.whole_files import write_whole


def report(results: Sequence[SequenceResult], settings: Settings, present_from: float) -> dict[str, Any]:
    """The whole report. Shares are in [0, 1]; what can't be measured is None."""
    scores = [(result.name, score) for result in results for score in result.scores]
    rows = [sequence_summary(result) for result in results]
    scored = [row for row in rows if row["j"] is not None]
    seconds = np.array([s for result in results for s in result.seconds])
    summary: dict[str, Any] = {
        "settings": asdict(settings),
        "sequences_total": len(rows),
        "objects_scored": len(scores),
        "objects_not_scored": sum(len(result.objects) for result in results) - len(scores),
        "frames": sum(result.frames for result in results),
        "mean_over_objects": _means([(s.j, s.f) for _, s in scores]),
        "mean_over_sequences": _means([(row["j"], row["f"]) for row in scored]),
        "visibility": visibility_summary(results, present_from),
        "identity_switches": sum(row["identity_switches"] for row in rows),
        "speed": speed(seconds),
        "machine": machine(),
        "engine": next((result.extra["engine"] for result in results if "engine" in result.extra), None),
        "sequences": rows,
        "objects": [{"sequence": name, **asdict(s), "jf": s.jf} for name, s in scores],
    }
    kinds = by_kind(Path(settings.dataset), results, present_from)
    if kinds is not None:
        summary["kinds"] = kinds
    if settings.live:
        summary["live"] = live_summary(results)
    if settings.protocol in ("offline", "online"):
        summary["interactive"] = interactive_summary(results)
    if settings.protocol == "noc":
        summary["noc"] = noc_summary(results, settings.clicks)
    return summary


def interactive_summary(results: Sequence[SequenceResult]) -> dict[str, Any]:
    """Means over objects for each number of clicked frames, and their mean, as in SAM 2's paper."""
    curves = [curve for result in results for curve in result.extra["interactive"].values()]
    j, f = (np.mean([curve[key] for curve in curves], axis=0).tolist() if curves else [] for key in ("j", "f"))
    jf = [(a + b) / 2 for a, b in zip(j, f, strict=True)]
    return {"objects": len(curves), "j": j, "f": f, "jf": jf, "jf_mean": mean(jf) if jf else None}


def noc_summary(results: Sequence[SequenceResult], most: int) -> dict[str, Any]:
    """For each target the mean number of clicks over objects, and the share that never reached it."""
    curves = [curve for result in results for curve in result.extra["noc"].values()]
    found: dict[str, Any] = {"objects": len(curves), "most_clicks": most}
    for target in NOC_TARGETS:
        needed = [clicks_needed(curve, target, most) for curve in curves]
        failed = sum(max(curve) < target for curve in curves)
        key = f"{100 * target:.0f}"
        found[f"noc{key}"] = mean(needed) if needed else None
        found[f"failures{key}"] = failed / len(curves) if curves else None
    return found


def sequence_summary(result: SequenceResult) -> dict[str, Any]:
    """A sequence's figures: means over its objects."""
    scores = result.scores
    return {
        "sequence": result.name,
        "frames": result.frames,
        "objects": len(result.objects),
        "scored_objects": len(scores),
        **_means([(s.j, s.f) for s in scores]),
        "identity_switches": count_switches(result),
        "fps": speed(np.array(result.seconds))["fps"],
    }


def visibility_summary(results: Sequence[SequenceResult], present_from: float) -> dict[str, Any]:
    """Precision and recall of "absent", and calibration, over all objects."""
    score = visibility_score(results, present_from)
    return {
        "present_from": present_from,
        "frames_absent": score.absent,
        "frames_present": score.present,
        "frames_not_counted": score.not_counted,
        "called_absent": score.called_absent,
        "absent_precision": score.absent_precision,
        "absent_recall": score.absent_recall,
        "present_recall": score.present_recall,
        "expected_calibration_error": score.calibration_error,
        "reliability": [list(row) for row in score.bins],
    }


def speed(seconds: np.ndarray) -> dict[str, float | None]:
    """The engine's frames a second, from the mean step, and its steps in milliseconds; without prompted frames."""
    if not seconds.size:
        return {"fps": None, "step_mean_ms": None, "step_p50_ms": None}
    step, median = float(seconds.mean()), float(np.median(seconds))
    return {"fps": 1 / step if step else None, "step_mean_ms": 1e3 * step, "step_p50_ms": 1e3 * median}


def machine() -> dict[str, Any]:
    """The processor's name and how many cores this process may use."""
    try:
        found = re.search(r"^model name\s*: *(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None  # not Linux
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return {"processor": name, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None}


def table(summary: dict[str, Any]) -> str:
    """A line for each sequence, and the means; J, F and J&F in percent, as papers give them."""
    if "noc" in summary:
        return _noc_table(summary["noc"])
    lines = [("sequence", "frames", "objects", "J&F", "J", "F", "switches", "frames/s")]
    for row in summary["sequences"]:
        about = (row["sequence"], str(row["frames"]), str(row["objects"]))
        lines.append((*about, *_percent(row), str(row["identity_switches"]), number(row["fps"])))
    total = (str(summary["frames"]), str(summary["objects_scored"]))
    rest = (str(summary["identity_switches"]), number(summary["speed"]["fps"]))
    lines.append(("mean over objects", *total, *_percent(summary["mean_over_objects"]), *rest))
    lines.append(("mean over sequences", "", "", *_percent(summary["mean_over_sequences"]), "", ""))
    text = align(lines)
    seen = summary["visibility"]
    found = (
        f"absent: precision {number(seen['absent_precision'], 3)}, recall {number(seen['absent_recall'], 3)} "
        f"({seen['frames_absent']} frames); present: recall {number(seen['present_recall'], 3)} "
        f"({seen['frames_present']} frames); not counted: {seen['frames_not_counted']}; "
        f"calibration error {number(seen['expected_calibration_error'], 3)}"
    )
    if "interactive" in summary:
        curve = summary["interactive"]
        steps = "  ".join(f"{n}: {100 * jf:.1f}" for n, jf in enumerate(curve["jf"], start=1))
        text += f"\nJ&F by number of frames with clicks: {steps}; mean: {number(curve['jf_mean'], 3)}"
    if "kinds" in summary:
        text += f"\n\n{kinds_table(summary['kinds'])}\n"
    if "live" in summary:
        text += f"\n{_live_table(summary['live'])}"
    return f"{text}\n{found}"


def _live_table(live: dict[str, Any]) -> str:
    names = dict(zip(KINDS, ("no latency", "newest network mask", "carried mask"), strict=True))
    lines = [("every camera image", "J&F", "J", "F", "J lost to latency")]
    best = live["no_latency"]["j"]
    for kind, name in names.items():
        lost = None if best is None or live[kind]["j"] is None else best - live[kind]["j"]
        lines.append((name, *_percent(live[kind]), number(lost, 1, 100)))
    about = f"engine: {number(live['latency'], 0, 1000)} ms an image; images without any mask: "
    return f"{align(lines)}\n{about}{number(live['without_mask'], 1, 100)} %"


def _noc_table(noc: dict[str, Any]) -> str:
    lines: list[tuple[str, ...]] = [("target IoU", "objects", "clicks", "never reached [%]")]
    for target in NOC_TARGETS:
        key = f"{100 * target:.0f}"
        never = number(noc[f"failures{key}"], 1, 100)
        lines.append((f"0.{key}", str(noc["objects"]), number(noc[f"noc{key}"]), never))
    return align(lines)


def write_rows(path: Path, results: Sequence[SequenceResult]) -> None:
    """A CSV line for each object and frame, with raw scores; cells are empty without a label."""
    names = [column.name for column in fields(Row)]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["sequence", *names])
    for result in results:
        for row in result.rows:
            values = (getattr(row, name) for name in names)
            writer.writerow([result.name, *(int(v) if isinstance(v, bool) else v for v in values)])
    write_whole(path, text.getvalue())


def _means(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    if not pairs:
        return {"j": None, "f": None, "jf": None}
    j, f = mean(pair[0] for pair in pairs), mean(pair[1] for pair in pairs)
    return {"j": j, "f": f, "jf": (j + f) / 2}


def _percent(row: dict[str, Any]) -> tuple[str, str, str]:
    return number(row["jf"], 1, 100), number(row["j"], 1, 100), number(row["f"], 1, 100)
