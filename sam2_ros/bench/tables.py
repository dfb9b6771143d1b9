"""Tables of what is measured beside whole frames: single products, and the drift of bfloat16."""

from __future__ import annotations

from typing import Any

from sam2_ros.bench.report import markdown


def parts(report: dict[str, Any]) -> str:
    """One line for each other way to compute a part of a frame."""
    head = ("model", "dtype", "other way", "times a frame", "ms now", "ms then", "ms saved a frame", "MiB an object",
            "difference")  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for combination in report["combinations"]:
        place = f"{combination['model']} at {combination['image_size']}"
        for row in combination["rows"]:
            kept = f"{row['mib_an_object']:.0f}" if row["mib_an_object"] else "-"
            times = f"{row['ms_now']:.2f}", f"{row['ms_otherwise']:.2f}", f"{row['ms_saved']:.2f}"
            rows.append(
                (place, row["dtype"], row["alternative"], str(row["calls"]), *times, kept, f"{row['difference']:.0e}")
            )
    return markdown(rows) + (
        "\n\nTime of one processor core, of one object whose memory is full; the two ways in turn, the least of each. "
        "Negative: what is done now is the faster way."
    )


def pipeline(report: dict[str, Any]) -> str:
    """Throughput and latency with the next frame encoded beside tracking, and without."""
    if not report["runs"]:
        return "Not measured on a GPU."
    rows: list[tuple[str, ...]] = [("model", "objects", "encoding and tracking", "frames a second", "latency, ms")]
    for run in report["runs"]:
        place = f"{run['model']} at {run['image_size']}, {run['dtype']}", str(run["objects"])
        for row in run["rows"]:
            rows.append((*place, row["way"], f"{row['frames_per_second']:.1f}", f"{row['latency_ms']:.0f}"))
    threads = report["runs"][0]["threads"]
    return markdown(rows) + (
        f"\n\nLatency from the begin of a frame's work to its masks. In turn, with {threads} threads for both; or "
        f"beside each other, with {max(1, threads // 2)} each."
    )


def drift(report: dict[str, Any]) -> str:
    """One line for each way to compute."""
    rows: list[tuple[str, ...]] = [
        ("model", "weights", "dtype", "rearranged", "logits, max", "logits, mean", "IoU, mean", "IoU, least")
    ]
    for model in report["models"]:
        for row in model["rows"]:
            rows.append(
                (
                    f"{model['model']} at {model['image_size']}",
                    model["weights"].partition(" (")[0],
                    row["dtype"],
                    "yes" if row["rearranged"] else "no",
                    f"{row['logit_max']:.1e}",
                    f"{row['logit_mean']:.1e}",
                    f"{row['iou_mean']:.4f}",
                    f"{row['iou_min']:.4f}",
                )
            )
    first = report["models"][0]
    return markdown(rows) + (
        f"\n\nAgainst plain formulas in float32, {first['objects']} objects over {first['frames']} frames, each stream "
        "feeding on its own masks. Differences of logits as shares of the greatest one; masks drawn at random have no "
        "clear edge, so that their IoU says little."
    )
