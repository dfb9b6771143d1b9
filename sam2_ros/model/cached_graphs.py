"""Weights as graphs, which are made from PyTorch's network once and then cached. Free of torch where they are there."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sam2_ros.model.download import file_sha256
from sam2_ros.model.graph_cache import cache_turn, graph_cache
from sam2_ros.model.graph_folder import GraphFolder, GraphFolderError, GraphRunError, is_graph_folder
from sam2_ros.model.graph_network import GraphNetwork, options_of
from sam2_ros.model.runtimes import TORCH, Choice, choose_runtime
from sam2_ros.model.weight_files import EMBEDDED_INT8

if TYPE_CHECKING:
    from sam2_ros.model.sam2 import Sam2Model

_log = logging.getLogger(__name__)


class CachedGraphs:
    """The graphs of one file of weights in one size of the input.

    Args:
        weights: the file.
        image_size: side of the square input in pixels; 0 = the checkpoint's own.
    """

    def __init__(self, weights: Path, image_size: int) -> None:
        name = hashlib.sha256(f"{file_sha256(weights)} {image_size}".encode())
        for source in (*sorted(Path(__file__).parent.glob("*.py")), EMBEDDED_INT8):
            if source.is_file():  # an install by links may have some that lead nowhere
                name.update(source.read_bytes())
        self.folder = graph_cache(name.hexdigest())
        self.problem = ""  # why graphs that are there could not be opened

    def open(self, runtime: str, dtype: str, threads: int) -> tuple[GraphNetwork, Choice] | None:
        """The network, and why ``runtime`` runs it; None: there are no usable graphs, or PyTorch is to run it.

        Raises:
            ValueError: as of :func:`.runtimes.choose_runtime` and :func:`.graph_network.options_of`.
        """
        if not is_graph_folder(self.folder):
            return None
        try:
            folder = GraphFolder.read(self.folder)
            choice = choose_runtime(runtime, "cpu", folder.config.trunk)
            if choice.runtime == TORCH:
                return None
            options = options_of(choice, dtype, threads, self.folder, bool(folder.limits))
            return GraphNetwork(self.folder, options), choice
        except (GraphFolderError, OSError) as error:
            # They stay: they may be good where memory or open files ran out, and who has no PyTorch can't make others.
            self.problem = str(error)
            return None

    def make(self, model: Sam2Model, choice: Choice, dtype: str, threads: int) -> GraphNetwork | None:
        """Exports ``model``, which has these weights, unless its graphs can now be opened, which another process may
        just have made; None: that failed, and a warning says why."""
        from sam2_ros.model.export import export_folder
        from sam2_ros.model.int8_limits import limits_of

        quantised, start = bool(limits_of(model)), time.monotonic()
        options = options_of(choice, dtype, threads, self.folder, quantised)
        try:
            with cache_turn(self.folder, "making"):
                if is_graph_folder(self.folder):
                    try:
                        return GraphNetwork(self.folder, options)
                    except GraphRunError:  # others would be the same
                        raise
                    except GraphFolderError as error:
                        _log.warning("the cached graphs are made again: %s", error)
                # Also said where nobody has set up logging: in a node and on the command line.
                _log.warning("making the graphs of this network, once; they are cached in %s", self.folder)
                count = len(list(export_folder(model, self.folder, check=False)))
                _log.info("%d graphs are made after %.1f s", count, time.monotonic() - start)
                return GraphNetwork(self.folder, options)
        except Exception as error:  # a broken installation, a cache that can't be written, no memory, ...
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            _log.warning("PyTorch runs the network, because its graphs can't be used: %s", reason)
            return None
