"""One launched node with the engine that has no network: topics, services, refusals, and that it goes on after each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from node_harness import HEIGHT, WIDTH, Peer, box_prompt, running
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Point2D

from sam2_ros.msg import ObjectEvent, ObjectMask, ObjectPrompt, PromptResult, TrackedObject
from sam2_ros.ros.messages import full_mask
from sam2_ros.srv import RefineObject, RemoveObject, RenameObject


@pytest.fixture(scope="module")
def launched(folder: Path, parameters_file: Path) -> Iterator[Peer]:
    with running(folder, namespace="/tracking", params_file=str(parameters_file)) as peer:
        peer.wait_for_state("active")
        yield peer


@pytest.fixture
def node(launched: Peer) -> Peer:
    """The node, tracking and without objects."""
    launched.wait_for_reliable()
    launched.track()
    assert launched.reset().success
    launched.events.clear()
    return launched


def fail(node: Peer, image: Image) -> None:
    """Sends a bad image and waits until it is counted."""
    failed = int(node.status()["failed"])
    node.send(image)
    node.wait_until(lambda: int(node.status()["failed"]) == failed + 1, "a failure")


def refine(node: Peer, prompt: ObjectPrompt) -> Any:
    return node.call(RefineObject, "refine_object", RefineObject.Request(prompt=prompt))


def remove(node: Peer, name: str) -> Any:
    return node.call(RemoveObject, "remove_object", RemoveObject.Request(object_id=name))


def rename(node: Peer, object_id: str, name: str, label: str = "") -> Any:
    return node.call(RenameObject, "rename_object", RenameObject.Request(object_id=object_id, name=name, label=label))


def test_an_object_is_tracked(node: Peer) -> None:
    answer = node.add(box_prompt(10, 20, 40, 60, name="cup", label="dish", label_score=0.5))
    (result,) = answer.results
    assert answer.success and result.success and result.area == 30 * 40
    assert (answer.object_ids, list(answer.object_indices)) == (["cup"], [result.object_id])
    tracks = node.track()
    (known,) = tracks.objects
    assert (known.id, known.name, known.label, known.label_score) == (result.object_id, "cup", "dish", 0.5)
    assert known.state == TrackedObject.STATE_VISIBLE and known.area == 30 * 40
    assert (known.bbox.center.position.x, known.bbox.center.position.y) == (25, 40)
    assert (known.mask.x, known.mask.y, known.mask.width, known.mask.height) == (10, 20, 30, 40)
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[20:60, 10:40] = True
    np.testing.assert_array_equal(full_mask(known.mask), expected)
    assert (tracks.image_width, tracks.image_height, tracks.max_objects) == (WIDTH, HEIGHT, 4)
    assert tracks.receive_time_ns <= tracks.start_time_ns <= tracks.end_time_ns


def test_a_prompt_publishes_its_frame_once_more(node: Peer) -> None:
    """With the mask that it made, so that subscribers see the prompted frame as well."""
    node.track()  # a frame without objects
    (result,) = node.add(box_prompt(10, 20, 40, 60, name="cup")).results

    def published() -> list[Any]:
        return [each for each in node.tracks if each.header.stamp == result.applied_stamp]

    node.wait_until(lambda: len(published()) == 2, "the prompted frame")
    first, second = published()
    assert not first.objects
    assert [(known.prompted, known.area) for known in second.objects] == [(True, 30 * 40)]
    assert first.header == second.header
    assert first.frames_processed == second.frames_processed and first.end_time_ns == second.end_time_ns
    assert node.track().frames_processed > second.frames_processed
    remove(node, "cup")
    assert node.track().objects == []
    assert len(published()) == 2


def test_a_tracked_object_is_not_prompted(node: Peer) -> None:
    node.add(box_prompt(10, 20, 40, 60))
    assert [known.prompted for known in node.track().objects] == [False]


def test_the_header_is_copied_verbatim(node: Peer) -> None:
    image = node.image()
    image.header = Header(frame_id="left/ö optical")
    image.header.stamp.sec, image.header.stamp.nanosec = -7, 999_999_999
    assert node.track(image).header == image.header


def test_the_counters_add_up(node: Peer) -> None:
    with node.camera(period=0.002) as sent:
        node.wait_until(lambda: len(sent) >= 100, "images")
    fail(node, node.image(encoding="32FC1"))
    tracks = node.track()
    missing = tracks.frames_received - tracks.frames_processed - tracks.frames_dropped - tracks.frames_failed
    assert missing in (0, 1), tracks
    assert tracks.frames_failed >= 1

    def settled() -> dict[str, int] | None:
        """The counters, once no frame is under way any more."""
        status = node.status()
        counts = {name: int(status[name]) for name in ("received", "processed", "dropped", "failed")}
        return counts if counts["received"] == sum(counts.values()) - counts["received"] else None

    counts = node.wait_until(settled, "counters that add up")
    assert counts["processed"] >= tracks.frames_processed


def test_no_frame_is_published_twice_or_out_of_order(node: Peer) -> None:
    before = len(node.tracks)
    with node.camera(period=0.002) as sent:
        node.wait_until(lambda: len(sent) >= 60, "images")
    node.wait_until(lambda: node.tracks_of(sent[-1]), "the newest image")
    stamps = [(each.header.stamp.sec, each.header.stamp.nanosec) for each in node.tracks[before:]]
    assert stamps == sorted(set(stamps))


def test_events(node: Peer) -> None:
    node.add(box_prompt(10, 20, 40, 60, name="cup"))
    node.add(box_prompt(10, 20, 50, 60, name="cup"))
    remove(node, "cup")
    node.wait_until(lambda: len(node.events) == 3, "three events")
    assert [event.event for event in node.events] == [ObjectEvent.ADDED, ObjectEvent.CORRECTED, ObjectEvent.REMOVED]
    assert {event.name for event in node.events} == {"cup"} and len({event.id for event in node.events}) == 1
    assert node.events[0].header.frame_id == "camera_optical_frame"


def test_list_rename_remove_reset(node: Peer) -> None:
    first, second = (
        result.object_id for result in node.add(box_prompt(1, 1, 9, 9), box_prompt(20, 20, 30, 30)).results
    )
    assert rename(node, str(second), "box", "thing").success
    listed = node.list_objects()
    assert [(known.id, known.name, known.label) for known in listed.tracks.objects] == [
        (first, "", ""),
        (second, "box", "thing"),
    ]
    assert all(known.mask == ObjectMask() and known.area > 0 for known in listed.tracks.objects)
    assert node.list_objects(with_masks=True).tracks.objects[1].mask.width == 10
    answer = remove(node, str(first))
    assert answer.success and answer.object_ids == ["box"] and list(answer.object_indices) == [second]
    assert [known.id for known in node.track().objects] == [second]
    answer = node.reset()
    assert answer.success and answer.removed == 1
    assert node.track().objects == []
    assert node.add(box_prompt(1, 1, 9, 9)).results[0].object_id > second


def test_flat_fields_of_isaac_clients(node: Peer) -> None:
    box = box_prompt(10, 10, 30, 30).box[0]
    answer = node.add(
        bbox_object_ids=["cup"], bbox_coords=[box],
        point_object_ids=["spoon"], point_coords=[Point2D(x=80.0, y=60.0)], point_labels=[1],
    )  # fmt: skip
    assert answer.success, answer.message
    assert answer.object_ids == ["cup", "spoon"]
    assert [result.object_id for result in answer.results] == list(answer.object_indices)


def test_a_mask_prompt_and_an_empty_mask(node: Peer) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[30:40, 50:60] = 7
    image = Image(height=HEIGHT, width=WIDTH, step=WIDTH, encoding="mono8", data=array("B", pixels.tobytes()))
    prompt = ObjectPrompt(name="cup", mask=image)
    assert node.add(prompt).results[0].area == 100
    assert node.track().objects[0].area == 100


def test_bad_prompts_are_refused_one_by_one(node: Peer) -> None:
    good, turned, outside, empty = (
        box_prompt(10, 10, 30, 30, name="good"), box_prompt(1, 1, 5, 5), box_prompt(500, 500, 600, 600), ObjectPrompt(),
    )  # fmt: skip
    turned.box[0].center.theta = 1.0
    answer = node.add(turned, good, outside, empty, box_prompt(1, 1, 5, 5, object_id=4711))
    assert not answer.success
    assert "1 of 5 prompts accepted" in answer.message
    codes = [result.code for result in answer.results]
    invalid = PromptResult.INVALID_PROMPT
    assert codes == [invalid, PromptResult.OK, invalid, invalid, PromptResult.UNKNOWN_OBJECT]
    assert "accepted: theta 0" in answer.results[0].message
    assert [known.name for known in node.track().objects] == ["good"]


def test_a_request_without_prompts_is_no_success(node: Peer) -> None:
    answer = node.add()
    assert not answer.success and "holds no prompt" in answer.message


def test_no_more_than_max_objects(node: Peer) -> None:
    answer = node.add(*[box_prompt(10 * i, 10, 10 * i + 8, 30) for i in range(5)])
    assert [result.code for result in answer.results] == [PromptResult.OK] * 4 + [PromptResult.FULL]
    assert "tracker.max_objects" in answer.results[4].message


def test_unknown_objects(node: Peer) -> None:
    node.add(box_prompt(10, 10, 30, 30, name="cup"))
    assert "'spoon'; living:" in remove(node, "spoon").message
    assert "no living object" in rename(node, "spoon", "fork").message
    answer = refine(node, box_prompt(1, 1, 5, 5, name="spoon"))
    assert not answer.success and answer.result.code == PromptResult.UNKNOWN_OBJECT
    answer = refine(node, box_prompt(1, 1, 5, 5, object_id=4711))
    assert answer.result.code == PromptResult.UNKNOWN_OBJECT
    assert [known.name for known in node.track().objects] == ["cup"]


def test_refine(node: Peer) -> None:
    object_id = node.add(box_prompt(10, 10, 30, 30, name="cup")).results[0].object_id
    for prompt in (box_prompt(10, 10, 50, 50, name="cup"), box_prompt(10, 10, 20, 20, object_id=object_id)):
        answer = refine(node, prompt)
        assert answer.success and answer.result.object_id == object_id
        assert node.track().objects[0].area == answer.result.area


def test_no_text_addresses_another_object_than_it_says(node: Peer) -> None:
    """Numbers that wrap, that are written otherwise, or that are another object's name."""
    node.track()
    node.reset()
    cup, dish = (result.object_id for result in node.add(*(
        box_prompt(10, 20, 40, 60, name=name) for name in ("cup", "dish")
    )).results)  # fmt: skip
    for text in (f"{cup + 2**32}", f"0{cup}", f"+{cup}", f" {cup}", f"{cup}.0", f"-{cup}", "Cup", "cup\n", ""):
        for answer in (remove(node, text), rename(node, text, "spoon")):
            assert not answer.success and "no living object has the name or id" in answer.message, text
    for answer in (
        rename(node, "cup", str(dish)),
        node.add(box_prompt(10, 20, 40, 60, name=str(dish))),
        node.add(bbox_object_ids=[str(dish)], bbox_coords=[box_prompt(10, 20, 40, 60).box[0]]),
    ):
        assert not answer.success and f"the name {dish} would be taken for an id" in answer.message
    assert [(known.id, known.name) for known in node.track().objects] == [(cup, "cup"), (dish, "dish")]
    assert remove(node, str(dish)).success
    assert [known.id for known in node.track().objects] == [cup]


