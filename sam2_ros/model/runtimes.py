"""Runtimes that run exported graphs (ONNX files) in PyTorch's place. Arrays in, arrays out; imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam2_ros.model.bfloat16 import has_bfloat16
from sam2_ros.model.config import RUNTIMES
from sam2_ros.model.graph_shapes import IMAGE, is_rounded
from sam2_ros.model.int8 import INT8, Limits, quantise

Array = NDArray[Any]
AUTO, TORCH, OPENVINO = "auto", "torch", "openvino"
OLDEST = 2025  # of OpenVINO's versions; setup.py asks for it, too
_PROVIDERS = {
    "": "CPUExecutionProvider", "openvino": "OpenVINOExecutionProvider", "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}  # fmt: skip
_PACKAGES = {
    "openvino": "'sam2_ros[openvino]'", "onnxruntime": "onnx onnxruntime", "onnxruntime:openvino": "onnx "
    "onnxruntime-openvino", "onnxruntime:cuda": "onnx onnxruntime-gpu", "onnxruntime:tensorrt": "onnx onnxruntime-gpu",
}  # fmt: skip

_cores: list[Any] = []
_core_lock = threading.Lock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What runs a network."""

    runtime: str  # of RUNTIMES, but not "auto"
    reason: str  # for logs


def computes_bfloat16(runtime: str) -> bool:
    """Whether ``runtime`` (as :func:`choose_runtime` gives it) has bfloat16."""
    return not runtime.startswith("onnxruntime")


class Session(Protocol):
    """A graph that is ready to run. Thread-safe."""

    inputs: list[tuple[int, ...]]  # shapes; -1: any

    def __call__(self, *inputs: Array) -> list[Array]:
        """Its outputs."""


@dataclass(frozen=True)
class Options:
    """How graphs are to be run."""

    runtime: str  # of RUNTIMES, but neither "auto" nor "torch"
    dtype: str  # "float32", or for OpenVINO "bfloat16", or "int8" for what of the image encoder may be in it
    threads: int  # of the CPU
    cache: Path | None  # folder for what the runtime compiles; None: it is not kept

    def of(self, graph: str) -> Options:
        """Those of the graph with this name, which may not be rounded."""
        if self.dtype == INT8 and graph != IMAGE:
            return replace(self, dtype=self.rest).of(graph)
        return self if is_rounded(graph) else replace(self, dtype="float32")

    @property
    def rest(self) -> str:
        """The dtype of what is not in int8."""
        if self.dtype != INT8:
            return self.dtype
        return "bfloat16" if has_bfloat16("cpu") else "float32"

    @property
    def version(self) -> str:
        """Of the runtime's package."""
        module = importlib.import_module(self.runtime.partition(":")[0])
        return str(getattr(module, "__version__", "?")).partition("-")[0]  # without a build's number


def choose_runtime(name: str, device: str, trunk: str = "") -> Choice:
    """What ``name`` (of :data:`RUNTIMES`) means for a network on ``device`` ("cpu", "cuda:0", ...).

    "auto" is OpenVINO where it was measured to be faster and works, else PyTorch. That depends on the network's
    ``trunk`` (:attr:`.ModelConfig.trunk`); empty: it is not known yet, and the answer may be another one later.

    Raises:
        ValueError: no such runtime, it is not installed, or it does not go with the device.
    """
    if name not in RUNTIMES:
        raise ValueError(f"runtime is '{name[:40]}'; accepted: {', '.join(RUNTIMES)}")
    if name == AUTO:
        reason = _reason_for_torch(device, trunk)
        return Choice(TORCH, reason) if reason else Choice(OPENVINO, "auto: the fastest on a CPU")
    if name == TORCH:
        return Choice(TORCH, "as chosen")
    if device != "cpu":
        raise ValueError(f"runtime '{name}' came with device '{device}'; accepted: cpu, which is where its tensors are")
    _check(name, "onnx")
    return Choice(name, "as chosen")


def choose_for_export(name: str) -> Choice:
    """As :func:`choose_runtime`, for a network that was exported, which PyTorch can't run. "auto" is OpenVINO, or ONNX
    Runtime where there is none."""
    others = [each for each in RUNTIMES if each != TORCH]
    if name not in others:
        what = "is exported graphs, which PyTorch can't run" if name == TORCH else "has no such runtime"
        raise ValueError(f"runtime is '{name[:40]}', but the model {what}; accepted: {', '.join(others)}")
    if name != AUTO:
        _check(name)
        return Choice(name, "as chosen")
    problems = []
    for each in (OPENVINO, "onnxruntime"):
        if not (problem := _missing(each) or _problem(each)):
            return Choice(each, "auto: the fastest that is installed")
        problems.append(f"{each}: {problem}")
    raise ValueError(
        f"no runtime here can run exported graphs ({'; '.join(problems)}); python3 -m pip install openvino"
    )


def _check(name: str, *exporting: str) -> None:
    """
    Raises:
        ValueError: the runtime ``name``, or a package for ``exporting``, is missing or can't be used.
    """
    if missing := _missing(name, *exporting):
        raise ValueError(f"runtime '{name}' needs {missing}; install it: python3 -m pip install {_package(name)}")
    if problem := _problem(name):
        cure = "install the device's driver, or choose another runtime"
        if _problem(OPENVINO):  # not even the CPU can be used
            cure = f"python3 -m pip install -U {_package(name)}"
        raise ValueError(f"runtime '{name}' can't be used: {problem}; {cure}")


