"""Runs a network's parts as graphs of another runtime. What has no graph, PyTorch runs.

Graphs are exported and compiled at their first use, and cached on disk by the hash of weights and code.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sam2_ros.model import graphs
from sam2_ros.model.download import cache_dir
from sam2_ros.model.graphs import Graph
from sam2_ros.model.runtimes import OPENVINO, TORCH, Options, Session, open_session

if TYPE_CHECKING:
    from sam2_ros.model.sam2 import Sam2Model

MAX_SESSIONS = 48  # in memory: eight sizes of input; beyond it the least recently used is dropped
MAX_NETWORKS = 8  # whose graphs stay on disk; beyond it those of the least recently used network are deleted
MAX_ERROR = 0.1  # share; bfloat16 comes to 0.05
MAX_DECODED = 4  # prompts; PyTorch decodes more of them faster in one batch
IGNORED = -1e9  # added to the attention logit of a memory that does not count

_log = logging.getLogger(__name__)


def run_by(model: Sam2Model, runtime: str, dtype: str, threads: int) -> Sam2Model:
    """``model``, with its weights in the same memory, run by ``runtime``; arguments as for :class:`GraphRunner`."""
    return model if runtime == TORCH else model.with_graphs(GraphRunner(model, runtime, dtype, threads))


class GraphRunner:
    """The graphs of one network in all its sizes (:meth:`Sam2Model.at`). Each graph serves one thread at a time.

    Args:
        model: the network, on the CPU.
        runtime: as :func:`.runtimes.choose_runtime` gives it.
        dtype: "float32", or "bfloat16" where the runtime is OpenVINO on a CPU.
        threads: of the CPU.
        folder: for exported and compiled graphs; None: in the cache.
    """

    def __init__(self, model: Sam2Model, runtime: str, dtype: str, threads: int, folder: Path | None = None) -> None:
        self.runtime = runtime
        self.dtype = torch.bfloat16 if dtype == "bfloat16" and runtime.startswith(OPENVINO) else torch.float32
        self._in_cache = folder is None
        self.folder = folder or cache_dir() / "graphs" / network_hash(model)
        self._options = Options(runtime, str(self.dtype).removeprefix("torch."), threads, self.folder)
        self._sessions: dict[tuple[object, ...], Session | None] = {}
        self._sealed = False
        self._makes = False  # has made a graph that was not in the cache
        self.failed = False  # PyTorch runs whatever was not ready before
        self.built: dict[str, float] = {}  # seconds that each graph took to build or to load

    def __str__(self) -> str:
        return f"{self.runtime} {self._options.version}" + (", failed" if self.failed else "")

    def seal(self) -> None:
        """From now on PyTorch runs what was not used yet: a live frame can't wait until a graph is made."""
        self._sealed = True

    def report(self) -> str:
        """What was built so far, for logs."""
        return f"{self}, {len(self.built)} graphs ready in {sum(self.built.values()):.1f} s"

    # -- what Sam2Model asks for -----------------------------------------------------------------------------------

    def image_maps(self, model: Sam2Model, images: Tensor) -> list[Tensor]:
        """As :meth:`Sam2Model.image_maps`; several images one by one."""
        side = images.shape[-1]
        session = self._session(model, (graphs.IMAGE, side), lambda: graphs.image_encoder(model, side))
        if session is None:
            return model.image_maps(images)
        rows = [[each.copy() for each in session(image.numpy())] for image in images.float().split(1)]
        maps = [torch.cat([torch.from_numpy(each) for each in row]) for row in zip(*rows, strict=True)]
        # As PyTorch's autocast gives them; history is sized by it.
        return [maps[0], *(fine.to(self.dtype) for fine in maps[1:3]), *maps[3:]]

    def with_memory(
        self, model: Sam2Model, stride_16: Tensor, memory: Tensor, codes: Tensor, pointers: int, mask: Tensor | None
    ) -> Tensor | None:
        """As :meth:`Sam2Model.with_memory`, ``[B, C, h, w]``; None where PyTorch has to."""
        config = model.config
        split, cells = config.hidden_dim // config.memory_dim, config.memory_tokens
        spatial = memory.shape[1] - pointers
        room = next(((f, p) for f, p in graphs.MEMORIES if spatial <= f * cells and pointers <= p * split), None)
        if room is None:
            return None
        first = self._session(model, (graphs.ATTEND_IMAGE,), lambda: graphs.image_attention(model))
        attend = self._session(model, (graphs.ATTEND_MEMORY, room), lambda: graphs.memory_attention(model, *room))
        if first is None or attend is None:
            return None
        tokens = [each.copy() for (each,) in (first(image.numpy()) for image in stride_16.float().split(1))]
        rows, size = len(memory), room[0] * cells + room[1] * split
        used = np.r_[:spatial, room[0] * cells : room[0] * cells + pointers]
        padded, keys = (np.zeros((rows, 1, size, config.memory_dim), np.float32) for _ in range(2))
        padded[:, 0, used], keys[:, 0, used] = memory.float().numpy(), (memory + codes).float().numpy()
        bias = np.full((rows, 1, size), IGNORED, np.float32)
        bias[:, 0, used] = 0.0 if mask is None else np.where(mask.numpy(), 0.0, IGNORED)
        conditioned = []
        for row in range(rows):
            (out,) = attend(tokens[row if len(tokens) > 1 else 0], padded[row], keys[row], bias[row])
            conditioned.append(torch.from_numpy(out.copy()))
        return torch.cat(conditioned)

    def decode(
        self, model: Sam2Model, source: Tensor, prompt: Tensor, stride_8: Tensor, stride_4: Tensor
    ) -> list[Tensor] | None:
        """The decoder's outputs for ``B`` prompts (``[B, T, C]``) on ``source``, the image with the prompt's map; None
        where PyTorch has to."""
        count, rows = prompt.shape[1], max(len(source), len(prompt))
        if count not in graphs.PROMPT_TOKENS or rows > MAX_DECODED:
            return None
        session = self._session(model, (graphs.DECODE, count), lambda: graphs.mask_decoder(model, count))
        if session is None:
            return None
        inputs = [
            each.float().expand(rows if len(each) == 1 else -1, *[-1] * (each.ndim - 1)).numpy()
            for each in (source, prompt, stride_8, stride_4)
        ]
        outputs = []
        for row in range(rows):
            out = session(*(np.ascontiguousarray(each[row : row + 1]) for each in inputs))
            outputs.append([torch.from_numpy(each.copy()) for each in out])
        return [torch.cat(each) for each in zip(*outputs, strict=True)]

    def memory_maps(self, model: Sam2Model, stride_16: Tensor, logits: Tensor) -> Tensor:
        """As :meth:`Sam2Model.memory_maps`, of one image and the logits of ``B`` objects."""
        session = self._session(model, (graphs.MEMORY,), lambda: graphs.memory_encoder(model))
        if session is None:
            return model.memory_maps(stride_16, logits)
        images = stride_16.float().expand(len(logits), -1, -1, -1)
        rows = zip(images.split(1), logits.float().split(1), strict=True)
        return torch.cat([torch.from_numpy(session(i.numpy(), m.contiguous().numpy())[0].copy()) for i, m in rows])

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _session(self, model: Sam2Model, key: tuple[object, ...], make: Callable[[], Graph]) -> Session | None:
        """None if PyTorch has to run it."""
        key = model.config.image_size, *key
        if self._sealed and key not in self._sessions:
            return None
        session = self._sessions.pop(key) if key in self._sessions else self._open(model.config.image_size, make())
        self._sessions[key] = session  # the most recently used one comes last
        while len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _open(self, side: int, graph: Graph) -> Session | None:
        if self.failed:
            return None
        start, what = time.monotonic(), f"{graph.name} at {side} px"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Processes that start together take turns: neither ours nor the runtime's files may be half written.
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                session, error = self._checked(self.folder / f"{graph.name}_{side}.onnx", graph)
        except Exception as problem:  # a broken installation, a cache that can't be written, no memory, ...
            self.failed = True
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            _log.warning("%s: PyTorch runs what is not ready, because %s can't be: %s", self.runtime, what, reason)
            return None
        if error > MAX_ERROR:
            _log.warning("%s: %s is wrong by %.0f %%, so that PyTorch runs it", self, what, 100 * error)
            return None
        self.built[what] = time.monotonic() - start
        _log.info("%s: %s is ready after %.1f s", self, what, self.built[what])
        return session

    def _checked(self, path: Path, graph: Graph) -> tuple[Session, float]:
        """The graph, ready to run, and its error; may raise anything."""
        if self._in_cache:
            _make_room(self.folder)
        if not path.is_file():
            if not self._makes:
                # Also said where nobody has set up logging: in a node and on the command line.
                _log.warning("%s: making the graphs of this network, once; they are cached in %s", self, self.folder)
            self._makes = True
            partial = path.with_name(f".{path.name}")  # what a process left that died
            graphs.export(graph, partial)
            partial.replace(path)
        # The decoder always in float32: fused by OpenVINO 2026.4, the attention of its few tokens is wrong in bfloat16;
        # not fused, it saves 3 % of a frame and costs exact masks.
        exact = graph.name.startswith(graphs.DECODE)
        session = open_session(path, replace(self._options, dtype="float32") if exact else self._options)
        return session, error_of(graph, session)


def error_of(graph: Graph, session: Session) -> float:
    """How far the outputs for the drawn inputs are from PyTorch's, as a share of their size; the worst output."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        wanted = graph()
    found = session(*(each.numpy() for each in graph.inputs.values()))
    pairs = ((torch.from_numpy(mine), exact) for mine, exact in zip(found, wanted, strict=True))
    return max(float(torch.linalg.norm(mine - exact) / torch.linalg.norm(exact)) for mine, exact in pairs)


def network_hash(model: Sam2Model) -> str:
    """Names weights, settings, PyTorch, and the code of this folder."""
    total = hashlib.sha256(f"{model.config} {torch.__version__} {graphs.OPSET}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        total.update(source.read_bytes())
    return total.hexdigest()[:20]


def _make_room(folder: Path) -> None:
    """Deletes the graphs of the networks that were not used for the longest; ``folder`` is used now."""
    folder.touch()
    others = sorted(folder.parent.iterdir(), key=lambda each: each.stat().st_mtime)
    for old in others[:-MAX_NETWORKS]:
        shutil.rmtree(old, ignore_errors=True)
