"""``sam2_ros bench --all DIR``: every measurement, each as a JSON file, and their tables in ``DIR/README.md``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sam2_ros.bench import ablation, grid, presets, report, weights
from sam2_ros.bench.contestants import Task
from sam2_ros.bench.scene import moving_scene

Tell = Callable[[str], None]
NODE_MODELS = ("null", "embedded")
NODE_IMAGES = ((640, 480), (1280, 720))
SECONDS = 240.0  # of one combination on a CPU, beside filling the memory


def run(folder: Path, device: str, threads: int, peers: tuple[str, ...], command: str, tell: Tell) -> None:
    """Measures and writes; takes about half an hour on two CPU cores."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": grid.describe_machine(device),
        "command": command,
    }
    sections: list[tuple[str, dict[str, Any], str]] = []

    def keep(name: str, title: str, found: dict[str, Any], text: str) -> None:
        found = {**about, **found}
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        sections.append((title, found, text))

    engine = grid.run_all(grids(device, threads, peers), tell)
    report.plot(engine, folder / "engine.png")
    keep("engine", "Engine", {**engine, **report.headline(engine)}, report.table(engine))
    found = {"combinations": rearrangements(device, tell)}
    keep("rearrangements", "Rearrangements", found, report.rearrangements(found))
    found = {"models": input_sizes(device, tell)}
    keep("input_sizes", "Input sizes", found, report.input_sizes(found))
    found = {"runs": node_runs(tell)}
    keep("node", "Node", found, report.node(found))

    minutes = round((time.monotonic() - start) / 60)
    lines = ["# Measurements", "", report.provenance(about) + f" It took {minutes} minutes.", ""]
    for title, content, text in sections:
        lines += [f"## {title}", "", text, ""]
        if title == "Engine":
            lines += ["Where the time goes in ours (median ms a stage):", "", report.stages(content), ""]
            lines += ["![milliseconds a frame](engine.png)", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def grids(device: str, threads: int, peers: tuple[str, ...]) -> list[grid.Grid]:
    """What the machine can do in reasonable time."""
    if device != "cpu":
        return [
            grid.Grid(
                objects=(1, 4, 16, 64), peers=peers, device=device, threads=threads, frames=200, dtypes=("bfloat16",)
            ),
            grid.Grid(models=("embedded",), image_sizes=(0,), device=device, threads=threads, frames=200),
        ]
    tiny = grid.Grid(
        image_sizes=(512,), objects=(1, 4), peers=peers, device=device, threads=threads, frames=24, seconds=SECONDS
    )
    return [
        tiny,
        grid.Grid(
            image_sizes=(1024,), objects=(1,), peers=tuple(p for p in peers if p == "official"), device=device,
            threads=threads, frames=6, seconds=SECONDS,
        ),
        grid.Grid(
            models=("embedded",), image_sizes=(0,), objects=(1, 4, 16), device=device, threads=threads, frames=60
        ),
    ]  # fmt: skip


def rearrangements(
    device: str, tell: Tell, image_size: int = 512, counts: Sequence[int] = (1, 3)
) -> list[dict[str, Any]]:
    """Tiny, with one object and with three."""
    loaded = weights.find("tiny", image_size, device)
    found = []
    for objects in counts:
        task = Task(loaded.model, "", objects, 0)
        dtypes = ("float32", "bfloat16") if device == "cpu" else ("bfloat16",)
        rows = ablation.run(task, moving_scene(objects), dtypes, 6 if device == "cpu" else 60, tell)
        found.append({"model": loaded.model.config.name, "image_size": image_size, "objects": objects, "rows": rows})
    return found


def input_sizes(
    device: str, tell: Tell, sizes: Sequence[int] = (1024, 512, 448), frames: int = 48
) -> list[dict[str, Any]]:
    """The embedded model, and tiny (its agreement only with official weights)."""
    found = [presets.run("embedded", sizes, device, "float32", frames, tell)]
    if weights.is_downloaded("tiny"):
        found.append(presets.run("tiny", sizes[:2], device, "float32", frames, tell))
    return found


def node_runs(tell: Tell) -> list[dict[str, Any]]:
    """Both sizes of image, without a network and with the embedded one; empty without ROS 2."""
    try:
        from sam2_ros.bench import node
    except ImportError:
        return []
    return [
        node.measure(node.NodeRun(model, width, height, frames=300 if model == "null" else 100), tell)
        for model in NODE_MODELS
        for width, height in NODE_IMAGES
    ]
