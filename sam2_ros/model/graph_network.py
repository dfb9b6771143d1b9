"""A :class:`.network.Network` of exported graphs, on NumPy's arrays. Free of torch.

The graphs hold everything that was trained; here rows are put together, and a few arrays added.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit

from sam2_ros.model import graph_shapes as shapes
from sam2_ros.model.bfloat16 import has_bfloat16
from sam2_ros.model.config import ModelConfig
from sam2_ros.model.graph_cache import cache_turn, graph_cache
from sam2_ros.model.graph_folder import GraphFolder, folder_digest
from sam2_ros.model.int8 import INT8, has_int8
from sam2_ros.model.network import (
    HOST,
    IOU_SHARPNESS,
    PADDING,
    DecodedMasks,
    Host,
    ImageFeatures,
    Match,
    Reference,
)
from sam2_ros.model.resize import along, averaging, resized
from sam2_ros.model.runtimes import (
    AUTO,
    OPENVINO,
    Array,
    Choice,
    Options,
    Session,
    choose_for_export,
    computes_bfloat16,
)

STEP = 1e6  # factor of logits that makes probabilities 0 or 1

_log = logging.getLogger(__name__)


def load_exported(path: Path, runtime: str = AUTO, dtype: str = AUTO, threads: int = 0) -> tuple[GraphNetwork, Choice]:
    """Loads the network of a folder that ``sam2_ros export`` wrote, and says what runs it.

    Args:
        path: the folder.
        runtime: one of :data:`.runtimes.RUNTIMES` but "torch"; "auto" = OpenVINO, else ONNX Runtime.
        dtype: one of :data:`.config.DTYPES`, see :func:`options_of`.
        threads: of the CPU; 0 = as many as the runtime takes by itself.

    Raises:
        GraphFolderError: the folder holds no network that can be used.
        ValueError: there is no such runtime here, or it does not compute in ``dtype``.
        OSError: a file can't be read.
    """
    choice, folder = choose_for_export(runtime), GraphFolder.read(path)
    options = options_of(choice, dtype, threads, graph_cache(folder_digest(path)), bool(folder.limits))
    return GraphNetwork(path, options), choice


def options_of(choice: Choice, dtype: str, threads: int, cache: Path | None, quantised: bool) -> Options:
    """How graphs are run by ``choice``; arguments as for :func:`load_exported` and :class:`.runtimes.Options`.

    ``dtype`` is "float32"; "bfloat16", OpenVINO only; "int8" for most layers of the image encoder, with bfloat16 for
    the rest if the processor has it, only by OpenVINO on a CPU with VNNI, and only if the network is ``quantised``: it
    says between which limits the layers' inputs lie; or "auto": the first of bfloat16, int8, float32 that there is.

    Raises:
        ValueError: the runtime does not compute in ``dtype``.
    """
    rounds, has_vnni = computes_bfloat16(choice.runtime), has_int8()
    if dtype == AUTO:
        whole = quantised and has_vnni and choice.runtime == OPENVINO
        dtype = "bfloat16" if rounds and has_bfloat16("cpu") else INT8 if whole else "float32"
    if dtype == INT8:
        problem = (
            f"which {choice.runtime} does not compute in" if choice.runtime != OPENVINO
            else "for which these weights have no limits of the inputs of their layers" if not quantised
            else "but this processor has no VNNI" if not has_vnni else ""
        )  # fmt: skip
        if problem:
            raise ValueError(f"dtype is 'int8', {problem}; accepted: float32, bfloat16 by OpenVINO, auto")
    if dtype == "bfloat16" and not rounds:
        raise ValueError(f"dtype is 'bfloat16', which {choice.runtime} does not compute in; accepted: float32, auto")
    return Options(choice.runtime, dtype, threads, cache)


class GraphNetwork:
    """The network of a folder that ``sam2_ros export`` wrote. Thread-safe; does not read the folder later.

    Args:
        folder: of the files.
        options: how its graphs are to be run.

    Raises:
        GraphFolderError: the folder holds no network that can be used.
        OSError: a file can't be read.
    """

    shrinks = False

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = GraphFolder.read(folder)
        self.config: ModelConfig = self._folder.config
        self.device: Host = HOST
        self.graphs = OpenedGraphs(self._folder, options)
        constants = self._folder.constants
        self.memory_code: Array = constants["memory_code"]
        self.maskmem_tpos_enc: Array = constants["time_codes"]
        self.metric = GraphMetric(self)
        self.appearance = self.metric if self.config.appearance_dim else None
        self.smaller: GraphNetwork | None = None  # the same network for a smaller input

    def at(self, image_size: int) -> GraphNetwork:
        """Itself, or :attr:`smaller`.

        Raises:
            ValueError: another size than theirs.
        """
        if self.smaller is not None and image_size == self.smaller.config.image_size:
            return self.smaller
        if image_size != self.config.image_size:
            raise ValueError(
                f"the exported network {self._folder.path} has an input of {self.config.image_size} px, not "
                f"{image_size}; accepted: {self.config.image_size}; for another, run: sam2_ros export --image-size"
            )
        return self

    # -- images ------------------------------------------------------------------------------------------------------

    def preprocess(self, image: Array, scale: float = 1.0) -> Array:
        pixels = resized(image, self.config.image_size)
        mean, std = (each[:, None, None] for each in (self._folder.mean, self._folder.std))
        pixels *= 1 / (255 * std)
        pixels -= mean / std
        return pixels[None]

    def encode_image(self, images: Array) -> ImageFeatures:
        stride_16, stride_8, stride_4, *appearance = self.run(shapes.IMAGE, images)
        if self.config.stride == 16:
            # Squares of 4 x 4 pixels. NumPy's mean is slow along such short axes.
            rows = images[:, :, 0::4] + images[:, :, 1::4] + images[:, :, 2::4] + images[:, :, 3::4]
            cells = (rows[..., 0::4] + rows[..., 1::4] + rows[..., 2::4] + rows[..., 3::4]) / 16
        else:
            each_side = averaging(images.shape[-1], 4 * self.config.grid)
            cells = along(each_side, each_side, images)
        mean, std = (each[:, None, None] for each in (self._folder.mean, self._folder.std))
        picture = np.clip(cells * std + mean, 0, 1)
        return ImageFeatures(stride_16, stride_8, stride_4, picture, *appearance)

    def looks(self, features: ImageFeatures) -> Array:
        if features.appearance is not None:
            return features.appearance
        return self.run(shapes.LOOKS, features.stride_16)[0]

    def look(self, features: ImageFeatures, logits: Array) -> Reference:
        assert features.picture is not None
        coverage, colors = self.run(shapes.LOOK, features.picture, logits)
        return Reference(self.looks(features), coverage, colors[:, None])

    # -- memory ------------------------------------------------------------------------------------------------------

    def without_memory(self, features: ImageFeatures) -> Array:
        return features.stride_16 + self._map("no_memory")

    def with_memory(
        self, features: ImageFeatures, memory: Array, memory_pos: Array, num_pointers: int, mask: Array | None
    ) -> Array:
        (tokens,) = self.run(shapes.ATTEND_IMAGE, features.stride_16)
        session, rows = self.graphs.sessions[shapes.ATTEND_MEMORY], []
        spatial, frames = memory.shape[1] - num_pointers, (1, -1, self.config.memory_tokens, self.config.memory_dim)
        for row, (values, codes) in enumerate(zip(memory, memory_pos, strict=True)):
            count = spatial
            if mask is not None:
                values, codes, count = values[mask[row]], codes[mask[row]], int(mask[row, :spatial].sum())
            inputs = values[:count].reshape(frames), codes[:count].reshape(frames)
            rows += session(tokens, *inputs, values[None, count:], codes[None, count:])
        return np.concatenate(rows)

    def encode_low_memory(
        self, features: ImageFeatures, mask_logits: Array, present: Array, binarize: Array | None = None
    ) -> Array:
        sharp = np.zeros(len(mask_logits), np.bool_) if binarize is None else binarize
        inputs = [features.stride_16, mask_logits, np.where(sharp, STEP, 1.0).astype(np.float32)]
        if self.config.occlusion_embedding:
            inputs.append(present.astype(np.float32))
        return self.run(shapes.MEMORY, *inputs)[0]

    def pointer(self, token: Array, present: Array) -> Array:
        (pointers,) = self.run(shapes.POINTER, token)
        return np.where(present[:, None], pointers, self._folder.constants["no_pointer"])

    def mask_pointer(self, features: ImageFeatures, masks: Array) -> Array:
        (prompt,) = self.run(shapes.GIVEN_MASK, masks)
        decoded = self._decoded(features.stride_16 + prompt, features, *self.no_prompt(len(masks)))
        # As in Sam2Model: an empty mask and a negative object score give the "no object" pointer.
        present = (decoded.object_score[:, 0] > 0) & (masks > 0).any(axis=(1, 2, 3))
        return self.pointer(decoded.tokens[:, 0], present)

    def pointer_code(self, ages: Array) -> Array:
        narrow = self.config.memory_dim
        if not self.config.pointer_time_code or not ages.size:
            return np.zeros((*ages.shape, narrow), np.float32)
        (codes,) = self.run(shapes.POINTER_CODE, ages.reshape(1, -1).astype(np.int64))
        return codes.reshape(*ages.shape, narrow)

    # -- masks -------------------------------------------------------------------------------------------------------

    def decode(
        self,
        conditioned: Array,
        features: ImageFeatures,
        points: Array,
        labels: Array,
        mask_logits: Array | None = None,
    ) -> DecodedMasks:
        prompt = self._map("no_mask") if mask_logits is None else self.run(shapes.PROMPT_MASK, mask_logits)[0]
        return self._decoded(conditioned + prompt, features, points, labels)

    def no_prompt(self, batch: int) -> tuple[Array, Array]:
        return np.zeros((batch, 1, 2), np.float32), np.full((batch, 1), PADDING, np.int64)

    def present(self, object_score: Array, iou: Array) -> Array:
        return (object_score > 0) & (iou >= self.config.present_iou)

    def visibility(self, object_score: Array, iou: Array) -> Array:
        config = self.config
        probability = expit(config.visibility_scale * object_score + config.visibility_bias)
        if not config.present_iou:
            return probability
        return np.minimum(probability, expit(IOU_SHARPNESS * (iou - config.present_iou)))

    # -- parts -------------------------------------------------------------------------------------------------------

    def run(self, name: str, *inputs: Array) -> list[Array]:
        """The outputs of the graph ``name`` for each row of ``inputs``, put together; one row is broadcast."""
        session = self.graphs.sessions[name]
        rows = [
            session(*(each if len(each) == 1 else each[row : row + 1] for each in inputs))
            for row in range(max(map(len, inputs)))
        ]
        return rows[0] if len(rows) == 1 else [np.concatenate(each) for each in zip(*rows, strict=True)]

    def judge(self, name: str, evidence: Array) -> Array:
        """The judgement ``name`` ("tracked" or "found") of evidence ``[..., MEASURES]``, ``[..., 1]``."""
        weights = self._folder.constants[name]
        return evidence @ weights[:-1, None] + weights[-1]

    def _decoded(self, source: Array, features: ImageFeatures, points: Array, labels: Array) -> DecodedMasks:
        name = shapes.DECODE_POINT if labels.shape[1] == 1 else shapes.DECODE
        prompt = points.astype(np.float32), labels.astype(np.int64)
        return DecodedMasks(*self.run(name, source, *prompt, features.stride_8, features.stride_4))

    def _map(self, name: str) -> Array:
        return self._folder.constants[name][None, :, None, None]


class GraphMetric:
    """A :class:`.network.Metric` of a network's graphs."""

    def __init__(self, network: GraphNetwork) -> None:
        self._network = network

    def match(self, tokens: Array, reference: Reference) -> Match:
        known = np.asarray(reference.tokens, np.float32)
        logits, prototype = self._network.run(shapes.MATCH, tokens, known, np.asarray(reference.coverage, np.float32))
        return Match(logits, tokens, prototype, reference.colors)

    def evidence(self, match: Match, picture: Array, logits: Array, scores: Array, ious: Array) -> Array:
        inputs = match.logits, match.tokens, match.prototype, match.colors, picture, logits, scores, ious
        return self._network.run(shapes.JUDGE, *inputs)[0]

    def tracked(self, evidence: Array) -> Array:
        return self._network.judge("tracked", evidence)

    def found(self, evidence: Array) -> Array:
        return self._network.judge("found", evidence)


class OpenedGraphs:
    """The graphs of a folder, ready to run; a :class:`.network.Runner`."""

    def __init__(self, folder: GraphFolder, options: Options) -> None:
        self._options, start = options, time.monotonic()
        try:
            if options.cache is not None:
                with cache_turn(options.cache):
                    self.sessions = _opened(folder, options)
        except OSError as error:
            _log.warning("what %s compiles is not cached: %s", options.runtime, error)
            options = replace(options, cache=None)
        if options.cache is None:
            self.sessions = _opened(folder, options)
        self._seconds = time.monotonic() - start

    def __str__(self) -> str:
        return f"{self._options.runtime} {self._options.version}"

    @property
    def dtype(self) -> str:
        """What the graphs compute in that may be rounded, as :attr:`.runtimes.Options.dtype`."""
        return self._options.dtype

    def report(self) -> str:
        return f"{self}, {len(self.sessions)} graphs ready in {self._seconds:.1f} s"


def _opened(folder: GraphFolder, options: Options) -> dict[str, Session]:
    return {name: folder.open(name, options) for name in shapes.shapes_of(folder.config)}
