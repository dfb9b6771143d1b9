#!/usr/bin/env python3
"""What corrections are worth on a stream: J after 0, 1, 2, 3 of them, remembered as we do and as the reference does.

Each object is given by one click on its first frame. Then its sequence is gone through again and again; after each
pass the frame of least J gets one more click, where the answer is most wrong. A click acts on its frame and on those
after it, as on a live stream.

The same clicks are given twice: to the tracker as it is, where a corrected frame counts as a prompted one and stays in
memory, and with ``reference_policy``, which does what SAM 2's video predictor does by default: it keeps a corrected
frame among the recent ones, from where it is gone after six further frames. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from sam2_ros.evaluation.datasets import open_dataset
from sam2_ros.evaluation.interactive import run_interactive
from sam2_ros.evaluation.metrics import jaccard
from sam2_ros.evaluation.results import mean
from sam2_ros.evaluation.semi_supervised import click, labels_for
from sam2_ros.evaluation.sequences import LabelledSequence
from sam2_ros.inference import make_backend
from sam2_ros.inference.backend import Backend
from sam2_ros.inference.clip_tracker import ClipTracker
from sam2_ros.media.progress import bar
from sam2_ros.media.prompts_file import FramePrompt
from sam2_ros.tracking import TrackerConfig

Clicks = dict[int, list[list[float]]]  # x, y, label of each click, by frame


def replay(sequence: LabelledSequence, backend: Backend, one: int, clicks: Clicks) -> float:
    """Mean J of object ``one`` over its labelled frames when it gets these clicks."""
    prompts = [
        FramePrompt(frame, one, click(np.array(given[:2]), int(given[2])))
        for frame, all_given in clicks.items()
        for given in all_given
    ]
    first, overlaps = min(clicks), []
    for tracked in ClipTracker(backend, prompts).run(frame for frame in sequence if frame.index >= first):
        size = (tracked.result.width, tracked.result.height)
        truth = labels_for(sequence, tracked.frame.index, size)
        if one in truth:
            overlaps.append(jaccard(tracked.result.objects[0].mask.full(), truth[one]))
    backend.reset()
    backend.take_changes()
    return mean(overlaps)


def measure(sequence: LabelledSequence, ours: Backend, theirs: Backend, corrections: int) -> list[dict[str, object]]:
    """One row an object: J by the number of corrections with both ways to remember them."""
    result = run_interactive(sequence, ours, online=False, interactions=corrections + 1, clicks=1)
    rows: list[dict[str, object]] = []
    for one, curve in result.extra["interactive"].items():
        clicks: Clicks = curve["clicks"]
        chosen = list(clicks)
        reference = [
            replay(sequence, theirs, int(one), {frame: clicks[frame] for frame in chosen[:count]})
            for count in range(1, len(chosen) + 1)
        ]
        reference += reference[-1:] * (corrections + 1 - len(reference))
        rows.append(
            {
                "sequence": sequence.name,
                "object": int(one),
                "ours": curve["j"],
                "reference": reference,
                "clicks": clicks,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="labelled videos in a layout that `sam2_ros eval` reads")
    parser.add_argument("--list", type=Path, help="file with the names of the sequences; default: all")
    parser.add_argument("--model", default="embedded", help="model or checkpoint (default: embedded)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--corrections", type=int, default=3, help="default: 3")
    parser.add_argument("--json", type=Path, default=Path("corrections.json"), help="default: corrections.json")
    args = parser.parse_args()

    dataset = open_dataset(args.dataset, listed=args.list)
    slots = args.corrections + 1
    ours = make_backend(args.model, args.device, "auto", TrackerConfig(max_objects=1, prompted_slots=slots))
    theirs = make_backend(
        args.model, args.device, "auto", TrackerConfig(max_objects=1, prompted_slots=slots, reference_policy=True)
    )
    rows: list[dict[str, object]] = []
    with bar(len(dataset.names), " sequences", quiet=False) as progress:
        for name in dataset.names:
            rows += measure(dataset.open(name), ours, theirs, args.corrections)
            args.json.write_text(json.dumps({"model": args.model, "rows": rows}, indent=1), encoding="utf-8")
            progress.update()
    ours.close()
    theirs.close()

    print(f"{'sequence':20}" + "".join(f"{f'{count} corr.':>16}" for count in range(slots)))
    table = [[*row["ours"], *row["reference"]] for row in rows]  # type: ignore[misc]
    for title, values in [
        *zip((str(row["sequence"]) for row in rows), table, strict=True),
        ("mean", np.mean(table, 0)),
    ]:
        pairs = (f"{values[count]:.3f} / {values[slots + count]:.3f}" for count in range(slots))
        print(f"{title:20}" + "".join(f"{pair:>16}" for pair in pairs))
    print("ours / as the reference remembers")


if __name__ == "__main__":
    main()
