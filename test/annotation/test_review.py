"""A review without a browser: pictures of several recordings, and commands that fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

pytest.importorskip("torch", reason="the embedded model needs torch")

from aiohttp.test_utils import TestServer
from data_sets import BALL, NAME, add_recording, make_data_set

from sam2_ros.annotation.corrector import Corrector
from sam2_ros.annotation.data_set import read_data_set
from sam2_ros.annotation.results import UNSAVED, read_unsaved
from sam2_ros.annotation.review import Review
from sam2_ros.inference.local import load_shared_model
from sam2_ros.inference.null import NullBackend
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.image_segmenter import EncodedImage, ImageSegmenter, SoFar
from sam2_ros.tracking.segmentation import Segmentation
from sam2_ros.tracking.shared_model import SharedModel
from sam2_ros.tracking.types import CroppedMask, Prompt
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
