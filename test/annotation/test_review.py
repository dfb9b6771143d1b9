"""A review without a browser: pictures of several recordings, and commands that fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the embedded model needs torch")

from aiohttp.test_utils import TestServer
from data_sets import BALL, BOOK, NAME, add_recording, make_data_set
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from sam2_ros.annotation.corrector import Corrector
from sam2_ros.annotation.data_set import read_data_set
from sam2_ros.annotation.formats import FORMATS
from sam2_ros.annotation.results import UNSAVED, read_unsaved
from sam2_ros.annotation.review import Review
from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.inference.local import load_shared_model
from sam2_ros.inference.null import NullBackend
from sam2_ros.media.rendered_scene import RenderedFrame
from sam2_ros.media.source_frame import Rgb
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.image_segmenter import EncodedImage, ImageSegmenter, SoFar
from sam2_ros.tracking.segmentation import Segmentation
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import BoolMask, CroppedMask, Prompt
from sam2_ros.viewer.web_server import application

OTHER = "other"


@pytest.fixture(scope="module")
def shared() -> SharedModel:
    return load_shared_model("embedded", "cpu", threads=1)


@pytest.fixture
def segmenter(shared: SharedModel) -> ImageSegmenter:
    return ImageSegmenter(shared)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two recordings with the same images."""
    make_data_set(tmp_path / "data")
    add_recording(tmp_path / "data", OTHER)
    return tmp_path / "data"


