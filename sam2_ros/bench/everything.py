"""``sam2_ros bench --all DIR``: every measurement, each as a JSON file, and their tables in ``DIR/README.md``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2_ros.bench import ablation, alternatives, drift, grid, pipeline, presets, report, tables, weights
from sam2_ros.bench.contestants import Task
from sam2_ros.bench.scene import moving_scene

Tell = Callable[[str], None]
NODE_MODELS = ("null", "embedded")
NODE_IMAGES = ((640, 480), (1280, 720))
SECONDS = 240.0  # of one combination on a CPU, beside filling the memory


@dataclass(frozen=True)
class Settings:
    """Of a whole run."""

    device: str
    threads: int = 0  # of the CPU; 0 = torch's choice
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """One measurement: ``measure`` gives what its JSON file holds, ``text`` writes it down in Markdown."""

    title: str
    measure: Callable[[Settings, Tell], dict[str, Any]]
    text: Callable[[dict[str, Any]], str]
    picture: Callable[[dict[str, Any], Path], None] | None = None


def run(folder: Path, settings: Settings, command: str, tell: Tell, only: Sequence[str] = ()) -> None:
    """Measures ``only`` the named sections, or all of them (half an hour on two CPU cores), and writes the tables of
    all that the folder holds then. Each section is written when it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, section in SECTIONS.items():
        if only and name not in only:
            continue
        start = time.monotonic()
        about = {
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "machine": grid.describe_machine(settings.device),
            "command": command,
        }
        found = {**section.measure(settings, tell), **about}
        found["minutes"] = round((time.monotonic() - start) / 60, 1)
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if section.picture is not None:
            section.picture(found, folder / f"{name}.png")
        write_tables(folder)


def write_tables(folder: Path) -> None:
    """``README.md`` of what the folder's JSON files hold."""
    lines = [
        "# Measurements",
        "",
        "Written by `sam2_ros bench --all`; told of in [performance.md](../performance.md).",
        "",
    ]
    for name, section in SECTIONS.items():
        file = folder / f"{name}.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            lines += [f"## {section.title}", "", report.provenance(found), "", section.text(found), ""]
            if section.picture is not None:
                lines += [f"![{section.title}]({name}.png)", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def grids(settings: Settings) -> list[grid.Grid]:
    """What the machine can do in reasonable time."""
    device, threads, peers = settings.device, settings.threads, settings.peers
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


def engine(settings: Settings, tell: Tell) -> dict[str, Any]:
    """Ours and the peers."""
    found = grid.run_all(grids(settings), tell)
    return {**found, **report.headline(found)}


def rearrangements(
    settings: Settings, tell: Tell, image_size: int = 512, counts: Sequence[int] = (1, 3)
) -> dict[str, Any]:
    """Tiny, with one object and with three."""
    loaded = weights.find("tiny", image_size, settings.device)
    found = []
    for objects in counts:
        task = Task(loaded.model, "", objects, 0, loaded.origin == weights.DRAWN)
        rows = ablation.run(task, moving_scene(objects), dtypes(settings), 6 if settings.device == "cpu" else 60, tell)
        found.append({"model": loaded.model.config.name, "image_size": image_size, "objects": objects, "rows": rows})
    return {"combinations": found}


def parts(settings: Settings, tell: Tell, image_size: int = 512) -> dict[str, Any]:
    """Rearrangements of single products, in tiny and the embedded model."""
    found = []
    for name, size in (("tiny", image_size), ("embedded", 0)):
        tell(f"{name}: parts of a frame")
        model = weights.find(name, size, settings.device).model
        rows = alternatives.run(model, dtypes(settings))
        found.append({"model": model.config.name, "image_size": model.config.image_size, "rows": rows})
    return {"combinations": found}


def drifts(settings: Settings, tell: Tell, image_size: int = 512, frames: int = 24) -> dict[str, Any]:
    """bfloat16 against float32, in the embedded model and tiny."""
    models = (("embedded", 0), ("tiny", image_size))
    return {"models": [drift.run(name, size, settings.device, frames, tell) for name, size in models]}


def input_sizes(
    settings: Settings, tell: Tell, sizes: Sequence[int] = (1024, 640, 512, 448), frames: int = 48
) -> dict[str, Any]:
    """The embedded model, and tiny at 1024 and 512 (its agreement only with official weights)."""
    device, dtype = settings.device, dtypes(settings)[-1]
    told = weights.is_downloaded("tiny")
    found = [presets.run("embedded", sizes, device, dtype, frames, tell)]
    found.append(presets.run("tiny", (1024, 512), device, dtype, frames if told else min(frames, 24), tell))
    return {"models": found}


def ahead(settings: Settings, tell: Tell, frames: int = 12) -> dict[str, Any]:
    """Encoding the next frame beside tracking, in the embedded model; on a CPU only."""
    if settings.device != "cpu":
        return {"runs": []}
    return {"runs": [pipeline.run("embedded", 0, "bfloat16", objects, frames, tell) for objects in (1, 4)]}


def dtypes(settings: Settings) -> tuple[str, ...]:
    """A GPU is worth measuring in bfloat16 alone."""
    return ("float32", "bfloat16") if settings.device == "cpu" else ("bfloat16",)


def node_runs(_: Settings, tell: Tell) -> dict[str, Any]:
    """Both sizes of image, without a network and with the embedded one; empty without ROS 2."""
    try:
        from sam2_ros.bench import node_latency
    except ImportError:
        return {"runs": []}
    runs = [
        node_latency.measure(node_latency.NodeRun(model, width, height, frames=300 if model == "null" else 100), tell)
        for model in NODE_MODELS
        for width, height in NODE_IMAGES
    ]
    return {"runs": runs}


SECTIONS: dict[str, Section] = {
    "engine": Section("Engine", engine, report.engine, report.plot),
    "rearrangements": Section("Rearrangements", rearrangements, report.rearrangements),
    "parts": Section("Parts of a frame", parts, tables.parts),
    "drift": Section("Drift in bfloat16", drifts, tables.drift),
    "input_sizes": Section("Input sizes", input_sizes, report.input_sizes),
    "pipeline": Section("Encoding ahead", ahead, tables.pipeline),
    "node": Section("Node", node_runs, report.node),
}
