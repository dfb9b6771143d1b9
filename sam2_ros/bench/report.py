"""The measurements as tables in Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sam2_ros.media.whole_files import whole_file


def headline(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The ratios to the official predictor by number of objects, of the first model and the smallest input size.

    ``ratio_vs_official`` compares the same dtype (float32, or the first that was measured), ``best_vs_best_official``
    each engine's faster dtype.
    """
    smallest = min(combination["image_size"] for combination in report["combinations"])
    names = {"same dtype": "ratio_vs_official", "best": "best_vs_best_official"}
    found: dict[str, dict[str, float]] = {}
    for combination in report["combinations"]:
        for row in combination["ratios"] if combination["image_size"] == smallest else ():
            if row["peer"] == "official" or (row["kind"] == "best" and row["peer"] == "official VOS"):
                found.setdefault(names[row["kind"]], {}).setdefault(str(combination["objects"]), row["ratio"])
    return found


def engine(report: dict[str, Any]) -> str:
    """One line for each engine, times in ms; then the median time of each stage of ours."""
    head = ("model", "input", "objects", "engine", "dtype", "p50", "p90", "p99", "max", "fps", "MiB", "ratio",
            "CPU ratio")  # fmt: skip
    tables = [markdown([head, *_rows(report)]), *_runtimes(report)]
    return "\n\n".join([*tables, "Median ms of each stage of sam2_ros:", _stages(report)])


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for combination in report["combinations"]:
        place = (combination["model"], str(combination["image_size"]), str(combination["objects"]))
        ratios = {(r["peer"], r["peer_dtype"]): r for r in combination["ratios"] if r["kind"] == "same dtype"}
        for row in combination["engines"]:
            name = (row["engine"], row["dtype"])
            if "failure" in row:
                yield (*place, *name, *["-"] * 7, row["failure"][:60])
                continue
            times = [f"{row['latency_ms'][share]:.1f}" for share in ("p50", "p90", "p99", "max")]
            memory = row["memory_mib"].get("allocated", row["memory_mib"].get("resident", 0.0))
            shown = [f"{ratios[name][key]:.2f}" if name in ratios else "" for key in ("ratio", "processor_ratio")]
            yield (*place, *name, *times, f"{row['frames_per_second']:.2f}", f"{memory:.0f}", *shown)


def _runtimes(report: dict[str, Any]) -> list[str]:
    """A table of our runtimes against PyTorch in its faster dtype; none if only PyTorch ran."""
    head = ("model", "objects", "engine", "dtype", "PyTorch's", "PyTorch's time / its time", "CPU ratio")
    rows = [
        (combination["model"], str(combination["objects"]), row["ours"], row["ours_dtype"], row["peer_dtype"],
         "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["quartiles"]), f"{row['processor_ratio']:.2f}")
        for combination in report["combinations"]
        for row in combination["ratios"]
        if row["kind"] == "runtime"
    ]  # fmt: skip
    return [markdown([head, *rows])] if rows else []


def _stages(report: dict[str, Any]) -> str:
    return "\n".join(
        f"- {combination['model']} at {combination['image_size']}, {combination['objects']} objects, {row['engine']} "
        f"{row['dtype']}: " + ", ".join(f"{name} {value:.1f}" for name, value in row["stages_ms"].items())
        for combination in report["combinations"]
        for row in combination["engines"]
        if row.get("stages_ms")
    )


def node(report: dict[str, Any]) -> str:
    """Camera to mask in another process, and its parts; p50 / p99 in ms."""
    runs = report["runs"]
    names = list(runs[0]["ms"])
    rows: list[tuple[str, ...]] = [("engine", "image", "objects", "dropped", *names)]
    for run in runs:
        width, height = run["image"]
        dropped = f"{run['dropped']} of {run['received']}"
        parts = [f"{run['ms'][name]['p50']:.1f} / {run['ms'][name]['p99']:.1f}" for name in names]
        rows.append((run["model"], f"{width}x{height}", str(run["objects"]), dropped, *parts))
    settings = f"{runs[0]['rate']:g} Hz, transport {runs[0]['transport']}; {runs[0]['qos']}."
    head = ("engine", "image", "objects", "images with live masks", "camera to live mask", "engine, frames/s", "slower")
    live: list[tuple[str, ...]] = [head]
    for row, run in zip(rows[1:], runs, strict=True):
        each = run["live"]
        rates = each["engine_rate"]
        share = f"{each['share']:.1%} of {each['images']}"
        ages = f"{each['ms']['p50']:.1f} / {each['ms']['p99']:.1f}"
        live.append(
            (*row[:3], share, ages, f"{rates['without']:g} → {rates['with']:g}", f"{each['engine_slower']:.1%}")
        )
    return f"{markdown(rows)}\n\n{markdown(live)}\n\nMilliseconds, p50 / p99. {settings}"


def endpoint(measured: dict[str, Any]) -> str:
    """Overhead of an inference server, how streams share it, and recovery from its death; p50 / p99 in ms."""
    parts = []
    if rows := measured.get("overhead") or measured.get("steps"):
        lines: list[tuple[str, ...]] = [("image", "way", "p50 / p99, ms")]
        for row in rows:
            way = row["way"] if "way" in row else f"a step, {row['model']}"
            lines.append((row["size"], way, f"{row['p50_ms']:.2f} / {row['p99_ms']:.2f}"))
        parts.append(markdown(lines) + "\n")
    if "overhead" in measured:
        parts.append("Milliseconds that a step through a server takes longer than in one process.")
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


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """A table; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """A bar for each engine: median latency, with a line up to the 99th percentile."""
    from matplotlib.figure import Figure

    bars = {
        f"{combination['model']} at {combination['image_size']}, {combination['objects']} objects, "
        f"{row['engine']} {row['dtype']}": row
        for combination in report["combinations"]
        for row in combination["engines"]
        if "latency_ms" in row
    }
    p50 = [row["latency_ms"]["p50"] for row in bars.values()]
    p99 = [row["latency_ms"]["p99"] for row in bars.values()]
    colors = ["tab:green" if row["engine"] == "sam2_ros" else "0.67" for row in bars.values()]
    figure = Figure(figsize=(9, 1.2 + 0.25 * len(bars)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(list(bars), p50, color=colors)
    axes.hlines(list(bars), p50, p99, color="0.3")
    axes.bar_label(drawn, fmt="%.0f", label_type="center")
    axes.invert_yaxis()
    axes.set(xlabel="ms a frame, p50 (bar) and p99 (line)", title=report["machine"]["processor"])
    with whole_file(path) as new:
        figure.savefig(new)
