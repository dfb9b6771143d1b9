#!/usr/bin/env python3
"""Measures what runs a network's parts on this machine, e.g. a Jetson, and prints a table in Markdown.

    python scripts/runtimes.py --model embedded --image-size 448 --runtime torch onnxruntime:tensorrt

Runtimes take turns on the same drawn inputs; each gives the median and 99th percentile of its time in ms, the processor
time, and how far its outputs are from PyTorch's in float32. For whole frames, see ``sam2_ros bench --runtime``.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sam2_ros.model import Sam2Model, graphs, load_model
from sam2_ros.model.bfloat16 import has_bfloat16
from sam2_ros.model.config import RUNTIMES
from sam2_ros.model.graph_checks import worst_error
from sam2_ros.model.graph_shapes import ATTEND_IMAGE, ATTEND_MEMORY, DECODE, DECODE_POINT, IMAGE, MEMORY
from sam2_ros.model.graphs import Graph
from sam2_ros.model.runtimes import Options, choose_runtime, computes_bfloat16, open_session

TRACKING = IMAGE, ATTEND_IMAGE, ATTEND_MEMORY, DECODE_POINT, DECODE, MEMORY
HEAD = "| graph | runtime | dtype | first run s | p50 ms | p99 ms | processor ms | error |\n" + 8 * "|---" + "|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="embedded", help="embedded (default), an official size that was downloaded, or a path")
    add("--image-size", type=int, default=0, metavar="PX", help="side of the network's input (0: the model's own)")
    add(
        "--runtime", nargs="+", default=["torch"], choices=RUNTIMES[1:], metavar="RUNTIME", help=", ".join(RUNTIMES[1:])
    )
    add("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")
    add("--runs", type=int, default=50, metavar="N", help="of each graph (default: 50)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        names = [choose_runtime(name, "cpu", "").runtime for name in dict.fromkeys(args.runtime)]
        model = load_model(args.model, image_size=args.image_size)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{model.config.name} at {model.config.image_size} px; {platform.machine()}, {platform.platform()}, torch "
          f"{torch.__version__}, {torch.get_num_threads()} threads\n\n{HEAD}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for each in TRACKING:
            for row in rows(graphs.build(model, each), names, model, Path(folder), args.runs):
                print(row, flush=True)


def rows(graph: Graph, names: list[str], model: Sam2Model, folder: Path, runs: int) -> list[str]:
    """The table's rows of one graph."""
    path = folder / f"{graph.name}.onnx"
    graphs.export(graph, path)
    with torch.inference_mode():
        wanted = [each.numpy() for each in graph()]
    fast = has_bfloat16("cpu")
    entries: list[tuple[str, str, float, str, Callable[[], object]]] = []
    run: Callable[[], object]
    for name in names:
        for dtype in ("float32", "bfloat16"):
            if dtype == "bfloat16" and not (fast and computes_bfloat16(name)):
                continue
            start = time.perf_counter()
            if name == "torch":
                run, error = by_torch(graph, dtype), ""
                run()
            else:
                session = open_session(path, Options(name, dtype, torch.get_num_threads(), folder))
                inputs = [each.numpy() for each in graph.inputs.values()]
                run = partial(session, *inputs)
                error = f"{worst_error(session(*inputs), wanted):.1e}"
            entries.append((name, dtype, time.perf_counter() - start, error, run))
    wall, processor = (np.zeros((len(entries), runs)) for _ in range(2))
    for index in range(runs):
        for place, entry in enumerate(entries):
            begin, busy = time.perf_counter(), time.process_time()
            entry[-1]()
            wall[place, index] = 1e3 * (time.perf_counter() - begin)
            processor[place, index] = 1e3 * (time.process_time() - busy)
    return [
        f"| {graph.name} | {name} | {dtype} | {first:.1f} | {np.median(times):.1f} | {np.percentile(times, 99):.1f} | "
        f"{np.median(busy):.1f} | {error} |"
        for (name, dtype, first, error, _), times, busy in zip(entries, wall, processor, strict=True)
    ]


def by_torch(graph: Graph, dtype: str) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return graph()

    return run


if __name__ == "__main__":
    main()
