"""A small network with random weights, and helpers for tests of the tracker's behaviour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sam2_reference import SCORE_BIAS, changed, draw_weights

from sam2_ros.inference import Backend
from sam2_ros.media.rendered_scene import render
from sam2_ros.model import HieraConfig, ModelConfig, Sam2Model
from sam2_ros.model.network import Network
from sam2_ros.tracking import FrameResult, Prompt, PromptRequest, Tracker

WIDTH, HEIGHT = 160, 120
Engine: TypeAlias = Tracker | Backend
SCORE_WEIGHT = SCORE_BIAS.replace("bias", "weight")


@lru_cache(maxsize=1)
def small_model() -> Sam2Model:
    """A network whose masks are neither empty nor full and whose objects are always there; milliseconds a frame."""
    config = ModelConfig(
        "small", hiera=HieraConfig(24, 1, (1, 1, 2, 1), (3,)), image_size=128, memory_layers=1, memory_ffn=256
    )
    model = Sam2Model(config).eval().requires_grad_(False)
    draw_weights(model, seed=0, gain=1.0)
    model.get_parameter(SCORE_BIAS).add_(3.0)
    return model


@contextmanager
def object_score(model: Network, score: float) -> Iterator[None]:
    """Every object's score (logit) is ``score`` in here."""
    assert isinstance(model, Sam2Model)
    weight, bias = model.get_parameter(SCORE_WEIGHT), model.get_parameter(SCORE_BIAS)
    with changed((model,), {SCORE_WEIGHT: torch.zeros_like(weight), SCORE_BIAS: torch.full_like(bias, score)}):
        yield


@lru_cache(maxsize=1)
def _scene() -> list[NDArray[np.uint8]]:
    return [frame.rgb for frame in render(24, WIDTH, HEIGHT)]


def scene(index: int) -> NDArray[np.uint8]:
    """Frame ``index`` of a moving scene, RGB ``uint8 [120, 160, 3]``; it repeats after 24 frames."""
    return _scene()[index % 24]


def box(x0: float = 15, y0: float = 60, x1: float = 40, y1: float = 100) -> Prompt:
    return Prompt(box=np.array([x0, y0, x1, y1], np.float32))


def click(x: float = 30, y: float = 80, label: int = 1, candidate: int | None = None, replace: bool = False) -> Prompt:
    return Prompt(
        points=np.array([[x, y]], np.float32), labels=np.array([label], np.int32), candidate=candidate, replace=replace
    )


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Prompt:
    """A rectangular mask; of size 0, it says that the object is absent."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y0:y1, x0:x1] = True
    return Prompt(mask=mask)


def add(tracker: Engine, *prompts: Prompt) -> list[int]:
    """Adds one object for each prompt; returns their ids."""
    answers = tracker.add([PromptRequest(prompt) for prompt in prompts])
    assert all(answer.success for answer in answers), [answer.message for answer in answers]
    return [answer.object_id for answer in answers]


def stepped(tracker: Engine, prompts: Sequence[Prompt], frame: int = 0) -> list[int]:
    """Shows ``frame`` and adds one object for each prompt on it; returns their ids."""
    tracker.step(scene(frame), frame)
    return add(tracker, *prompts)


def run(tracker: Engine, first: int, last: int) -> list[FrameResult]:
    """The frames ``first`` to ``last`` (included), stamped with their numbers."""
    return [tracker.step(scene(frame), frame) for frame in range(first, last + 1)]


def logits(tracker: Tracker, object_id: int) -> torch.Tensor:
    """Low-resolution mask logits on the newest frame, ``[1, h, w]``."""
    found = tracker._objects[object_id].logits
    assert found is not None
    return found
