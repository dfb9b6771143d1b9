"""Mean region similarity J of held-out videos, with the streaming tracker."""

from __future__ import annotations

import copy

import numpy as np

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.evaluation.semi_supervised import first_prompt
from sam2_ros.model.sam2 import Sam2Model
from sam2_ros.tracking import PromptRequest, Tracker, TrackerConfig
from sam2_ros.training.clips import read_rgb
from sam2_ros.training.data.videos import Video, read_labels


def video_jaccard(model: Sam2Model, video: Video, kind: str, dtype: str) -> float | None:
    """Mean J over the objects of the first frame and over all frames but the first and the last, in source resolution.

    None if the first frame shows no object, or if the video has fewer than three frames.
    """
    first = read_labels(video.labels[0])
    values = np.unique(first[first > 0])
    if not len(values) or len(video.frames) < 3:
        return None
    tracker = Tracker(model, TrackerConfig(max_objects=len(values)), dtype)
    tracker.step(read_rgb(video.frames[0]), 0)
    answers = tracker.add([PromptRequest(first_prompt(kind, first == value)) for value in values])
    numbers = {answer.object_id: int(value) for answer, value in zip(answers, values, strict=True)}
    scores = []
    for t in range(1, len(video.frames) - 1):
        found = tracker.step(read_rgb(video.frames[t]), t)
        truth = read_labels(video.labels[t])
        scores += [jaccard(obj.mask.full(), truth == numbers[obj.object_id]) for obj in found.objects]
    tracker.close()
    return float(np.mean(scores))


def validate(model: Sam2Model, videos: list[Video], kind: str, dtype: str) -> dict[str, float]:
    """Mean J by video, and over all of them as ``mean``; empty if no video has an object to track.

    Works on a copy of the network, because its inference caches would be wrong after the next update.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    scores = {video.name: video_jaccard(copied, video, kind, dtype) for video in videos}
    found = {name: score for name, score in scores.items() if score is not None}
    return {"mean": float(np.mean(list(found.values()))), **found} if found else {}
