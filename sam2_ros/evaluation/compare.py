"""Compares reports: several models, or a model and an earlier run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sam2_ros.evaluation.results import mean
from sam2_ros.media.text_table import align, number
from sam2_ros.text import counted


def models_table(reports: Sequence[dict[str, Any]]) -> str:
    """A table with a line for each model: means over objects in percent, and the figures of the click protocols."""
    lines: list[tuple[str, ...]] = [
        ("model", "prompt", "J&F", "J", "F", "absent recall", "switches", "frames/s", "NoC@90", "J&F by frames")
    ]
    for report in reports:
        settings, means = report["settings"], report["mean_over_objects"]
        shares = (means["jf"], means["j"], means["f"], report["visibility"]["absent_recall"])
        percent = [number(share, 1, 100) for share in shares]
        rest = (str(report["identity_switches"]), number(report["speed"]["fps"]))
        noc = number(report["noc"]["noc90"]) if "noc" in report else "-"
        curve = number(report["interactive"]["jf_mean"], 1, 100) if "interactive" in report else "-"
        lines.append((settings["model"], settings["prompt"], *percent, *rest, noc, curve))
    return align(lines)


def comparison(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """J&F in percent of two reports and the difference: by sequence, and as mean over the objects that both have."""
    before = {row["sequence"]: row for row in earlier["sequences"]}
    pairs = [(row["sequence"], before[row["sequence"]], row) for row in now["sequences"] if row["sequence"] in before]
    objects = [{(row["sequence"], row["object"]): row["jf"] for row in report["objects"]} for report in (earlier, now)]
    both = objects[0].keys() & objects[1].keys()
    old_mean, new_mean = ({"jf": mean(values[key] for key in both) if both else None} for values in objects)
    pairs.append((f"mean over {counted(len(both), 'object')}", old_mean, new_mean))
    named = [f"{when}: {report['settings']['model']}" for when, report in (("before", earlier), ("now", now))]
    lines: list[tuple[str, ...]] = [("J&F", *named, "difference")]
    for name, old, new in pairs:
        change = "-" if None in (old["jf"], new["jf"]) else f"{100 * (new['jf'] - old['jf']):+.1f}"
        lines.append((name, number(old["jf"], 1, 100), number(new["jf"], 1, 100), change))
    different = [
        key
        for key, value in now["settings"].items()
        if key not in ("model", "weights", "version", "device", "dtype") and earlier["settings"].get(key) != value
    ]
    note = f"\nnot the same measurement: {', '.join(different)} differ" if different else ""
    return align(lines) + note