def test_a_name_is_unique(node: Peer) -> None:
    node.add(box_prompt(10, 10, 30, 30, name="cup"), box_prompt(40, 40, 50, 50, name="box"))
    answer = rename(node, "cup", "box")
    assert not answer.success and "'box' already" in answer.message


def test_a_prompt_is_applied_to_the_frame_of_its_stamp(node: Peer) -> None:
    """Late by none and by some frames; the answer says how late, and only the newest frame is published again."""
    headers = stored_headers(node, 4)
    for late, header in enumerate(reversed(headers)):
        before = len(node.tracks)
        (result,) = node.add(box_prompt(10, 10, 30, 30, name=f"object {late}"), request_header=header).results
        assert result.success, result.message
        assert (result.applied_stamp, result.stamp_difference) == (header.stamp, 0)
        assert result.frames_caught_up == late
        assert result.prompt_age == pytest.approx(seconds(headers[-1].stamp) - seconds(header.stamp))
        node.wait_until(partial(grown, node.tracks, before), "the frame once more")
        assert node.tracks[-1].header == headers[-1]
    refined = node.call(
        RefineObject, "refine_object",
        RefineObject.Request(request_header=headers[1], prompt=box_prompt(10, 10, 50, 50, name="object 1")),
    )  # fmt: skip
    assert refined.success and refined.result.applied_stamp == headers[1].stamp
    assert refined.result.frames_caught_up == len(headers) - 2


