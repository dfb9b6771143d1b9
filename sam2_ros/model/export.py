"""A network as a folder of ONNX files, and what each of them gives beside PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from sam2_ros.model import graphs
from sam2_ros.model.graph_checks import sampled
from sam2_ros.model.graph_folder import CONSTANTS, FORMAT, METADATA, describe_file, describe_graph
from sam2_ros.model.graph_network import GraphNetwork
from sam2_ros.model.graph_shapes import check_name, shapes_of
from sam2_ros.model.graphs import Graph
from sam2_ros.model.int8_limits import limits_of
from sam2_ros.model.runtimes import Array, Options, choose_runtime, open_session
from sam2_ros.model.sam2 import Sam2Model

TOLERANCE = 1e-4  # times max(1, largest value): as between our network and the reference
CHECKED_BY = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Written:
    """One graph of the folder."""

    name: str
    bytes: int
    difference: float  # largest one of any output from PyTorch's, relative to max(1, largest value); 0: not checked


def export_folder(model: Sam2Model, folder: Path, check: bool = True) -> Iterator[Written]:
    """Writes the graphs of ``model``, in float32, then :data:`.graph_folder.CONSTANTS`, then
    :data:`.graph_folder.METADATA`. ``check`` runs each graph beside PyTorch.

    Raises:
        ValueError: no runtime to check with is installed.
        OSError: a file can't be written.
    """
    runtime = _checking_runtime() if check else ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).unlink(missing_ok=True)  # what it described is about to go
    options = Options(runtime, "float32", torch.get_num_threads(), None)
    files: dict[str, Any] = {}
    found: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for name in shapes_of(model.config):
        graph, path = graphs.build(model, name), folder / f"{name}.onnx"
        graphs.export(graph, path)
        with torch.inference_mode():
            wanted = [each.numpy() for each in graph()]
        difference = _difference(graph, path, wanted, options) if check else 0.0
        arrays[check_name(name)] = sampled(wanted)
        found[name] = describe_graph(graph.shapes) | {"difference": difference}
        files[path.name] = describe_file(path)
        yield Written(name, path.stat().st_size, difference)
    with torch.inference_mode():
        arrays |= {name: each.float().numpy() for name, each in graphs.constants(model).items()}
    np.savez(folder / CONSTANTS, **arrays)  # type: ignore[arg-type]  # its other names are none of ours
    files[CONSTANTS] = describe_file(folder / CONSTANTS)
    about = {
        "format": FORMAT, "model": asdict(model.config), "opset": graphs.OPSET, "checked_by": runtime,
        "torch": torch.__version__, "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(), "files": files, "graphs": found, "int8": limits_of(model),
    }  # fmt: skip
    part = folder / f".{METADATA}"
    part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / METADATA)


def as_graphs(model: Sam2Model, runtime: str, dtype: str, threads: int) -> GraphNetwork:
    """``model`` run by ``runtime``; arguments as for :class:`.runtimes.Options`."""
    with TemporaryDirectory() as name:
        list(export_folder(model, Path(name), check=False))
        return GraphNetwork(Path(name), Options(runtime, dtype, threads, None))


def _checking_runtime() -> str:
    problem = ""
    for name in CHECKED_BY:
        try:
            return choose_runtime(name, "cpu", "").runtime
        except ValueError as error:
            problem = problem or str(error)
    raise ValueError(f"exported graphs are checked by onnxruntime or openvino, and neither can be used here: {problem}")


def _difference(graph: Graph, path: Path, wanted: list[Array], options: Options) -> float:
    found = open_session(path, options)(*(each.numpy() for each in graph.inputs.values()))
    pairs = zip(found, wanted, strict=True)
    return float(np.max([np.abs(mine - exact).max() / max(1.0, float(np.abs(exact).max())) for mine, exact in pairs]))
