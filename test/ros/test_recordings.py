"""Recordings that are cut, crafted or odd: replayed as far as they go, or refused with a reason, never believed."""

from __future__ import annotations

import math
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcap", reason="the library that reads recordings")

import rclpy
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from node_harness import wait_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import ReliabilityPolicy
from rclpy.serialization import serialize_message
from recordings import PARAMETERS_OF_NULL, WIDTH, Made, run_lengths, small_recording, tracked
from sensor_msgs.msg import Image

from sam2_ros import srv
from sam2_ros.cli.main import main
from sam2_ros.ros.mcap_file import McapFile
from sam2_ros.ros.recording_file import RecordingWriter
from sam2_ros.ros.recording_reader import Recording

FRAMES = 6
CHUNK, DATA_END = 0x06, 0x0F  # opcodes


def calls(recording: Recording) -> list[int]:
    return [len(frame.calls) for frame in recording.frames]


def replayed(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = main(["replay", str(path), "--quiet", *options])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("step", [10**8, 0])
def test_a_recording_is_replayed_also_if_all_images_share_a_stamp(step: int, tmp_path: Path, capsys: Any) -> None:
    path = small_recording(tmp_path / "run.mcap", FRAMES, step)
    assert calls(Recording(path)) == [0, 1, 0, 0, 0, 0]
    code, out, err = replayed(path, capsys)
    assert (code, err) == (0, "") and out.startswith("5 of 5 masks in 6 frames are the same")


def test_images_that_share_a_stamp_are_told_apart_by_their_arrival(tmp_path: Path, capsys: Any) -> None:
    """The tracker dropped every second image."""
    made = Made(tmp_path / "run.mcap")
    for number in range(FRAMES):
        made.image(0)
        if number % 2:
            made.tracks(0)
    made.close()
    assert [frame.image for frame in Recording(tmp_path / "run.mcap").frames] == [1, 3, 5]


def test_of_images_that_share_a_stamp_the_nearest_is_taken(tmp_path: Path) -> None:
    """The tracker says when it received its image; the recorder took between 0.4 s and -0.4 s for the same way."""
    for late, image in ((4 * 10**8, 1), (-4 * 10**8, 1), (6 * 10**8, 2), (-6 * 10**8, 0)):
        made = Made(tmp_path / "run.mcap")
        for _ in range(3):
            made.image(0)  # a second after the one before
        made.now -= 10**9 - late
        made.tracks(0)
        made.close()
        assert [frame.image for frame in Recording(tmp_path / "run.mcap").frames] == [image]


def test_stamps_are_read_in_either_byte_order(tmp_path: Path) -> None:
    made = Made(tmp_path / "run.mcap")
    for seconds, order in ((5, "<"), (7, ">"), (-3, "<"), (-2, ">")):
        made.now += 10**9
        head = bytes([0, order == "<", 0, 0])
        made.write(
            "/image", "sensor_msgs/msg/Image", head + struct.pack(f"{order}iI", seconds, 500_000_000) + bytes(40)
        )
        made.tracks(seconds * 10**9 + 500_000_000)
    made.close()
    assert [frame.image for frame in Recording(tmp_path / "run.mcap").frames] == [0, 1, 2, 3]


def test_images_that_no_server_answered_are_not_replayed(tmp_path: Path) -> None:
    made = Made(tmp_path / "outage.mcap")
    for stamp, hidden in enumerate([True, False, True, True, False, True]):
        made.image(stamp)
        made.tracks(stamp, tracked(), hidden=hidden)
        if stamp == 1:
            made.tracks(stamp, tracked(), again=True)
    made.close()
    assert [frame.stamp for frame in Recording(tmp_path / "outage.mcap").frames] == [1, 4]


def test_frames_whose_image_is_not_in_the_file_are_left_out(tmp_path: Path, capsys: Any) -> None:
    made = Made(tmp_path / "run.mcap")
    for stamp in range(4):
        if stamp != 2:
            made.image(stamp)
        made.tracks(stamp)
    made.close()
    assert [frame.stamp for frame in Recording(tmp_path / "run.mcap").frames] == [0, 1, 3]
    assert "1 frame left out, because no image could be assigned" in capsys.readouterr().err


def test_a_late_prompt_comes_after_the_frame_that_was_newest(tmp_path: Path) -> None:
    """Its age says which: by the order in the file, it would come two frames too early."""
    made = Made(tmp_path / "run.mcap")
    for number in range(3):
        made.image(number * 10**8)
    made.tracks(0)
    made.add(0, age=0.2)
    for number in (1, 2):
        made.tracks(number * 10**8)
    made.close()
    assert calls(Recording(tmp_path / "run.mcap")) == [0, 0, 1]


@pytest.mark.parametrize("age", [-0.5, 1e9, 1e30, math.nan])
def test_an_age_that_can_not_be_is_not_believed(age: float, tmp_path: Path) -> None:
    """The order in the file counts."""
    made = Made(tmp_path / "run.mcap")
    for number in range(3):
        made.image(number * 10**8)
    made.tracks(0)
    made.add(0, age=age)
    for number in (1, 2):
        made.tracks(number * 10**8)
    made.close()
    assert calls(Recording(tmp_path / "run.mcap")) == [1, 0, 0]


def test_a_call_counts_once_and_as_a_whole(tmp_path: Path) -> None:
    """Its client may tell it, too; a recording may begin or end in the middle of it; two clients may count alike."""
    asked, done = srv.Reset.Request(), srv.Reset.Response(success=True)
    made = Made(tmp_path / "run.mcap")
    made.image(0)
    made.tracks(0)
    made.call("Reset", None, done, 1)
    made.call("Reset", asked, done, 2)
    made.call("Reset", asked, done, 2, kinds=(0, 3))  # REQUEST_SENT, RESPONSE_RECEIVED
    made.call("Reset", None, done, 2)
    made.call("RemoveObject", srv.RemoveObject.Request(object_id="1"), None, 3)
    made.call("Reset", None, done, 3)
    made.call("RemoveObject", None, srv.RemoveObject.Response(success=True), 3)
    made.call("Reset", asked, None, 4)
    made.close()
    (frame,) = Recording(tmp_path / "run.mcap").frames
    assert [call.service for call in frame.calls] == ["Reset", "RemoveObject"]
    assert frame.calls[1].request.object_id == "1" and frame.calls[1].response.success


@pytest.mark.parametrize(("age", "after"), [(5.0, [0, 1, 0]), (4.999999999, [1, 0, 0])])
def test_the_age_of_a_prompt_is_exact(age: float, after: list[int], tmp_path: Path) -> None:
    """The next frame comes a nanosecond later."""
    made = Made(tmp_path / "run.mcap")
    for stamp in (0, 5 * 10**9, 5 * 10**9 + 1):
        made.image(stamp)
        made.tracks(stamp)
    made.add(0, age)
    made.close()
    assert calls(Recording(tmp_path / "run.mcap")) == after


def records(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Opcode and place of every record up to the end of the data."""
    place = 8
    while place < len(data):
        opcode, length = struct.unpack_from("<BQ", data, place)
        yield opcode, place
        if opcode == DATA_END:
            return
        place += 9 + length


def test_a_recording_is_read_to_where_it_is_cut(tmp_path: Path, capsys: Any) -> None:
    path = small_recording(tmp_path / "run.mcap", 20)
    data = path.read_bytes()
    begin, *_, end = (place for opcode, place in records(data) if opcode in (CHUNK, DATA_END))
    found: list[int] = []
    for tenths in range(5, 11):
        path.write_bytes(data[: begin + (end - begin) * tenths // 10])
        found.append(len(Recording(path).frames))
        assert f"only what comes before is used, {found[-1]} frame" in capsys.readouterr().err
    assert found == sorted(found) and 0 < found[0] < 20 and found[-1] == 20
    assert replayed(path, capsys)[0] == 0


def test_a_flipped_bit_ends_the_reading_there(tmp_path: Path, capsys: Any) -> None:
    path = small_recording(tmp_path / "run.mcap", 20)
    data = bytearray(path.read_bytes())
    last = [place for opcode, place in records(data) if opcode == CHUNK][-1]
    data[last + 100] ^= 1
    path.write_bytes(data)
    code, out, err = replayed(path, capsys)
    assert code == 0 and "the same" in out and "damaged or cut after" in err


@pytest.mark.parametrize("compression", list(CompressionType))
def test_a_chunk_is_unpacked_to_its_announced_size_only(compression: CompressionType, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    made = Made(path, compression=compression)
    made.write("/zeros", "sensor_msgs/msg/Image", bytes(50_000_000))
    made.close()
    file, data = McapFile(path), bytearray(path.read_bytes())
    assert [len(message.data) for message in file.messages()] == [50_000_000] and not file.damage
    size = next(place for opcode, place in records(data) if opcode == CHUNK) + 9 + 16
    for announced, reason in ((1000, "does not match its checksum"), (1 << 40, "a chunk of 1099511627776 bytes")):
        struct.pack_into("<Q", data, size, announced)
        path.write_bytes(data)
        assert [len(message.data) for message in file.messages()] == [] and reason in file.damage


def with_parameters(**values: object) -> dict[str, object]:
    return PARAMETERS_OF_NULL | {name.replace("__", "."): value for name, value in values.items()}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ([1], "its parameters can't be used: accepted: a JSON object"),
        (
            with_parameters(tracker__max_objects=10**9),
            "tracker.max_objects is 1000000000; accepted: 1 to",
        ),
        (with_parameters(tracker__max_objects="4"), 'tracker.max_objects is "4"; accepted'),
        (with_parameters(model__threads=-1), "model.threads is -1; accepted: 0 to 1024"),
        (with_parameters(model__dtype="float8"), 'model.dtype is "float8"'),
        (
            with_parameters(model__name="/tmp/x\x1b.pt"),
            r"model '/tmp/x\x1b.pt'; give it with --model if",
        ),
    ],
)
def test_what_a_file_chooses_is_checked(parameters: object, reason: str, tmp_path: Path, capsys: Any) -> None:
    made = Made(tmp_path / "run.mcap", parameters)
    made.image(0)
    made.tracks(0)
    made.close()
    code, _, err = replayed(tmp_path / "run.mcap", capsys)
    assert code == 2 and reason in err and "Traceback" not in err


def test_a_file_without_a_tracker_is_refused_and_its_damage_told(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "run.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2")
        writer.add_metadata("other", {"prefix": "/tracker"})
        writer.finish()
    code, _, err = replayed(path, capsys)
    assert code == 2 and err.rstrip().endswith("names no tracker; accepted: what 'sam2_ros record' wrote")
    path.write_bytes(small_recording(path).read_bytes()[:30])
    code, _, err = replayed(path, capsys)
    assert code == 2 and "wrote (damaged or cut after 0.0 of 0.0 MiB (" in err


def test_the_users_model_replaces_a_recorded_path(tmp_path: Path, capsys: Any) -> None:
    made = Made(tmp_path / "run.mcap", with_parameters(model__name="/somebody/elses.pt"))
    made.image(0)
    made.tracks(0)
    made.image(1)
    made.add(0)
    made.tracks(1, tracked())
    made.close()
    code, out, _ = replayed(tmp_path / "run.mcap", capsys, "--model", "null")
    assert code == 0 and out.startswith("1 of 1 mask ")


def test_a_recording_without_objects_is_no_difference(tmp_path: Path, capsys: Any) -> None:
    """For instance of a disk that was full before the first prompt."""
    made = Made(tmp_path / "run.mcap")
    for stamp in (0, 1):
        made.image(stamp)
        made.tracks(stamp, tracked())
    made.close()
    code, out, err = replayed(tmp_path / "run.mcap", capsys)
    assert (code, out) == (2, "") and "nothing to compare: in its 2 frames no object was tracked whose prompt" in err


def test_an_object_without_a_prompt_is_told_where_masks_differ(tmp_path: Path, capsys: Any) -> None:
    """It lived before the recorder, so that the replay lacks it."""
    made = Made(tmp_path / "run.mcap")
    made.image(0)
    older, other = tracked(1), tracked(2)
    other.mask.data[0] = 0
    made.tracks(0, older)
    made.image(1)
    made.add(0, object_id=2)
    made.tracks(1, older, other)
    made.close()
    code, out, _ = replayed(tmp_path / "run.mcap", capsys)
    assert code == 1 and "; 1 object without a recorded prompt left out, which may be why: start the recorder" in out


def crafted(**change: Any) -> Any:
    """An object with a mask that does not fit."""
    obj = tracked()
    for name, value in change.items():
        setattr(obj.mask, name, value)
    return obj


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (crafted(width=5), "holds 144 pixels in place of 60"),
        (crafted(x=WIDTH), "does not fit the image of 32 x 24 pixels"),
        (crafted(image_width=2**31, image_height=2**31), "does not fit the image of 32 x 24 pixels"),
        (run_lengths(2**32 - 1, 2**32 - 1), "holds 8589934590 pixels in place of 144"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(obj: Any, reason: str, tmp_path: Path, capsys: Any) -> None:
    made = Made(tmp_path / "run.mcap")
    made.image(0)
    made.tracks(0)
    made.add(0)
    made.image(1)
    made.tracks(1, obj)
    made.close()
    code, _, err = replayed(tmp_path / "run.mcap", capsys)
    assert code == 2 and reason in err


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("sensor_msgs/msg/CameraInfo", bytes(20), "/image holds no images"),
        ("sensor_msgs/msg/Image", bytes(20), "a message of /image can't be read"),
        ("sensor_msgs/msg/Image", bytes(3), "/image holds no images"),
        ("sensor_msgs/msg/CompressedImage", bytes(24), "frame 0 can't be replayed: compressed image"),
    ],
)
def test_images_that_are_none_are_refused(kind: str, data: bytes, reason: str, tmp_path: Path, capsys: Any) -> None:
    made = Made(tmp_path / "run.mcap")
    made.write("/image", kind, b"\0\1" + data[2:])
    made.tracks(0)
    made.close()
    code, _, err = replayed(tmp_path / "run.mcap", capsys)
    assert code == 2 and reason in err


def test_other_versions_and_lives_of_the_tracker(tmp_path: Path, capsys: Any) -> None:
    made = Made(tmp_path / "old.mcap")
    made.image(0)
    made.write("/tracker/tracks", "sam2_ros/msg/TrackedObjectArray", bytes(400), "std_msgs/Header header")
    made.close()
    code, _, err = replayed(tmp_path / "old.mcap", capsys)
    assert code == 2 and "/tracker/tracks was recorded by a version with other messages" in err
    made = Made(tmp_path / "restarted.mcap")
    for stamp in range(4):
        made.image(stamp)
        made.tracks(stamp, instance=1 + stamp // 2)
        made.call("Reset", srv.Reset.Request(), srv.Reset.Response(success=True), stamp)
    made.close()
    assert calls(Recording(tmp_path / "restarted.mcap")) == [1, 1]
    err = capsys.readouterr().err
    assert err.count("the tracker was started again; what comes after that is not replayed") == 1


def test_a_camera_that_comes_after_the_recorder_is_recorded_reliably(tmp_path: Path) -> None:
    """Best effort, which connects to every publisher, loses large images."""
    rclpy.init(context=(context := rclpy.Context()))
    node = rclpy.create_node("early_recorder", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    writer = RecordingWriter(node, tmp_path / "run.mcap", "/late", "/late/image", False, PARAMETERS_OF_NULL)
    publisher = node.create_publisher(Image, "/late/image", 10)

    def recorded_reliably() -> bool:
        executor.spin_once(0.1)
        offers = [each.qos_profile.reliability for each in node.get_subscriptions_info_by_topic("/late/image")]
        return offers == [ReliabilityPolicy.RELIABLE] and publisher.get_subscription_count() == 1

    wait_until(recorded_reliably, "a reliable subscription")
    publisher.publish(Image(width=2, height=1, step=2, encoding="mono8", data=bytes(2)))

    def recorded() -> bool:
        executor.spin_once(0.1)
        return writer.counts["/late/image"] == 1

    wait_until(recorded, "the image")
    writer.close()
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()


def test_an_hour_of_recording_takes_no_more_memory_than_a_minute(tmp_path: Path) -> None:
    """The library keeps an entry of the file's index for each image, until the file is closed."""
    rclpy.init(context=(context := rclpy.Context()))
    node = rclpy.create_node("recorder", context=context)
    writer = RecordingWriter(node, tmp_path / "run.mcap", "/tracker", "/image", False, PARAMETERS_OF_NULL)
    callback = next(each.callback for each in node.subscriptions if each.topic_name == "/image")
    image = serialize_message(Image(width=200, height=200, step=200, encoding="mono8", data=bytes(40_000)))
    tracemalloc.start()
    sizes = []
    for _ in range(3):
        for _ in range(1000):
            callback(image)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    writer.close()
    node.destroy_node()
    context.try_shutdown()
    assert sizes[2] - sizes[0] < 100_000, "50 bytes for each image"
    assert [path.name for path in tmp_path.iterdir()] == ["run.mcap"]
    with (tmp_path / "run.mcap").open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        assert len(summary.chunk_indexes) == summary.statistics.chunk_count >= 3000
        middle = summary.chunk_indexes[1500].message_start_time
        later = [message.log_time for _, _, message in reader.iter_messages(starting_at=middle)]
        assert len(later) == 1500 and min(later) == middle, "a reader goes there by the index"
