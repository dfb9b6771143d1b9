"""A network in a folder, as ``sam2_ros export`` writes it: a graph in each ONNX file, arrays, and a description.

Nothing in these files is run but the graphs' arithmetic. Free of torch.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sam2_ros.model.config import ModelConfig
from sam2_ros.model.download import file_sha256
from sam2_ros.model.graph_checks import MAX_ERROR, SAMPLES, drawn_inputs, sampled, worst_error
from sam2_ros.model.graph_shapes import IMAGE, Shapes, check_name, constants_of, shapes_of
from sam2_ros.model.int8 import Limits
from sam2_ros.model.runtimes import Array, Options, Session, open_session
from sam2_ros.text import printable

FORMAT = 2
METADATA, CONSTANTS = "graphs.json", "constants.npz"
MOST_METADATA, MOST_GRAPH = 1 << 20, 1 << 31  # bytes; ONNX files can't be larger
MOST_OVERHEAD = 1 << 16  # bytes of an archive beside its arrays
MOST_COLOR = 1e6
MOST_LIMITS, MOST_INPUT = 1000, 1e6


_log = logging.getLogger(__name__)


class GraphFolderError(ValueError):
    """A folder without a usable network; ``str(error)`` says what is wrong, what is accepted and what to do."""


class GraphRunError(GraphFolderError):
    """A graph that is as it was exported, but that the runtime can't run, or computes wrong."""


def is_graph_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with a network."""
    return (path / METADATA).is_file()


def folder_digest(path: Path) -> str:
    """The SHA-256 of the description, which has those of all other files: it names weights and settings."""
    return file_sha256(path / METADATA)


@dataclass(frozen=True)
class GraphFolder:
    """A folder whose description and arrays were checked. Graphs are checked when they are opened."""

    path: Path
    config: ModelConfig
    mean: Array  # float32 [3] of RGB from 0 to 1, and its standard deviation
    std: Array
    constants: dict[str, Array]
    files: dict[str, tuple[int, str]]  # bytes and SHA-256
    limits: tuple[Limits, ...]  # of the image encoder's layers; empty: it can't run in int8

    @classmethod
    def read(cls, path: Path) -> GraphFolder:
        """Reads and checks a folder.

        Raises:
            GraphFolderError: it holds no network, or one that can't be used.
            OSError: a file can't be read.
        """
        about = _description(path)
        try:
            config = ModelConfig.from_dict(about["model"])
        except Exception as error:  # of what a file says, anything
            _refuse(path, f"{METADATA} describes no network that this version has ({printable(error, 300)})")
        mean, std = (_color(about.get(key)) for key in ("pixel_mean", "pixel_std"))
        if mean is None or std is None or not (std > 0).all():
            _refuse(path, f"pixel_mean or pixel_std in {METADATA} is not what it has to be: 3 numbers, std above 0")
        files = _files(path, about.get("files"), [f"{name}.onnx" for name in shapes_of(config)])
        _check_file(path, CONSTANTS, files)
        checks = {check_name(name): (len(each.outputs), SAMPLES) for name, each in shapes_of(config).items()}
        constants = _constants(path, constants_of(config) | checks)
        return cls(path, config, mean, std, constants, files, _limits(path, about.get("int8", [])))

    def open(self, name: str, options: Options) -> Session:
        """The graph ``name``, ready to run. Where bfloat16 or int8 is wrong, it runs in float32.

        Raises:
            GraphFolderError: it is not the graph that was exported; a :class:`GraphRunError` where it is, but can't be
                run.
        """
        _check_file(self.path, f"{name}.onnx", self.files)
        own = options.of(name)
        session, error = self._opened(name, own)
        if not error <= MAX_ERROR and own.dtype != "float32":  # not so for NaN
            wrong = own.runtime, 100 * error, name, own.dtype
            _log.warning("%s is wrong by %.0f %% in %s in %s, so that it computes it in float32", *wrong)
            session, error = self._opened(name, replace(own, dtype="float32"))
        if not error <= MAX_ERROR:
            _refuse(
                self.path, f"what {own.runtime} computes by {name}.onnx is wrong by {100 * error:.0f} %", GraphRunError
            )
        return session

    def _opened(self, name: str, options: Options) -> tuple[Session, float]:
        """The graph, and its error."""
        file, wanted = f"{name}.onnx", shapes_of(self.config)[name]
        try:
            session = open_session(self.path / file, options, self.limits if name == IMAGE else ())
            fits = session.inputs == list(wanted.inputs.values())
            outputs = session(*drawn_inputs(wanted).values()) if fits else []
        except Exception as error:  # runtimes raise errors of their own
            _refuse(self.path, f"{options.runtime} can't run {file} ({printable(error, 300)})", GraphRunError)
        if not fits:
            found = printable(session.inputs, 200)
            _refuse(self.path, f"{file} takes inputs of the shapes {found}; accepted: {_listed(wanted)}")
        if len(outputs) != len(wanted.outputs):
            _refuse(self.path, f"{file} has {len(outputs)} outputs; expected: {', '.join(wanted.outputs)}")
        return session, worst_error(sampled(outputs), self.constants[check_name(name)])


def _description(path: Path) -> dict[str, Any]:
    file = path / METADATA
    if not file.is_file():
        _refuse(path, f"there is no {METADATA}")
    if file.stat().st_size > MOST_METADATA:
        _refuse(path, f"{METADATA} has {file.stat().st_size} bytes; accepted: up to {MOST_METADATA}")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        _refuse(path, f"{METADATA} is no JSON ({printable(error, 100)})")
    version = about.get("format") if isinstance(about, dict) else None
    if version != FORMAT:
        _refuse(path, f"{METADATA} has the format {printable(version, 40)}; accepted: {FORMAT}")
    return dict(about)


def _color(value: object) -> Array | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    numbers = all(isinstance(each, int | float) and abs(each) < MOST_COLOR for each in value)  # not so for NaN
    return np.array(value, np.float32) if numbers else None


def _limits(path: Path, found: object) -> tuple[Limits, ...]:
    """The description's limits of the layers in int8."""
    if not isinstance(found, list) or len(found) > MOST_LIMITS:
        _refuse(path, f"'int8' in {METADATA} is no list of up to {MOST_LIMITS} limits")
    for each in found:
        pair = isinstance(each, list) and len(each) == 2 and all(isinstance(one, int | float) for one in each)
        if each is not None and not (pair and -MOST_INPUT < each[0] <= 0 <= each[1] < MOST_INPUT and each[0] < each[1]):
            accepted = f"null, or two numbers within {MOST_INPUT:.0f} of 0, one on each side of it"
            _refuse(path, f"'int8' in {METADATA} has {printable(each, 60)}; accepted: {accepted}")
    return tuple(each and (each[0], each[1]) for each in found)