def test_the_stamp_of_a_dropped_frame_means_the_nearest_one(node: Peer) -> None:
    """Within tracker.history_tolerance, and the answer says so."""
    first, second, *_ = stored_headers(node)
    between = Header(stamp=Time(sec=second.stamp.sec, nanosec=second.stamp.nanosec - 90_000_000))
    (result,) = node.add(box_prompt(10, 10, 30, 30), request_header=between).results
    assert result.success and result.applied_stamp == second.stamp
    assert result.stamp_difference == pytest.approx(0.09)
    far = Header(stamp=Time(sec=first.stamp.sec, nanosec=first.stamp.nanosec + 400_000_000))
    (result,) = node.add(box_prompt(10, 10, 30, 30), request_header=far).results
    assert result.code == PromptResult.NO_FRAME and "tracker.history_tolerance" in result.message


def test_stamps_of_no_stored_frame_are_refused(node: Peer) -> None:
    *_, newest = headers = stored_headers(node)
    old = Header(stamp=Time(sec=headers[0].stamp.sec - 500))
    answer = node.add(box_prompt(10, 10, 30, 30), request_header=old)
    assert answer.results[0].code == PromptResult.TOO_OLD
    listed = node.list_objects().tracks.header
    assert listed == newest
    assert f" to {newest.stamp.sec}.123456789" in answer.results[0].message
    future = Header(stamp=Time(sec=newest.stamp.sec + 100_000))
    answer = node.add(box_prompt(10, 10, 30, 30), request_header=future)
    assert answer.results[0].code == PromptResult.NO_FRAME


