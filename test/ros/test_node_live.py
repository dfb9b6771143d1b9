"""``~/tracks_live`` over DDS: one message for every camera image, and never another scene's mask."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from node_harness import HEIGHT, WIDTH, Peer, box_prompt, running
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from textures import background, patch

from sam2_ros.evaluation.mask_metrics import jaccard
from sam2_ros.inference.frames import Frame
from sam2_ros.msg import TrackedObject, TrackedObjectArray
from sam2_ros.ros.camera_stream import CameraStream
from sam2_ros.ros.messages import full_mask

SIDE, SPEED = 36, 4  # pixels of the square, and pixels that it moves right in an image


BACKGROUNDS = {scene: background(scene, WIDTH, HEIGHT) for scene in (1, 2)}
SQUARE = patch(3, SIDE, SIDE)


def place(number: int) -> tuple[int, int]:
    return 10 + SPEED * number, 40


def square(number: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    x, y = place(number)
    mask[y : y + SIDE, x : x + SIDE] = True
    return mask


class Watched:
    """The node, and what it says of every camera image."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.live: list[TrackedObjectArray] = []
        self.subscription: Any = None

    def subscribe(self) -> None:
        name = f"{self.peer.node_name}/tracks_live"
        self.subscription = self.peer.node.create_subscription(TrackedObjectArray, name, self.live.append, 100)

    def picture(self, number: int, scene: int = 1, scale: int = 1) -> Image:
        pixels = BACKGROUNDS[scene].copy()
        x, y = place(number)
        pixels[y : y + SIDE, x : x + SIDE] = SQUARE
        pixels = pixels.repeat(scale, 0).repeat(scale, 1)
        height, width = pixels.shape[:2]
        return self.peer.image(data=array("B", pixels.tobytes()), width=width, height=height, step=3 * width)

    def show(self, number: int, scene: int = 1, scale: int = 1, back: int = 0) -> TrackedObjectArray:
        """Sends an image, its stamp ``back`` seconds earlier than the next one; gives what is said of it at once, when
        the engine has answered for it too."""
        image = self.picture(number, scene, scale)
        image.header.stamp.sec -= back
        self.peer.track(image)
        return self.peer.wait_until(lambda: self.of(image), "the live tracks of the image")

    def of(self, image: Image) -> Any:
        return next((each for each in reversed(self.live) if each.header.stamp == image.header.stamp), None)

    def begin(self, name: str = "") -> int:
        """Shows image 0 and prompts its square; gives the object's id."""
        self.peer.reset()
        self.show(0)
        x, y = place(0)
        added = self.peer.add(box_prompt(x, y, x + SIDE, y + SIDE, name=name))
        assert added.success, added.message
        return int(added.results[0].object_id)


@pytest.fixture(scope="module")
def node(folder: Path, parameters_file: Path) -> Iterator[Watched]:
    """With an engine so slow that an image's live masks are out before its answer."""
    slow = folder / "slow.yaml"
    slow.write_text(parameters_file.read_text().replace("'null'", "'null:200'") + "    output.masks: [square]\n")
    with running(folder, namespace="/live", params_file=str(slow)) as peer:
        peer.wait_for_state("active")
        peer.wait_for_reliable()
        peer.track()
        watched = Watched(peer)
        assert "live latency p50 [ms]" not in peer.status(), "nobody has subscribed"
        watched.subscribe()
        peer.wait_until(lambda: peer.send() and watched.live, "live tracks")
        yield watched


def test_every_image_has_a_message_with_masks_of_the_newest_processed_frame(node: Watched) -> None:
    number = node.begin()
    for shown in range(1, 6):
        message = node.show(shown)
        # The null engine holds the mask still: it lies where the square was in image 0, carried by one image.
        (obj,) = message.objects
        assert (obj.id, obj.state, message.frames_carried) == (number, TrackedObject.STATE_VISIBLE, 1)
        assert message.network_stamp.sec == message.header.stamp.sec - 1
        assert message.header.frame_id == "camera_optical_frame"
        assert 0 < obj.carry_confidence <= 1
        assert message.instance == node.peer.tracks[-1].instance
        if shown == 1:
            assert jaccard(full_mask(obj.mask), square(1)) > 0.85 > jaccard(square(0), square(1))
    assert "live latency p99 [ms]" in node.peer.status()
    assert {"age of masks p50 [ms]", "engine rate [Hz]"} <= set(node.peer.status())