def _files(path: Path, found: object, graphs: list[str]) -> dict[str, tuple[int, str]]:
    """The description's files, all of which have to be there."""
    wanted = [CONSTANTS, *graphs]
    if not isinstance(found, dict) or set(found) != set(wanted):
        _refuse(path, f"'files' in {METADATA} has to name {', '.join(wanted)}, and no other")
    files = {}
    for name in wanted:
        entry = found[name] if isinstance(found[name], dict) else {}
        size, digest = entry.get("bytes"), entry.get("sha256")
        if type(size) is not int or not 0 <= size <= MOST_GRAPH or not isinstance(digest, str):
            _refuse(path, f"'files' in {METADATA} has no bytes (up to {MOST_GRAPH}) and sha256 of {name}")
        has = (path / name).stat().st_size if (path / name).is_file() else None
        if has != size:
            _refuse(path, f"{name} is missing" if has is None else f"{name} has {has} bytes; expected: {size}")
        files[name] = size, digest
    return files


def _check_file(path: Path, name: str, files: Mapping[str, tuple[int, str]]) -> None:
    if (digest := file_sha256(path / name)) != files[name][1]:
        _refuse(path, f"{name} was changed: its SHA-256 is {digest}; expected: {printable(files[name][1], 64)}")


def _constants(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    most = MOST_OVERHEAD + sum(4 * int(np.prod(shape)) for shape in wanted.values())
    try:
        with zipfile.ZipFile(path / CONSTANTS) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > most:
                raise ValueError("it unpacks to more than its arrays have")
        with np.load(path / CONSTANTS, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except OSError:  # not damaged, as its SHA-256 was right: no memory, no open files, ...
        raise
    except Exception as error:  # what somebody has made up can make NumPy raise anything
        _refuse(path, f"{CONSTANTS} can't be read ({printable(error, 100)})")
    for name in wanted.keys() | found.keys():
        if name not in found or name not in wanted:
            _refuse(path, f"{CONSTANTS}: array '{printable(name, 40)}' is {'missing' if name in wanted else 'unknown'}")
        if found[name].shape != wanted[name] or found[name].dtype != np.float32:
            kind = f"{found[name].dtype} {found[name].shape}"
            _refuse(path, f"{CONSTANTS}: array '{name}' is {kind}; accepted: float32 {wanted[name]}")
        if not np.isfinite(found[name]).all():
            _refuse(path, f"{CONSTANTS}: array '{name}' holds values that are NaN or infinite")
    return found


def describe_file(path: Path) -> dict[str, Any]:
    """What the description says of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def describe_graph(graph: Shapes) -> dict[str, Any]:
    """What the description says of a graph to other programs."""
    return {"inputs": graph.inputs, "outputs": graph.outputs, "int64": graph.whole}


def _listed(wanted: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in wanted.inputs.items())


def _refuse(path: Path, problem: str, kind: type[GraphFolderError] = GraphFolderError) -> NoReturn:
    raise kind(f"{path} holds no network that can be used: {problem}; export it again: sam2_ros export")