def _reason_for_torch(device: str, trunk: str) -> str:
    """Why "auto" does not take OpenVINO; empty: it does."""
    if device != "cpu":
        return f"auto: PyTorch is the fastest on {device}"
    if trunk not in ("", "tinyvit"):
        return "auto: other runtimes were measured with the embedded model only"
    if missing := _missing(OPENVINO, "onnx"):
        return f"auto: OpenVINO would be faster, but needs {missing}: python3 -m pip install {_package(OPENVINO)}"
    if problem := _problem(OPENVINO):
        _log.warning("OpenVINO can't be used, so PyTorch runs the network: %s", problem)
        return f"auto: OpenVINO can't be used: {problem}"
    return ""


def _package(name: str) -> str:
    return _PACKAGES.get(name, _PACKAGES[OPENVINO])


def _problem(name: str) -> str:
    """Why the installed package of the runtime ``name`` can't be used; empty: it can, as far as is known."""
    if not name.startswith(OPENVINO):
        return ""
    device = _device(name)
    try:
        import openvino

        version = openvino.__version__.partition("-")[0]
        if int(version.partition(".")[0]) < OLDEST:
            return f"its version is {version}; accepted: {OLDEST}.0 or newer"
        devices = _core().available_devices
    except Exception as error:  # a broken installation may raise anything
        return f"{type(error).__name__}: {error}"
    if not any(each.partition(".")[0] == device for each in devices):
        return f"it finds no {device} here, only: {', '.join(devices) or 'nothing'}"
    return ""


def _core() -> Any:
    """OpenVINO's one core of this process, which stays until its end.

    Each core gives the thread that makes it a stack for signals, and frees that memory when it goes, also where it is
    the thread's stack again by then (OpenVINO 2026.4 with AMX). The next signal would end the process without a word.
    """
    import openvino

    with _core_lock:
        if not _cores:
            _cores.append(openvino.Core())
        return _cores[0]


def _device(name: str) -> str:
    """OpenVINO's name of the device in the runtime ``name``."""
    return name.partition(":")[2].upper() or "CPU"


def _missing(name: str, *exporting: str) -> str:
    """What is not installed here of the runtime ``name``, or of the packages ``exporting``; empty: nothing."""
    package, _, part = name.partition(":")
    for module in (package, *exporting):
        if importlib.util.find_spec(module) is None:
            return f"the package {module}"
    if package == "onnxruntime":
        import onnxruntime

        provider = _PROVIDERS[part]
        if provider not in onnxruntime.get_available_providers():
            return f"a build of onnxruntime with {provider}"
    return ""


def open_session(graph: Path, options: Options, limits: Sequence[Limits] = ()) -> Session:
    """Compiles the ONNX file ``graph``; ``limits``: of its layers that may be in int8, see :func:`.int8.quantise`."""
    if options.runtime.startswith(OPENVINO):
        return _OpenVino(graph, options, limits)
    return _OnnxRuntime(graph, options)


class _OpenVino:
    def __init__(self, graph: Path, options: Options, limits: Sequence[Limits]) -> None:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if options.rest == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.cache is not None:
            # A folder for each: OpenVINO takes graphs that differ only in a number of tokens for the same.
            settings["CACHE_DIR"] = str(options.cache / f"{graph.stem}_{options.dtype}")
        device = _device(options.runtime)
        if device == "CPU":
            # Threads that are tied to cores wait for whatever else runs there.
            settings |= {"INFERENCE_NUM_THREADS": options.threads, "ENABLE_CPU_PINNING": False}
        source: Any = str(graph)
        if options.dtype == INT8:
            source = _core().read_model(source)
            quantise(source, limits)
        compiled = _core().compile_model(source, device, settings)
        self.inputs = [
            tuple(-1 if size.is_dynamic else size.get_length() for size in each.partial_shape)
            for each in compiled.inputs
        ]
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, *inputs: Array) -> list[Array]:
        whole = [np.ascontiguousarray(each) for each in inputs]
        with self._lock:
            out = self._request.infer(whole, share_inputs=True, share_outputs=False)
        return [out[index] for index in range(len(out))]


class _OnnxRuntime:
    def __init__(self, graph: Path, options: Options) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others use the same cores
        provider = options.runtime.partition(":")[2]
        providers: list[Any] = [_PROVIDERS[provider]]
        if provider == "tensorrt":
            engine = {"trt_fp16_enable": "True"}
            if options.cache is not None:
                (folder := options.cache / "tensorrt").mkdir(parents=True, exist_ok=True)
                engine |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder)}
            providers = [(providers[0], engine), _PROVIDERS["cuda"]]
        if provider:
            providers.append(_PROVIDERS[""])  # for what the other one can't run
        self._session = onnxruntime.InferenceSession(str(graph), settings, providers=providers)
        self._names = [each.name for each in self._session.get_inputs()]
        self.inputs = [
            tuple(size if isinstance(size, int) else -1 for size in each.shape) for each in self._session.get_inputs()
        ]

    def __call__(self, *inputs: Array) -> list[Array]:
        feed = {name: np.ascontiguousarray(value) for name, value in zip(self._names, inputs, strict=True)}
        return list(self._session.run(None, feed))
