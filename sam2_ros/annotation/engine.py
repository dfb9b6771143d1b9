"""What annotates one recording: a network, a way to find objects, and a place in the data set."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from sam2_ros.annotation.doubts import UNCERTAIN, Reason
from sam2_ros.annotation.formats import FORMATS
from sam2_ros.annotation.masks import Mask, encode
from sam2_ros.annotation.methods import ByDetector, ByPrompts, ByRecorded, Everything, Method
from sam2_ros.annotation.reconcile import Reconciled, reconcile
from sam2_ros.annotation.recordings import Frames, Images, Recording, extract, open_recording
from sam2_ros.annotation.results import FOLDER, UNSAVED, Annotated, forget_result, write_result
from sam2_ros.annotation.two_ways import ANYTHING, follow
from sam2_ros.inference.detections import DetectionSettings
from sam2_ros.inference.local import LocalBackend, load_shared_model
from sam2_ros.media.errors import UserError
from sam2_ros.media.input_files import read_file
from sam2_ros.media.prompts_file import load_prompts
from sam2_ros.media.whole_files import WriteError
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.image_segmenter import ImageSegmenter
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import Prompt

DETECTORS = "a detector's ONNX file, people, recorded:TOPIC, everything, or a prompts file (.json)"
DROP_AFTER = 300  # images without an object until it is given up, so that its place is free
_RECORDED = "recorded:"
_MAX_LABELS = 1 << 20  # bytes

Done = Callable[[int], object]
"""Told how many images were worked on; each counts once for each direction."""


@dataclass(frozen=True)
class EngineSettings:
    """All that recordings of one data set are annotated with; the options of ``sam2_ros annotate``."""

    detector: str
    format: str
    labels: str = ""  # path
    min_score: float = 0.5
    every: int = 5
    topic: str = ""
    stills: bool = False
    windows: bool = False
    max_objects: int = 32
    model: str = "embedded"
    device: str = "auto"
    dtype: str = "auto"
    runtime: str = "auto"
    threads: int = 0

    @property
    def images(self) -> str:
        """The folder of the images in the data set."""
        return FORMATS[self.format].images

    @property
    def passes(self) -> int:
        """How often each image is tracked."""
        return 1 if self.stills else 2

    def make(self) -> Engine:
        """
        Raises:
            UserError: the detector or its labels can't be used.
            ImportError, FileNotFoundError, ValueError: the model can't be loaded.
        """
        if self.labels and not self.detector.endswith(".onnx"):
            raise UserError("--labels names the classes of an ONNX file")
        shared = load_shared_model(self.model, self.device, self.dtype, threads=self.threads, runtime=self.runtime)
        return Engine(self, shared, self._method(shared))

    def _method(self, shared: SharedModel) -> Method:
        name, settings = self.detector, DetectionSettings(min_score=self.min_score)
        if self.stills and (name.startswith(_RECORDED) or name.endswith(".json")):
            raise UserError("--stills needs a detector that looks at images: an ONNX file, people, or everything")
        if self.stills and self.format not in ("coco", "yolo"):
            raise UserError(f"--format {self.format} is for sequences, and --stills are none; accepted: coco or yolo")
        if name == "everything":
            return Everything(ImageSegmenter(shared), self.every)
        if name == "people":
            from sam2_ros.annotation.detectors import people_detector

            return ByDetector(people_detector(), self.every, settings)
        if name.startswith(_RECORDED):
            return ByRecorded(name.removeprefix(_RECORDED), settings)
        if name.endswith(".json"):
            return ByPrompts(load_prompts(name))
        if not name.endswith(".onnx"):
            raise UserError(f"--detector {name}: accepted: {DETECTORS}")
        from sam2_ros.annotation.onnx_detector import OnnxDetector

        lines = read_file(Path(self.labels), _MAX_LABELS).decode(errors="replace").splitlines() if self.labels else []
        labels = [line.strip() for line in lines if line.strip()]
        detector = OnnxDetector(Path(name), labels, self.min_score, self.threads)
        return ByDetector(detector, self.every, settings, f"{name}: layout of {detector.layout.name}")


@dataclass(frozen=True)
class Engine:
    """Annotates recordings, one at a time."""

    settings: EngineSettings
    shared: SharedModel
    method: Method

    def open(self, recording: Recording) -> Frames:
        """
        Raises:
            UserError: it can't be read.
        """
        return open_recording(recording, self.settings.topic, self.settings.stills)

    def annotate(self, recording: Recording, frames: Frames, out: Path, done: Done) -> str:
        """Writes the images of a recording and what is known of it into the data set ``out``. Returns why that can't
        be done, and leaves nothing then; empty: it is done.

        Raises:
            WriteError: a file can't be written.
        """
        folder = out / self.settings.images / recording.name
        forget_result(out, recording.name, FOLDER, UNSAVED)  # before its images, without which it would be wrong
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        try:
            identity = recording.identity  # as it is read; it may grow meanwhile
            images = extract(frames, folder, lambda: done(0))
            found = self._separately(images, done) if self.settings.stills else self._tracked(frames, images, done)
            write_result(out, Annotated.of(recording.name, identity, images, found))
            return ""
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, WriteError) or not isinstance(error, Exception):
                raise
            if not isinstance(error, UserError):
                traceback.print_exc()
            return str(error) or type(error).__name__

    def _tracked(self, frames: Frames, images: Images, done: Done) -> Reconciled:
        plan = self.method.plan(frames, images, lambda: done(0))
        window = "on" if self.settings.windows else "off"
        # A detector sees those in a crowd apart who look alike; told apart by the tracker, they often have no mask.
        config = TrackerConfig(
            max_objects=self.settings.max_objects,
            history=0,
            drop_after=DROP_AFTER,
            window=window,
            window_budget=0.0,  # there is time to look at everyone
            look_alikes=False,
        )
        tracks = []
        for order in (range(len(images)), range(len(images) - 1, -1, -1)):
            with closing(LocalBackend(self.shared, config)) as backend:
                tracks.append(follow(backend, images, order, plan.feed(), lambda: done(1)))
        return reconcile(tracks[0], tracks[1], plan.boxes)

    def _separately(self, images: Images, done: Done) -> Reconciled:
        """Segments images that are no sequence."""
        segmenter, method, result, numbers = ImageSegmenter(self.shared), self.method, Reconciled(), count(1)
        for index in range(len(images)):
            found: list[tuple[Any, float, str, float]] = []
            if isinstance(method, Everything):
                found = [(mask, iou, ANYTHING, 1.0) for mask, iou in method.find(images, index)]
            elif isinstance(method, ByDetector):
                rgb = images.read(index)
                boxes = method.find(rgb)
                prompts = [Prompt(box=np.array(each.box, np.float32)) for each in boxes]
                answers = segmenter.segment(segmenter.encode(rgb), prompts) if prompts else []
                found = [(a.mask, a.predicted_iou, b.label, b.score) for a, b in zip(answers, boxes, strict=True)]
            for mask, iou, label, score in found:
                if mask.crop.size:
                    number = next(numbers)
                    result.labels[number] = label
                    result.masks.append(Mask(index, number, encode(mask), iou, detection_score=score))
                    if iou < UNCERTAIN:
                        result.reasons.append(Reason(index, "score", number, iou))
            done(1)
        return result
