"""Reports beside each other: several models, or a model and an earlier run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sam2_ros.evaluation.results import mean
from sam2_ros.evaluation.summary import align


def models_table(reports: Sequence[dict[str, Any]]) -> str:
    """A line a model: means over objects in percent, the mean over interactions, clicks, or what the protocol has."""
    lines: list[tuple[str, ...]] = [
        ("model", "prompt", "J&F", "J", "F", "absent recall", "switches", "frames/s", "NoC@90", "J&F by frames"),
    ]
    for one in reports:
        means, seen = one["mean_over_objects"], one["visibility"]
        curve = one.get("interactive")
        lines.append(
            (
                one["settings"]["model"],
                one["settings"]["prompt"],
                *(_percent(means[key]) for key in ("jf", "j", "f")),
                _percent(seen["absent_recall"]),
                str(one["identity_switches"]),
                _plain(one["speed"]["fps"]),
                _plain(one["noc"]["noc90"]) if "noc" in one else "-",
                _percent(curve["jf_mean"]) if curve else "-",
            )
        )
    return align(lines)


def comparison(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """J&F in percent of both reports and the difference: by sequence, and as mean over the objects that both have."""
    before = {row["sequence"]: row for row in earlier["sequences"]}
    pairs = [(row["sequence"], before[row["sequence"]], row) for row in now["sequences"] if row["sequence"] in before]
    objects = [{(one["sequence"], one["object"]): one["jf"] for one in report["objects"]} for report in (earlier, now)]
    both = objects[0].keys() & objects[1].keys()
    old_mean, new_mean = ({"jf": mean(values[one] for one in both) if both else None} for values in objects)
    pairs.append((f"mean over {len(both)} objects", old_mean, new_mean))
    lines: list[tuple[str, ...]] = [("J&F", earlier["settings"]["model"], now["settings"]["model"], "difference")]
    for name, old, new in pairs:
        change = "-" if None in (old["jf"], new["jf"]) else f"{100 * (new['jf'] - old['jf']):+.1f}"
        lines.append((name, _percent(old["jf"]), _percent(new["jf"]), change))
    different = [
        key
        for key, value in now["settings"].items()
        if key not in ("model", "weights", "version", "device", "dtype") and earlier["settings"].get(key) != value
    ]
    note = f"\nnot the same measurement: {', '.join(different)} differ" if different else ""
    return align(lines) + note


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
