"""Evaluates one sequence: settings, engine and files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sam2_ros import __version__
from sam2_ros.evaluation.click_protocols import run_interactive, run_noc
from sam2_ros.evaluation.datasets import open_dataset
from sam2_ros.evaluation.results import SequenceResult, load, save
from sam2_ros.evaluation.semi_supervised import FrameMasks, run_sequence
from sam2_ros.evaluation.sequences import Truth
from sam2_ros.evaluation.streaming import run_live
from sam2_ros.evaluation.worst import WorstFrames
from sam2_ros.inference import is_null_model, make_backend
from sam2_ros.media.errors import UserError, engine_errors
from sam2_ros.media.figures import write_png
from sam2_ros.media.label_images import write_labels
from sam2_ros.media.whole_files import write_whole
from sam2_ros.media.worker_pool import available_cores
from sam2_ros.model.graph_folder import GraphFolder, is_graph_folder
from sam2_ros.model.weight_files import digest_of_weights, find_weights
from sam2_ros.tracking.config import TrackerConfig

if TYPE_CHECKING:
    from sam2_ros.inference.backend import Backend

WORST_KEPT = 6  # frames of a sequence
NOC_TARGETS = (0.85, 0.90)  # intersection over union


@dataclass(frozen=True)
class Settings:
    """What the results depend on. Results with equal settings are used again."""

    dataset: str  # absolute path
    layout: str
    model: str
    weights: str  # SHA-256 of the file
    device: str
    dtype: str
    protocol: str  # vos, offline, online or noc
    prompt: str
    clicks: int  # on an object's first frame (vos), on each clicked frame (offline, online), at most (noc)
    interactions: int  # frames with clicks (offline, online)
    rule: str  # which frames count (vos)
    live: float | None = None  # images a second (vos)
    latency: float | None = None  # seconds of the engine with live; None: measured
    deadline: float | None = None  # seconds with live; None: one period
    runtime: str = "auto"
    window: str = "auto"  # tracker.window
    window_budget: float = 1.0  # tracker.window_budget
    edges: str = "auto"  # tracker.edges
    version: str = __version__

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """Settings, and where and how they run."""

    settings: Settings
    out: Path
    threads: int = 0
    masks_out: Path | None = None

    def result_path(self, name: str) -> Path:
        return self.out / "sequences" / f"{name.replace('/', '_')}.json"


def weights_digest(model: str) -> str:
    """SHA-256 of the model's weights; "none" for the engine without a network.

    Raises:
        UserError: there is no such file.
    """
    if is_null_model(model):
        return "none"
    try:
        return digest_of_weights(model)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error


def check_loads(model: str) -> None:
    """Loads a network that is to be evaluated later, and drops it.

    Raises:
        UserError: there is none, or it can't be used.
    """
    with engine_errors():
        if is_graph_folder(folder := Path(model).expanduser()):
            GraphFolder.read(folder)
        elif find_weights(model) and importlib.util.find_spec("torch"):  # else its graphs may be in the cache
            from sam2_ros.model import load_model

            load_model(model)


class Runner:
    """Runs sequences with one engine, which is made again if a sequence has more objects."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._dataset = open_dataset(Path(job.settings.dataset), job.settings.layout)
        self._backend: Backend | None = None

    def run(self, name: str, tick: Callable[[], object]) -> SequenceResult:
        """Evaluates a sequence and writes its files; ``tick`` is called for each frame and may raise to stop."""
        job, settings = self.job, self.job.settings
        sequence = self._dataset.open(name)
        alone = settings.protocol != "vos"
        engine = self._engine(1 if alone else max(1, len(sequence.first_frames)))
        worst = WorstFrames(WORST_KEPT)
        if settings.protocol == "noc":
            result = run_noc(sequence, engine, NOC_TARGETS[-1], settings.clicks, tick, worst)
        elif settings.protocol in ("offline", "online"):
            online = settings.protocol == "online"
            result = run_interactive(sequence, engine, online, settings.interactions, settings.clicks, tick, worst)
        else:

            def observe(masks: FrameMasks) -> None:
                worst(masks)
                if job.masks_out:
                    _write_masks(job.masks_out / name, sequence.truth, masks)
                tick()

            if settings.live:
                s = settings
                result = run_live(sequence, engine, s.prompt, s.rule, settings.live, s.latency, s.deadline, observe)
            else:
                result = run_sequence(sequence, engine, settings.prompt, settings.clicks, settings.rule, observe)
        result.extra["worst"] = self._write_worst(name, worst)
        about = {name: getattr(engine.info, name) for name in ("model", "device", "dtype", "image_size")}
        result.extra["engine"] = about | {"threads": job.threads or self._default_threads()}
        job.result_path(name).parent.mkdir(parents=True, exist_ok=True)
        save(result, job.result_path(name), settings.digest)
        return result

    def _write_worst(self, name: str, worst: WorstFrames) -> list[dict[str, object]]:
        """Writes the pictures; returns what they show."""
        folder = self.job.out / "worst"
        folder.mkdir(parents=True, exist_ok=True)
        bad: list[dict[str, object]] = []
        for bad_frame in worst.frames:
            file = folder / f"{name.replace('/', '_')}_{bad_frame.frame:05d}_{bad_frame.object}.png"
            write_png(file, bad_frame.picture)
            bad.append({"file": file.name, "frame": bad_frame.frame, "object": bad_frame.object, "j": bad_frame.j})
        return bad

    def _engine(self, objects: int) -> Backend:
        if self._backend is not None and self._backend.info.max_objects >= objects:
            return self._backend
        self.close()
        s = self.job.settings
        config = TrackerConfig(max_objects=objects, window=s.window, window_budget=s.window_budget, edges=s.edges)
        if s.protocol in ("offline", "online"):  # every frame with clicks is remembered
            slots = max(config.prompted_slots, s.interactions)
            config = replace(config, max_objects=1, prompted_slots=slots)
        with engine_errors():
            self._backend = make_backend(
                s.model, s.device, s.dtype, config, threads=self.job.threads, runtime=s.runtime
            )
        return self._backend

    @staticmethod
    def _default_threads() -> int:
        torch = sys.modules.get("torch")  # which only some engines load
        return torch.get_num_threads() if torch else available_cores()

    def close(self) -> None:
        """Frees the engine."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None


def finished(job: Job, name: str) -> SequenceResult | None:
    """A sequence's result from an earlier run with the same settings; None if it, or its wanted masks, do not exist."""
    if job.masks_out is not None and not (job.masks_out / name).is_dir():
        return None
    try:
        result, digest = load(job.result_path(name))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return result if digest == job.settings.digest else None


def _write_masks(folder: Path, truth: Truth, masks: FrameMasks) -> None:
    """Writes what evaluation servers accept: a label image for each frame, or a mask for each object and frame."""
    if truth.overlapping:
        for object_id, mask in masks.predicted.items():
            file = folder / f"{object_id - 1:03d}" / f"{masks.name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, cv2.imencode(".png", 255 * mask.astype(np.uint8))[1].tobytes())
        return
    wide = max(truth.objects, default=0) > 255
    labels = np.zeros(masks.rgb.shape[:2], np.uint16 if wide else np.uint8)
    for object_id, mask in masks.predicted.items():
        labels[mask] = object_id
    folder.mkdir(parents=True, exist_ok=True)
    write_labels(folder / f"{masks.name}.png", labels)
