"""A network as a folder of ONNX files, and what each of them gives beside PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sam2_ros.model import graphs
from sam2_ros.model.graphs import Graph
from sam2_ros.model.runtimes import Options, choose_runtime, open_session
from sam2_ros.model.sam2 import Sam2Model

METADATA = "graphs.json"
TOLERANCE = 1e-4  # times max(1, largest value): as between our network and the reference
CHECKED_BY = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Written:
    """One file of the folder."""

    name: str
    bytes: int
    difference: float  # largest one of any output from PyTorch's, relative to max(1, largest value)


def export_folder(model: Sam2Model, folder: Path) -> Iterator[Written]:
    """Writes and checks the usual graphs of ``model``, in float32, then :data:`METADATA`.

    Raises:
        ValueError: no runtime to check with is installed.
        OSError: a file can't be written.
    """
    runtime = _checking_runtime()
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    found: dict[str, Any] = {}
    for graph in graphs.usual_graphs(model):
        path = folder / f"{graph.name}.onnx"
        graphs.export(graph, path)
        difference = _difference(graph, path, Options(runtime, "float32", torch.get_num_threads(), None))
        found[graph.name] = _describe(graph) | {"difference": difference}
        yield Written(graph.name, path.stat().st_size, difference)
    about = {
        "model": asdict(config), "opset": graphs.OPSET, "checked_by": runtime, "torch": torch.__version__,
        "pixel_mean": model.pixel_mean.flatten().tolist(), "pixel_std": model.pixel_std.flatten().tolist(),
        "graphs": found,
    }  # fmt: skip
    (folder / METADATA).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _checking_runtime() -> str:
    problem = ""
    for name in CHECKED_BY:
        try:
            return choose_runtime(name, "cpu", "").runtime
        except ValueError as error:
            problem = problem or str(error)
    raise ValueError(f"exported graphs are checked by onnxruntime or openvino, and neither can be used here: {problem}")


def _difference(graph: Graph, path: Path, options: Options) -> float:
    with torch.inference_mode():
        wanted = graph()
    found = open_session(path, options)(*(each.numpy() for each in graph.inputs.values()))
    return max(
        float((torch.from_numpy(mine) - exact).abs().max() / max(1.0, float(exact.abs().max())))
        for mine, exact in zip(found, wanted, strict=True)
    )


def _describe(graph: Graph) -> dict[str, Any]:
    shapes = {name: list(each.shape) for name, each in graph.inputs.items()}
    return {"inputs": shapes, "outputs": list(graph.outputs)}
