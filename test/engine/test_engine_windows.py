"""Windows beside everything else: here and in a server, for several cameras, with detections,
late prompts and corrections, under load, for large images and for an official network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import pytest
from engines import MakeEngine, told
from numpy.typing import NDArray
from sam2_reference import SCORE_BIAS, draw_weights
from small_tracker import object_score, small_model

from sam2_ros.inference import Backend
from sam2_ros.inference.detections import Detection, DetectionFeeder, DetectionSettings
from sam2_ros.inference.local import LocalBackend
from sam2_ros.model import HIERA, ModelConfig, Sam2Model
from sam2_ros.tracking import FrameResult, Prompt, PromptRequest, TrackerConfig
from sam2_ros.tracking.deadline import SHEDDING_STEPS
from sam2_ros.tracking.shared_model import SharedModel

AUTO = TrackerConfig(window="on", window_budget=0.0)
SIZE = 640, 480
BOXES = ((100.0, 100.0, 140.0, 140.0), (500.0, 320.0, 540.0, 360.0))


@lru_cache(maxsize=16)
def picture(index: int, width: int = SIZE[0], height: int = SIZE[1], camera: int = 0) -> NDArray[np.uint8]:
    """Two small squares that move over noise."""
    noise = np.random.default_rng(camera).integers(40, 200, (height // 40, width // 40, 3), np.uint8)
    image = np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(BOXES):
        step = 3 * index
        image[int(y0) : int(y1), int(x0) + step : int(x1) + step] = (230, 60 + 150 * number, 40)
    return image


def box(values: tuple[float, ...], scale: float = 1.0) -> Prompt:
    return Prompt(box=np.array(values, np.float32) * scale)


def check(result: FrameResult, width: int = SIZE[0], height: int = SIZE[1]) -> None:
    """Every object was seen through a part of the image, with its mask inside."""
    for obj in result.objects:
        x0, y0, x1, y1 = obj.window
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert (obj.mask.width, obj.mask.height) == (width, height)
        left, top, right, bottom = obj.mask.box
        assert not obj.mask.area or (x0 <= left and y0 <= top and right <= x1 and bottom <= y1)


def session(engine: Backend, camera: int = 0) -> list[FrameResult]:
    """Two objects, a correction, a late prompt and a late correction, a removal."""
    results = []
    for index in range(7):
        results.append(engine.step(picture(index, camera=camera), 1000 + index))
        check(results[-1])
        if index == 0:
            assert all(answer.success for answer in engine.add([PromptRequest(box(each)) for each in BOXES]))
        if index == 3:
            click = Prompt(points=np.array([[130, 120]], np.float32), labels=np.array([1], np.int32))
            assert engine.refine(PromptRequest(click, 1)).success
        if index == 4:
            (answer,) = engine.add([PromptRequest(box((300.0, 40.0, 340.0, 80.0)))], 1002)
            assert answer.success and answer.frames_caught_up == 2 and answer.result is not None
        if index == 5:
            assert engine.refine(PromptRequest(box((509.0, 320.0, 549.0, 360.0)), 2), 1003).frames_caught_up == 2
            assert engine.remove(1)
    return results


@lru_cache(maxsize=1)
def expected() -> list[list[object]]:
    with object_score(small_model(), 4.0):
        return [told(result) for result in session(LocalBackend(SharedModel(small_model()), AUTO))]


def test_prompts_of_all_times_here_and_in_a_server(make_engine: MakeEngine, request: pytest.FixtureRequest) -> None:
    wanted, by_numpy = expected(), request.node.callspec.params["make_engine"] == "numpy"
    with object_score(small_model(), 4.0):
        results = session(make_engine(AUTO))
    if not by_numpy:  # which differs in the last digits
        assert [told(result) for result in results] == wanted, "the same frames give the same tracks"
    assert [len(result.objects) for result in results] == [0, 2, 2, 2, 2, 3, 2]
    windows = [obj.window for result in results[1:] for obj in result.objects if obj.window]
    assert any(x1 - x0 < SIZE[0] for x0, _, x1, _ in windows)


def test_cameras_that_share_a_network_do_not_see_each_other() -> None:
    network, config = SharedModel(small_model(), together=False), AUTO
    with object_score(small_model(), 4.0):
        alone = [[told(each) for each in session(LocalBackend(network, config), camera)] for camera in range(3)]
        with ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(session, LocalBackend(network, config), camera) for camera in range(3)]
            assert [[told(each) for each in run.result(60)] for run in runs] == alone


def test_detections_prompt_and_correct(make_engine: MakeEngine) -> None:
    engine, feeder = make_engine(AUTO), DetectionFeeder(8)
    for index in range(4):
        feeder.note(engine.step(picture(index), 1000 + index))
    found = [Detection(each, "thing", 0.9) for each in BOXES]
    answers = feeder.apply(engine, found, 1001, DetectionSettings(new_after=1))
    assert [answer.success for answer in answers] == [True, True] and answers[0].frames_caught_up == 2
    check(engine.step(picture(4), 1004))


def test_the_image_shrinks_where_frames_take_too_long() -> None:
    engine = LocalBackend(SharedModel(small_model()), TrackerConfig(window="on", window_budget=0.0, deadline=1e-6))
    engine.step(picture(0), 1)
    assert all(answer.success for answer in engine.add([PromptRequest(box(each)) for each in BOXES]))
    sides = []
    for index in range(20):
        result = engine.step(picture(index % 10), index + 2)
        check(result)
        newest = engine.history.newest
        assert newest is not None
        sides.append({side for _, side in newest.features})
    assert result.load_shedding == SHEDDING_STEPS
    assert sides[0] == {128} and sides[-1] == {96}, "0.7 times 128, in steps of 32"


def test_a_large_image_is_looked_at_closely_and_its_bytes_are_known(make_engine: MakeEngine) -> None:
    width, height = 3840, 2160
    engine = make_engine(TrackerConfig(window="on", window_budget=0.0, history=1, max_objects=2))
    image = picture(0, width, height)
    with object_score(small_model(), 4.0):
        for index in range(4):
            result = engine.step(image, index + 1)
            check(result, width, height)
            if index == 0:
                assert all(answer.success for answer in engine.add([PromptRequest(box(each)) for each in BOXES]))
    assert len({obj.window for obj in result.objects if obj.window}) == 2
    if isinstance(engine, LocalBackend):
        frames = [engine.history.newest, *engine.history.after(engine.history.find(3))]
        held = sum(tensor.nbytes for each in frames if each for tensor in each.tensors)
        assert held + sum(each.image.nbytes for each in frames if each and each.image is not None) <= (
            engine.info.history_bytes
        )


@pytest.mark.parametrize("size", ["tiny"])
def test_an_official_network_looks_through_windows(size: str) -> None:
    model = Sam2Model(ModelConfig(size, hiera=HIERA[size], image_size=128)).eval().requires_grad_(False)
    draw_weights(model, seed=0, gain=1.0)
    model.get_parameter(SCORE_BIAS).add_(9.0)
    engine = LocalBackend(SharedModel(model), TrackerConfig(window="on", window_budget=0.0, max_objects=2))
    bank = engine.bank.nbytes
    for index in range(4):
        result = engine.step(picture(index), index + 1)
        check(result)
        if index == 0:
            assert all(answer.success for answer in engine.add([PromptRequest(box(each)) for each in BOXES]))
    newest = engine.history.newest
    assert len(result.objects) == 2 and newest is not None and {side for _, side in newest.features} == {128}
    assert engine.bank.nbytes == bank