def test_messages_come_in_the_order_of_the_images_and_none_is_left_out(node: Watched) -> None:
    """As soon as one has come, the next image is sent; the engine is still at an earlier one then."""
    node.begin()
    before = len(node.live)
    sent: list[Image] = []
    for _ in range(20):
        sent.append(node.peer.send())
        node.peer.wait_until(lambda: node.of(sent[-1]), "the image's live tracks")
    stamps = [message.header.stamp.sec for message in node.live[before:]]
    assert stamps == [image.header.stamp.sec for image in sent]


def test_removals_names_and_prompts_act_on_the_next_image(node: Watched) -> None:
    from sam2_ros.srv import RemoveObject, RenameObject

    number = node.begin()
    renamed = RenameObject.Request(object_id=str(number), name="cup")
    assert node.peer.call(RenameObject, "rename_object", renamed).success
    assert [obj.name for obj in node.show(1).objects] == ["cup"]
    assert node.peer.add(box_prompt(100, 80, 130, 110)).success
    assert len(node.show(2).objects) == 2
    assert node.peer.call(RemoveObject, "remove_object", RemoveObject.Request(object_id="cup")).success
    assert [obj.name for obj in node.show(3).objects] == [""]


def test_a_cut_shows_no_mask_but_the_states_of_the_newest_processed_frame(node: Watched) -> None:
    node.begin()
    assert node.show(1).objects[0].area > 0
    message = node.show(20, scene=2)
    (obj,) = message.objects
    assert (obj.area, obj.carry_confidence, obj.state) == (0, 0, TrackedObject.STATE_VISIBLE)
    assert node.show(21, scene=2).objects[0].area > 0, "the engine has answered for the new scene"


def test_a_jump_back_in_time_shows_no_mask_of_before(node: Watched) -> None:
    node.begin()
    assert node.show(1).objects[0].area > 0
    message = node.show(2, back=500)  # the engine forgets its objects, before or after this message
    assert not any(obj.area for obj in message.objects)


def test_masks_are_carried_over_images_that_were_lost(node: Watched) -> None:
    node.begin()
    message = node.show(4)  # the camera's images 1 to 3 never came
    assert message.frames_carried == 1
    assert jaccard(full_mask(message.objects[0].mask), square(4)) > 0.7 > jaccard(square(0), square(4))


def test_ids_names_and_states_are_those_of_the_tracks(node: Watched) -> None:
    node.begin()
    assert node.peer.add(box_prompt(100, 80, 130, 110, name="cup", label="thing")).success
    message = node.show(1)
    (tracks,) = [each for each in node.peer.tracks if each.header.stamp == message.network_stamp][-1:]
    told = [[(o.id, o.name, o.label, o.state) for o in each.objects] for each in (message, tracks)]
    assert told[0] == told[1] and len(told[0]) == 2


def test_an_object_that_is_told_to_be_hidden_has_no_mask(node: Watched) -> None:
    from sam2_ros.msg import ObjectPrompt
    from sam2_ros.srv import RefineObject

    number = node.begin()
    nowhere = Image(height=HEIGHT, width=WIDTH, step=WIDTH, encoding="mono8", data=array("B", bytes(WIDTH * HEIGHT)))
    request = RefineObject.Request(prompt=ObjectPrompt(object_id=number, mask=nowhere))
    assert node.peer.call(RefineObject, "refine_object", request).success
    (obj,) = node.show(1).objects
    assert (obj.id, obj.area, obj.carry_confidence) == (number, 0, 0)


def test_a_late_prompt_counts_from_the_next_image_on(node: Watched) -> None:
    node.begin()
    first = node.show(1).header
    node.show(2)
    x, y = place(1)
    late = node.peer.add(box_prompt(x, y, x + SIDE, y + SIDE, name="late"), request_header=first)
    assert late.success and late.results[0].applied_stamp == first.stamp
    message = node.show(3)
    assert [obj.name for obj in message.objects] == ["", "late"]
    assert message.objects[1].area > 0


def test_another_image_size_shows_no_mask_until_the_engine_has_seen_it(node: Watched) -> None:
    node.begin()
    message = node.show(1, scale=2)
    (obj,) = message.objects
    assert (message.image_width, obj.area, obj.mask.image_width) == (2 * WIDTH, 0, 2 * WIDTH)
    x, y = (2 * edge for edge in place(1))
    assert node.peer.add(box_prompt(x, y, x + 2 * SIDE, y + 2 * SIDE)).success
    new = node.show(2, scale=2).objects[-1]
    assert new.area > 0 and new.mask.image_width == 2 * WIDTH
    node.show(1)  # as the other tests have it


