"""What was measured, as a table in Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

_OURS, _PEER, _TEXT, _GRID = (60, 120, 40), (170, 170, 170), (50, 50, 50), (225, 225, 225)


def headline(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """``ratio_vs_official`` (same dtype: float32, or the first that was measured) and ``best_vs_best_official``, by
    number of objects, of the first model and the smallest input size."""
    smallest = min((c["image_size"] for c in report["combinations"]), default=0)
    same: dict[str, float] = {}
    best: dict[str, float] = {}
    for combination in report["combinations"]:
        if combination["image_size"] != smallest:
            continue
        key = str(combination["objects"])
        for found in combination["ratios"]:
            if found["kind"] == "same dtype" and found["peer"] == "official":
                same.setdefault(key, found["ratio"])
            if found["kind"] == "best" and found["peer"].startswith("official"):
                best.setdefault(key, found["ratio"])
    return {name: values for name, values in (("ratio_vs_official", same), ("best_vs_best_official", best)) if values}


def table(report: dict[str, Any]) -> str:
    """One line an engine; times in ms."""
    head = (
        "model",
        "input",
        "objects",
        "engine",
        "dtype",
        "p50",
        "p90",
        "p99",
        "max",
        "fps",
        "MiB",
        "ratio",
        "CPU ratio",
    )
    return markdown([head, *_rows(report)])


def rearrangements(report: dict[str, Any]) -> str:
    """One line for each that was left out."""
    head = ("model", "objects", "dtype", "without", "ms with", "ms without", "ratio", "quartiles", "CPU ratio")
    rows: list[tuple[str, ...]] = [head]
    for combination in report["combinations"]:
        place = (combination["model"], str(combination["objects"]))
        for row in combination["rows"]:
            if "failure" in row:
                rows.append((*place, row["dtype"], row["rearrangement"], "-", "-", "-", "-", row["failure"][:60]))
                continue
            low, high = row["quartiles"]
            times = f"{row['ms_with']:.0f}", f"{row['ms_without']:.0f}"
            rows.append(
                (
                    *place,
                    row["dtype"],
                    row["rearrangement"],
                    *times,
                    f"{row['ratio']:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    f"{row['processor_ratio']:.2f}",
                )
            )
    return markdown(rows)


def input_sizes(report: dict[str, Any]) -> str:
    """Cost and agreement by input size."""
    rows: list[tuple[str, ...]] = [("model", "dtype", "input", "ms", "J with the truth", "J between sizes")]
    for model in report["models"]:
        for size in model["sizes"]:
            pairs = [
                f"{_share(pair['j'])} with {sum(pair['sizes']) - size['image_size']}"
                for pair in model["agreement"]
                if size["image_size"] in pair["sizes"]
            ]
            rows.append(
                (
                    model["model"],
                    model["dtype"],
                    str(size["image_size"]),
                    f"{size['ms']:.0f}",
                    _share(size["j_with_truth"]),
                    ", ".join(pairs),
                )
            )
    return markdown(rows)


def node(report: dict[str, Any]) -> str:
    """Camera to mask in another process, and its parts; p50, p99 in ms."""
    runs = report["runs"]
    if not runs:
        return "Not measured: ROS 2 is not installed."
    names = list(runs[0]["ms"])
    rows: list[tuple[str, ...]] = [("engine", "image", "objects", "dropped", *names)]
    for run in runs:
        width, height = run["image"]
        dropped = f"{run['dropped']} of {run['received']}"
        parts = [f"{run['ms'][name]['p50']:.1f} / {run['ms'][name]['p99']:.1f}" for name in names]
        rows.append((run["model"], f"{width}x{height}", str(run["objects"]), dropped, *parts))
    settings = f"{runs[0]['rate']:g} Hz, transport {runs[0]['transport']}; {runs[0]['qos']}."
    return markdown(rows) + f"\n\nMilliseconds, p50 / p99. {settings}"


def endpoint(measured: dict[str, Any]) -> str:
    """The way to an inference server; p50 / p99 in ms."""
    parts = []
    if rows := measured.get("overhead") or measured.get("steps"):
        lines: list[tuple[str, ...]] = [("image", "way", "p50 / p99, ms")]
        for row in rows:
            way = row["way"] if "way" in row else f"a step, {row['model']}"
            lines.append((row["size"], way, f"{row['p50_ms']:.2f} / {row['p99_ms']:.2f}"))
        parts.append(markdown(lines) + "\n")
    if "overhead" in measured:
        parts.append("Milliseconds that a step takes more through a server than in one process.")
    if shared := measured.get("streams"):
        rates, frame = shared["frames_per_second"], shared["frame_ms"]
        sizes = ", ".join(f"{count} of {size}" for size, count in sorted(shared["batches"].items()))
        parts.append(
            f"{shared['streams']} streams, {shared['model']}: {min(rates):g} to {max(rates):g} frames a second each "
            f"({sum(rates):.1f} together), {frame['p50']:g} / {frame['p99']:g} ms a frame, Jain's fairness "
            f"{shared['fairness_jain']:g}" + (f"; batches of the image encoder: {sizes}." if sizes else ".")
        )
    if killed := measured.get("kills"):
        parts.append(
            f"{killed['kills']} kills of the server: ids kept {killed['ids_kept']} times, tracked again after "
            f"{killed['recovery_s_median']:g} s (median), {killed['recovery_s_worst']:g} s (worst)."
        )
    return "\n".join(parts)


def provenance(about: dict[str, Any]) -> str:
    """Machine, versions, command and date in a sentence."""
    machine = about["machine"]
    took = f"; {about['minutes']:g} minutes" if "minutes" in about else ""
    gpu = f", {machine['gpu']['name']}" if "gpu" in machine else ""
    date = about.get("date", "a day not noted")
    return (
        f"`{about['command']}` on {date}: {machine['processor']}, {machine['cores']} cores{gpu}, "
        f"{machine['threads']} threads, torch {machine['torch']}; load of the machine before: "
        f"{machine.get('load', 'unknown')}{took}."
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """A table, of which the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for combination in report["combinations"]:
        place = (combination["model"], str(combination["image_size"]), str(combination["objects"]))
        for one in combination["engines"]:
            engine = one["engine"] + (" compiled" if one["compiled"] and one["engine"] == "sam2_ros" else "")
            if "failure" in one:
                yield (*place, engine, one["dtype"], *["-"] * 7, one["failure"][:60])
                continue
            latency = one["latency_ms"]
            times = [f"{latency[name]:.1f}" for name in ("p50", "p90", "p99", "max")]
            memory = one["memory_mib"].get("allocated", one["memory_mib"].get("resident", 0.0))
            same = [
                found
                for found in combination["ratios"]
                if found["kind"] == "same dtype" and (found["peer"], found["peer_dtype"]) == (engine, one["dtype"])
            ]
            shown = [f"{same[0][name]:.2f}" if same else "" for name in ("ratio", "processor_ratio")]
            yield (*place, engine, one["dtype"], *times, f"{one['frames_per_second']:.2f}", f"{memory:.0f}", *shown)