def stored_headers(node: Peer, count: int = 5) -> list[Header]:
    """Sends as many images, one after the other, so that none of them is dropped; returns their headers."""
    return [node.track(node.image()).header for _ in range(count)]


def grown(messages: list[Any], before: int) -> bool:
    return len(messages) > before


def seconds(stamp: Any) -> float:
    return float(stamp.sec + stamp.nanosec * 1e-9)


def test_a_prompt_waits_for_the_frame_that_it_names(node: Peer) -> None:
    assert node.set_parameter("prompts.wait", 15.0).successful
    image = node.image()
    waiting = node.call_async(*add_request(box_prompt(10, 10, 30, 30), image.header))
    assert node.list_objects().success  # another service meanwhile
    assert not waiting.done()
    node.send(image)
    node.wait_until(waiting.done, "the answer")
    (result,) = waiting.result().results
    assert result.success and result.applied_stamp == image.header.stamp
    assert node.set_parameter("prompts.wait", 0.5).successful


def add_request(prompt: ObjectPrompt, header: Header) -> tuple[type, str, Any]:
    from sam2_ros.srv import AddObjects

    return AddObjects, "add_objects", AddObjects.Request(prompts=[prompt], request_header=header)


@pytest.mark.parametrize(
    ("encoding", "cell", "rgb"),
    [("mono8", [[90, 90], [90, 90]], [90, 90, 90]), ("bayer_rggb8", [[200, 100], [100, 50]], [200, 100, 50])],
)
@pytest.mark.parametrize("padding", [0, 12])
def test_other_encodings_keep_their_colours(
    node: Peer, encoding: str, cell: list[list[int]], rgb: list[int], padding: int
) -> None:
    """Seen in the overlay, which is the image itself while nothing is tracked."""
    overlays: list[Image] = []
    subscription = node.node.create_subscription(Image, "/tracking/tracker/overlay", overlays.append, 10)
    rows = np.full((HEIGHT, WIDTH + padding), 7, np.uint8)
    rows[:, :WIDTH] = np.tile(np.array(cell, np.uint8), (HEIGHT // 2, WIDTH // 2))
    image = node.image(encoding=encoding, step=rows.shape[1], data=array("B", rows.tobytes()))

    def shown() -> Any:
        node.send(image)
        return node.tracks_of(image) and next((each for each in overlays if each.header == image.header), None)

    try:
        overlay = node.wait_until(shown, "its overlay")
    finally:
        node.node.destroy_subscription(subscription)
    pixels = np.asarray(overlay.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(
        pixels[2:-2, 2:-2], np.broadcast_to(np.array(rgb, np.uint8), (HEIGHT - 4, WIDTH - 4, 3))
    )


def test_a_bad_image_costs_itself_alone(node: Peer) -> None:
    assert node.launched is not None
    failed = node.track().frames_failed
    for bad in (node.image(encoding="64FC9"), node.image(encoding="64FC9"), node.image(step=3)):
        fail(node, bad)
        node.track()
    assert node.track().frames_failed == failed + 3
    told = "image encoding '64FC9' is not supported; accepted: rgb8, bgr8"
    assert node.launched.text.count(told) == 1
    node.launched.wait_for_text("step is 3 bytes; 160 pixels of rgb8 need at least 480")
    status = node.status()
    assert status["level"] == DiagnosticStatus.WARN and "step is 3 bytes" in status["last failure"]


def test_no_text_of_an_image_reaches_terminals_or_other_topics_as_it_is(node: Peer) -> None:
    assert node.launched is not None
    evil = "\x1b[31mX\n[ERROR] fake"
    named, long = node.image(encoding=evil), node.image()
    long.header.frame_id = "f" * 1_000_000
    for bad in (named, long):
        fail(node, bad)
        assert max(len(value) for value in node.status().values() if isinstance(value, str)) < 2000
        node.track()
    status = node.status()
    assert "frame_id has 1000000 characters; accepted: up to 256" in status["last failure"]
    assert all(value.isprintable() for value in status.values() if isinstance(value, str))
    assert evil not in node.launched.text and max(map(len, node.launched.text.splitlines())) < 2000
    for number in range(60):
        node.send(node.image(encoding=f"odd{number}"))
    fail(node, node.image(encoding="odd"))
    assert sum(node.launched.text.count(f"from 'odd{number}' to") for number in range(60)) < 20
    node.track()


def test_best_effort_publishers_arrive_too(node: Peer) -> None:
    publisher = node.create_image_publisher(Image, "/tracking/image", reliable=False)
    try:
        image = node.track(publisher=publisher)
        assert node.launched is not None
        node.launched.wait_for_text(
            "subscribed to /tracking/image, reliable", "subscribed to /tracking/image, best effort"
        )
        assert image.image_width == WIDTH
    finally:
        node.node.destroy_publisher(publisher)


def test_lost_best_effort_images_are_diagnosed_with_the_cure(node: Peer) -> None:
    """That nothing was sent at all looks the same from here."""
    publisher = node.create_image_publisher(Image, "/tracking/image", reliable=False)
    try:
        status = wait_for_message(node, "loses best-effort images larger than a datagram")
        assert "config/fastdds.xml in its environment, or let the publisher offer reliable" in status["message"]
    finally:
        node.node.destroy_publisher(publisher)


def test_an_incompatible_publisher_is_diagnosed_with_the_cure(node: Peer) -> None:
    assert node.set_parameter("input.reliability", "reliable").successful
    publisher = node.create_image_publisher(Image, "/tracking/image", reliable=False)
    try:
        status = wait_for_message(node, "QoS is incompatible")
        assert status["level"] == DiagnosticStatus.ERROR
        assert "set input.reliability to auto or best_effort" in status["message"]
    finally:
        node.node.destroy_publisher(publisher)
        assert node.set_parameter("input.reliability", "auto").successful
    node.track()


def test_a_silent_publisher_is_diagnosed(node: Peer) -> None:
    status = wait_for_message(node, "no image on /tracking/image")
    assert status["level"] == DiagnosticStatus.ERROR
    assert "a reliable publisher exists but nothing arrives" in status["message"]
    node.track()
    node.wait_until(lambda: "no image" not in node.status()["message"], "an end of the complaint")


def wait_for_message(node: Peer, text: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        status = node.status()
        return status if text in status["message"] else None

    return node.wait_until(found, f"diagnostics with '{text}'")


def test_diagnostics(node: Peer) -> None:
    node.add(box_prompt(10, 10, 30, 30))
    with node.camera() as sent:
        node.wait_until(lambda: len(sent) > 30, "images")
        status = node.status()
        assert float(status["input rate [Hz]"]) > 1
        assert float(status["input age [s]"]) < 10
    assert (status["model"], status["objects"], status["objects visible"]) == ("null", "1", "1")
    latencies = [float(status[f"latency p{share} [ms]"]) for share in (50, 90, 99)]
    assert 0 < latencies[0] <= latencies[1] <= latencies[2]
    assert "bank [bytes]" in status


def test_the_overlay_is_worked_out_only_while_somebody_subscribes(node: Peer) -> None:
    node.add(box_prompt(10, 20, 60, 80))
    overlays: list[Image] = []
    node.track()
    assert node.node.count_subscribers("/tracking/tracker/overlay") == 0
    subscription = node.node.create_subscription(Image, "/tracking/tracker/overlay", overlays.append, 10)
    node.wait_until(lambda: node.track() and overlays, "an overlay")
    overlay = overlays[-1]
    assert (overlay.encoding, overlay.width, overlay.height) == ("rgb8", WIDTH, HEIGHT)
    assert overlay.header.frame_id == "camera_optical_frame"
    pixels = np.frombuffer(overlay.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (pixels[70, 50] != 99).any(), "the mask is drawn"
    assert (pixels[110, 150] == 99).all(), "the rest is the image"
    node.node.destroy_subscription(subscription)


def test_run_lengths(node: Peer) -> None:
    node.add(box_prompt(10, 20, 40, 60))
    assert node.set_parameter("output.mask_encoding", "rle").successful
    try:
        mask = node.track().objects[0].mask
        assert mask.encoding == ObjectMask.RLE and list(mask.counts) == [0, 1200] and len(mask.data) == 0
    finally:
        assert node.set_parameter("output.mask_encoding", "mono8").successful


def test_the_quality_of_service_of_results_can_be_overridden(node: Peer) -> None:
    names = [f"qos_overrides./tracking/tracker/tracks.publisher.{policy}" for policy in ("reliability", "depth")]
    reliability, depth = node.call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
    assert (reliability.string_value, depth.integer_value) == ("reliable", 10)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("output.mask_encoding", "jpeg", 'output.mask_encoding is "jpeg"; accepted: mono8, rle'),
        ("input.timeout", -1.0, "out of range"),
        ("input.timeout", "long", "Wrong parameter type"),
        ("diagnostics.period", 3.0, "read-only"),
        (
            "tracker.max_objects",
            9,
            "may be set while the node is unconfigured, since the memory bank is allocated for it",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_with_a_reason(node: Peer, name: str, value: Any, reason: str) -> None:
    answer = node.set_parameter(name, value)
    assert not answer.successful and reason in answer.reason
    node.track()