def test_views_follow_the_live_masks_by_parameter(node: Watched) -> None:
    from vision_msgs.msg import Detection2DArray

    seen: list[Detection2DArray] = []
    name = f"{node.peer.node_name}/detections"
    subscription = node.peer.node.create_subscription(Detection2DArray, name, seen.append, 100)
    node.begin()

    def box_in_view(stamp: Any) -> Any:
        return next((one.detections[0].bbox for one in seen if one.header.stamp == stamp and one.detections), None)

    def left_edges() -> list[float]:
        """Of the view for each of the next images; the engine's masks stand still."""
        edges = []
        for number in (1, 2, 3):
            stamp = node.show(number).header.stamp
            box = node.peer.wait_until(partial(box_in_view, stamp), "the view of the image")
            edges.append(box.center.position.x - box.size_x / 2)
        return edges

    node.peer.wait_until(lambda: node.show(0) and seen, "the subscription")
    assert left_edges() == [place(0)[0]] * 3
    try:
        assert node.peer.set_parameter("output.live", True).successful
        node.begin()
        assert left_edges()[0] == pytest.approx(place(1)[0], abs=2)
    finally:
        assert node.peer.set_parameter("output.live", False).successful
        node.peer.node.destroy_subscription(subscription)


def test_the_mask_of_a_chosen_object_follows_the_live_masks(node: Watched) -> None:
    seen: list[Image] = []
    subscription = node.peer.node.create_subscription(Image, f"{node.peer.node_name}/mask/square", seen.append, 100)

    def mask_of(stamp: Any) -> Any:
        return next((one for one in seen if one.header.stamp == stamp), None)

    try:
        assert node.peer.set_parameter("output.live", True).successful
        node.peer.wait_until(lambda: node.show(0) and seen, "the subscription")
        node.begin("square")
        live = node.show(1)
        image = node.peer.wait_until(partial(mask_of, live.header.stamp), "the mask of the image")
        mask = np.array(image.data, np.uint8).reshape(HEIGHT, WIDTH) > 0
        np.testing.assert_array_equal(mask, full_mask(live.objects[0].mask))
        assert jaccard(mask, square(1)) > 0.85 > jaccard(square(0), square(1))
    finally:
        assert node.peer.set_parameter("output.live", False).successful
        node.peer.node.destroy_subscription(subscription)


def test_nothing_is_worked_out_while_nobody_listens(node: Watched) -> None:
    """Who comes later is told of the objects at once. Their masks come with the engine's next answer."""
    number = node.begin()
    node.peer.node.destroy_subscription(node.subscription)

    def working() -> bool:
        node.peer.send()
        return "live latency p50 [ms]" in node.peer.status()

    try:
        assert node.peer.set_parameter("output.live", True).successful
        node.peer.wait_until(lambda: not working(), "the end of the live tracks: no view has a subscriber either")
    finally:
        assert node.peer.set_parameter("output.live", False).successful
    node.live.clear()
    node.subscribe()
    node.peer.wait_until(working, "their return")
    first = node.peer.wait_until(lambda: node.live, "live tracks")[0]
    assert [(obj.id, obj.state) for obj in first.objects] == [(number, TrackedObject.STATE_VISIBLE)]


@pytest.mark.parametrize("every_frame", [True, False])
def test_images_that_wait_in_a_long_queue_are_not_kept_decoded(every_frame: bool) -> None:
    decoded: list[int] = []

    def decode() -> np.ndarray:
        decoded.append(1)
        return np.zeros((2, 2, 3), np.uint8)

    stream: Any = object.__new__(CameraStream)
    stream.name, stream._settings = "", MagicMock()
    stream._settings.__getitem__.side_effect = {"input.every_frame": every_frame}.__getitem__
    stream._statistics, stream.health, stream._worker, stream._live = MagicMock(), MagicMock(), MagicMock(), MagicMock()
    stream._active, stream._publishers = True, MagicMock(live_wanted=True)
    stream._on_frame(Frame(1, decode, 0, Header()))
    for taker in (stream._live, stream._worker):
        taker.submit.call_args.args[0].decode()
    assert len(decoded) == (2 if every_frame else 1)