def engine(report: dict[str, Any]) -> str:
    """:func:`table` and :func:`stages`."""
    return f"{table(report)}\n\nWhere the time goes in ours (median ms a stage):\n\n{stages(report)}"


def stages(report: dict[str, Any]) -> str:
    """Where the time goes in our engine: median ms a stage."""
    lines = []
    for combination in report["combinations"]:
        for one in combination["engines"]:
            if one.get("stages_ms"):
                parts = ", ".join(f"{name} {value:.1f}" for name, value in one["stages_ms"].items())
                compiled = ", compiled" if one["compiled"] else ""
                lines.append(
                    f"- {combination['model']} at {combination['image_size']}, {combination['objects']} objects, "
                    f"{one['dtype']}{compiled}: {parts}"
                )
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """A bar for each engine: median latency, with a line up to the 99th percentile."""
    bars = [
        (
            f"{c['image_size']} px, {c['objects']} obj, {one['engine']} {one['dtype']}"
            + (" compiled" if one["compiled"] and one["engine"] == "sam2_ros" else ""),
            one,
        )
        for c in report["combinations"]
        for one in c["engines"]
        if "latency_ms" in one
    ]
    height, left, width = 22, 400, 1180
    image = np.full((60 + height * len(bars), width, 3), 255, np.uint8)
    top = max((one["latency_ms"]["p99"] for _, one in bars), default=1.0)
    _write(image, f"milliseconds a frame, p50 (bar) and p99 (line); {report['machine']['processor']}", 12, 24)
    for index, (name, one) in enumerate(bars):
        y = 44 + height * index
        scale = (width - left - 90) / top
        p50, p99 = one["latency_ms"]["p50"], one["latency_ms"]["p99"]
        color = _OURS if one["engine"] == "sam2_ros" else _PEER
        cv2.rectangle(image, (left, y), (left + round(p50 * scale), y + height - 6), color, -1)
        cv2.line(image, (left + round(p50 * scale), y + 8), (left + round(p99 * scale), y + 8), _TEXT, 1)
        _write(image, name, 12, y + 13)
        _write(image, f"{p50:.0f}", left + round(p99 * scale) + 6, y + 13)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def _write(image: Any, text: str, x: int, y: int) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _TEXT, 1, cv2.LINE_AA)