class Page:
    """What a browser sends and receives."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self._socket = socket

    async def ask(self, kind: str, **command: object) -> Any:
        await self._socket.send_json({"camera": NAME, **command, "type": kind})
        return await self.message("answer")

    async def message(self, kind: str) -> Any:
        while True:
            received = await self._socket.receive(timeout=120)
            assert received.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
            if received.type is aiohttp.WSMsgType.TEXT and received.json()["type"] == kind:
                return received.json()

    async def watch(self, name: str) -> None:
        await self._socket.send_json({"type": "watch", "camera": name})

    async def picture(self, name: str) -> Any:
        """The header of the next picture of a recording. Every picture is acknowledged."""
        while True:
            received = await self._socket.receive(timeout=120)
            if received.type is not aiohttp.WSMsgType.BINARY:
                assert received.type is aiohttp.WSMsgType.TEXT
                continue
            size = int.from_bytes(received.data[:4], "little")
            header = json.loads(received.data[4 : 4 + size])
            await self._socket.send_json({"type": "painted", "number": header["number"]})
            if header["camera"] == name:
                return header


@asynccontextmanager
async def opened(folder: Path, segmenter: ImageSegmenter) -> AsyncIterator[Page]:
    def make() -> Review:
        def backend(objects: int) -> NullBackend:
            return NullBackend(TrackerConfig(max_objects=objects))

        return Review(read_data_set(folder), Corrector(segmenter), backend)

    async with (
        TestServer(application(make, first_page="review.html")) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.make_url("/socket")) as socket,
    ):
        yield Page(socket)


def run(folder: Path, segmenter: ImageSegmenter, talk: Callable[[Page], Any]) -> None:
    async def whole() -> None:
        async with opened(folder, segmenter) as page:
            await asyncio.wait_for(talk(page), 240)  # pings never end

    asyncio.run(whole())


def test_a_recording_that_is_watched_again_is_shown_again(folder: Path, segmenter: ImageSegmenter) -> None:
    async def talk(page: Page) -> None:
        await page.watch(NAME)
        first = await page.picture(NAME)
        await page.watch(OTHER)
        assert (await page.picture(OTHER))["number"] > first["number"]
        await page.watch(NAME)
        again = await page.picture(NAME)
        assert (again["number"], again["stamp"]) == (first["number"], "7")

    run(folder, segmenter, talk)


class _Strict(ImageSegmenter):
    """Finds nothing where a click says what does not belong to the object."""

    def segment(
        self, image: EncodedImage, prompts: Sequence[Prompt], so_far: Sequence[SoFar] = ()
    ) -> list[Segmentation]:
        nothing = CroppedMask.from_full(np.zeros((image.height, image.width), np.bool_))
        answers = super().segment(image, prompts, so_far)
        negative = [prompt.labels is not None and 0 in prompt.labels for prompt in prompts]
        return [replace(each, mask=nothing) if no else each for each, no in zip(answers, negative, strict=True)]


def test_a_prompt_that_finds_nothing_is_not_part_of_the_next_one(folder: Path, shared: SharedModel) -> None:
    async def talk(page: Page) -> None:
        nothing = await page.ask("add", stamp="3", points=[[160, 120], [5, 5]], labels=[1, 0])
        assert not nothing["success"] and "the network finds nothing there" in nothing["message"]
        again = await page.ask("add", stamp="3", points=[[160, 120]], labels=[1])
        assert again["success"] and again["object_id"] == 3

    run(folder, _Strict(shared), talk)


def test_a_save_that_fails_loses_nothing(folder: Path, segmenter: ImageSegmenter) -> None:
    saved = read_data_set(folder).recordings[0]

    async def talk(page: Page) -> None:
        refused = await page.ask("rename", object_id=9, name="cup")
        assert refused["message"] == "not understood: there is no object 9; there are: 1, 2"
        assert (await page.ask("rename", object_id=BALL, name="football"))["success"]
        (folder / "annotations.json").unlink()
        (folder / "annotations.json").mkdir()
        await page.ask("save")
        told = await page.message("notice")
        assert told["level"] == "error" and "annotations.json" in told["message"]
        unsaved = read_unsaved(folder, saved)
        assert unsaved is not None and unsaved.labels[BALL] == "football"
        (folder / "annotations.json").rmdir()
        await page.ask("save")
        assert (await page.message("notice"))["level"] == "info"
        assert not any((folder / UNSAVED).iterdir())

    run(folder, segmenter, talk)


def test_what_comes_while_something_long_begins_is_refused(folder: Path, shared: SharedModel) -> None:
    """The commands wait behind a slow one, so that all have come before the first long one begins."""
    release = threading.Event()

    class Slow(ImageSegmenter):
        def encode(self, image: Rgb) -> EncodedImage:
            assert release.wait(120)
            return super().encode(image)

    async def whole() -> None:
        review = Review(read_data_set(folder), Corrector(Slow(shared)), lambda objects: NullBackend(TrackerConfig()))
        commands: list[dict[str, object]] = [
            {"type": "add", "stamp": "3", "box": [100, 60, 200, 160]}, {"type": "propagate", "frame": 3},
            {"type": "save"}, {"type": "remove", "object_id": 3, "first": 0, "last": 15},
        ]  # fmt: skip
        waiting = [asyncio.ensure_future(review.call({"camera": NAME, **each})) for each in commands]
        await asyncio.sleep(0)  # all of them wait for the worker now
        release.set()
        answers = await asyncio.wait_for(asyncio.gather(*waiting), 240)
        assert [answer["success"] for answer in answers] == [True, True, False, False]
        assert "the review is busy" in str(answers[2]["message"])
        await asyncio.to_thread(review.close)
        assert review.unsaved == [NAME]

    asyncio.run(whole())


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_ids_are_corrected_and_saved_in_every_format(format: str, shared: SharedModel, tmp_path: Path) -> None:
    """From image 8 on the ids of both are exchanged, and then the ball is split and merged again."""
    folder = tmp_path / "data"
    scene = make_data_set(folder, format)
    before = ids_at(folder, format, scene)
    assert before[5] == before[12] == [BALL, BOOK]

    async def talk(page: Page) -> None:
        for command, said in (
            ({"object_id": BALL, "other": BALL, "frame": 8}, "both are object 1; choose two"),
            ({"object_id": BALL, "other": 9, "frame": 8}, "there is no object 9; there are: 1, 2"),
            ({"object_id": BALL, "other": BOOK, "frame": 99}, "there is no image 99"),
        ):
            assert said in (await page.ask("exchange", **command))["message"]
        refused = await page.ask("split", object_id=BALL, frame=0)
        assert refused["message"].startswith("object 1 has masks only on one side of image 0")
        assert (await page.ask("exchange", object_id=BALL, other=BOOK, frame=8))["success"]
        await saved(page)
        assert ids_at(folder, format, scene)[5] == [BALL, BOOK] and ids_at(folder, format, scene)[12] == [BOOK, BALL]
        assert (await page.ask("split", object_id=BALL, frame=11))["object_id"] == 3
        await saved(page)
        new = BALL if format == "yolo" else 3
        assert [ids_at(folder, format, scene)[frame] for frame in (5, 10, 12)] == [[1, 2], [2, 1], [2, new]]
        assert (await page.ask("merge", object_id=BOOK, other=3))["success"]
        # Where both have a mask, the chosen one keeps its own.
        await saved(page)
        assert [ids_at(folder, format, scene)[frame] for frame in (5, 10, 12)] == [[1, 2], [2, 1], [2, 0]]
        for _ in range(3):
            assert (await page.ask("undo"))["success"]
        await saved(page)
        assert ids_at(folder, format, scene) == before

    run(folder, ImageSegmenter(shared), talk)


async def saved(page: Page) -> None:
    assert (await page.ask("save"))["success"]
    assert (await page.message("notice"))["level"] == "info"


def ids_at(folder: Path, format: str, scene: Sequence[RenderedFrame]) -> list[list[int]]:
    """Of each image, the ids that the format has where the ball and the book are; 0 = none."""
    keys = (BALL, BOOK)
    return [[_id_at(folder, format, at, scene[at].masks[key]) for key in keys] for at in range(len(scene))]


def _id_at(folder: Path, format: str, frame: int, mask: BoolMask) -> int:
    """Read without the project's code. YOLO has classes and no ids."""
    if format == "davis":
        labels = np.asarray(Image.open(folder / "Annotations" / NAME / f"{frame:06d}.png"))
        return int(np.bincount(labels[mask]).argmax())
    found: dict[int, BoolMask] = {}
    if format == "coco":
        data = COCO(str(folder / "annotations.json"))
        for each in data.imgToAnns[frame + 1]:
            found[each["object_id"]] = data.annToMask(each).astype(np.bool_)
    elif format == "mots":
        for line in (folder / "instances_txt" / f"{NAME}.txt").read_text().splitlines():
            at, key, _, height, width, counts = line.split(" ")
            if int(at) == frame:
                rle = {"size": [int(height), int(width)], "counts": counts.encode()}
                found[{"11001": BALL, "12001": BOOK, "11002": 3}[key]] = coco.decode(rle).astype(np.bool_)
    else:
        for line in (folder / "labels" / NAME / f"{frame:06d}.txt").read_text().splitlines():
            number, *ring = line.split(" ")
            drawn = np.zeros(mask.shape, np.uint8)
            corners = np.array(ring, float).reshape(-1, 2) * mask.shape[::-1]
            cv2.fillPoly(drawn, [corners.astype(np.int32)], 1)
            found[{"0": BALL, "1": BOOK}[number]] = drawn.astype(np.bool_)
    return next((key for key, each in found.items() if jaccard(each, mask) > 0.5), 0)
