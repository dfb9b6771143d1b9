"""The file in which objects outlive the process: what comes back, what is refused, how often it is written."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from std_msgs.msg import Header

from sam2_ros.inference import NullBackend
from sam2_ros.inference.frames import Counters, Frame, Processed
from sam2_ros.inference.recovery import SavedObjects, Sighting
from sam2_ros.inference.worker import Worker
from sam2_ros.ros import state_file
from sam2_ros.ros.image_requests import ImageRequest
from sam2_ros.ros.state_file import State, StateError, StateWriter, read_state
from sam2_ros.ros.state_keeper import StateKeeper, newest_of, state_path
from sam2_ros.srv import SegmentImage
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult, ObjectState, PromptError

PATIENCE = 60.0  # s
LATEST = 2**31 * 10**9 - 1  # ns, the last stamp that a message holds
WIDTH, HEIGHT = 64, 48
NO_MASK: Any = None  # arrays have no ==


def mask(x: int) -> CroppedMask:
    full = np.zeros((HEIGHT, WIDTH), np.bool_)
    full[10:20, x : x + 7] = True
    full[12, x + 2] = False
    return CroppedMask.from_full(full)


def picture(seed: int) -> np.ndarray:
    """Smooth, so that JPEG changes little."""
    return np.full((HEIGHT, WIDTH, 3), (20 * seed, 200, 90), np.uint8)


def tracked(object_id: int, state: ObjectState = ObjectState.VISIBLE, name: str = "") -> ObjectResult:
    shown = mask(object_id) if state is ObjectState.VISIBLE else CroppedMask.empty(WIDTH, HEIGHT)
    return ObjectResult(
        object_id, shown, state, 3.5, 0.75, 0.5, False, name, "dish", 0.25, first_seen=5, last_seen=7,
        frames_since_seen=1, frames_tracked=9,
    )  # fmt: skip


def a_state() -> State:
    """Two objects in sight, one that hid on an older frame, one that was never seen."""
    objects = (
        tracked(1, name="cup"), tracked(2, ObjectState.OCCLUDED), tracked(4, name="bowl"), tracked(7, ObjectState.LOST),
    )  # fmt: skip
    newest, older = picture(3), picture(1)
    sightings = {
        1: Sighting(newest, 9, mask(1)), 2: Sighting(older, 4, mask(2)), 4: Sighting(newest, 9, mask(4)),
    }  # fmt: skip
    return State(SavedObjects(FrameResult(3, 9, WIDTH, HEIGHT, objects), sightings, 8), "camera")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    file, state = tmp_path / "folder" / "state", a_state()
    StateWriter(file).write(state)
    found = read_state(file)
    assert found is not None and (found.frame_id, found.saved.next_id) == ("camera", 8)
    newest = found.saved.newest
    assert (newest.frame_index, newest.stamp, newest.width, newest.height) == (0, 9, WIDTH, HEIGHT)
    for obj, before in zip(newest.objects, state.saved.newest.objects, strict=True):
        assert obj.mask.area == 0
        assert replace(obj, mask=NO_MASK) == replace(before, mask=NO_MASK)
    assert found.saved.sightings.keys() == {1, 2, 4}
    for object_id, sighting in found.saved.sightings.items():
        before_sighting = state.saved.sightings[object_id]
        assert sighting.stamp == before_sighting.stamp
        np.testing.assert_array_equal(sighting.mask.full(), before_sighting.mask.full())
        np.testing.assert_allclose(sighting.frame, before_sighting.frame, atol=3)
    assert found.saved.sightings[1].frame is found.saved.sightings[4].frame, "a frame is stored once"
    assert file.stat().st_mode & 0o777 == 0o600 and [each.name for each in file.parent.iterdir()] == ["state"]
    assert read_state(tmp_path / "none") is None


def test_where_there_is_no_room_the_oldest_frames_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "MOST_BYTES", 2 * len(state_file._encoded(picture(3))[1]) + 10)
    StateWriter(tmp_path / "state").write(a_state())
    monkeypatch.undo()
    found = read_state(tmp_path / "state")
    assert found is not None and found.saved.sightings.keys() == {1, 4}
    assert [obj.object_id for obj in found.saved.newest.objects] == [1, 2, 4, 7]


@pytest.mark.parametrize("limit", ["_MOST_PIXELS", "MOST_BYTES"])
def test_what_is_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Frames of few bytes, and masks of many."""
    full = CroppedMask.from_full(np.ones((HEIGHT, WIDTH), np.bool_))
    state = a_state()
    sightings = {key: replace(each, mask=full) for key, each in state.saved.sightings.items()}
    jpeg = len(state_file._encoded(picture(3))[1])
    # Room for one picture, or for one and one mask. A quarter is for the rest.
    most = {"_MOST_PIXELS": WIDTH * HEIGHT, "MOST_BYTES": 4 * (jpeg + WIDTH * HEIGHT // 8 + 100) // 3}
    monkeypatch.setattr(state_file, limit, most[limit])
    StateWriter(tmp_path / "state").write(replace(state, saved=replace(state.saved, sightings=sightings)))
    if limit == "MOST_BYTES":
        monkeypatch.undo()  # the names of four objects need more than a quarter of so little
    found = read_state(tmp_path / "state")
    assert found is not None and len(found.saved.newest.objects) == 4
    assert found.saved.sightings.keys() == ({1, 4} if limit == "_MOST_PIXELS" else {1})


def test_as_many_masks_are_kept_as_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit for each pixel. Two objects share the newest picture."""
    full = CroppedMask.from_full(np.ones((HEIGHT, WIDTH), np.bool_))
    state = a_state()
    state = replace(state, saved=replace(state.saved, sightings={
        key: replace(each, mask=full) for key, each in state.saved.sightings.items()
    }))  # fmt: skip
    needed = len(state_file._encoded(picture(3))[1]) + 2 * (WIDTH * HEIGHT // 8 + 1)
    for room, kept in ((needed, {1, 4}), (needed - 1, {1})):
        most = next(most for most in range(room, 2 * room) if 3 * most // 4 == room)
        with monkeypatch.context() as patch:
            patch.setattr(state_file, "MOST_BYTES", most)
            StateWriter(tmp_path / "state").write(state)
        found = read_state(tmp_path / "state")
        assert found is not None and found.saved.sightings.keys() == kept
        (tmp_path / "state").unlink()


def test_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "some" / "folder" / "state"
    StateWriter(file).write(a_state())
    assert read_state(file) is not None and file.parent.stat().st_mode & 0o777 == 0o700


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state"
    StateWriter(file).write(a_state())
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        StateWriter(file).write(replace(a_state(), frame_id="other"))
    assert file.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["state"]


def test_two_nodes_do_not_write_one_file(tmp_path: Path) -> None:
    """The first to write goes on; the other one is refused, with what to do."""
    one, other = StateWriter(tmp_path / "state"), StateWriter(tmp_path / "state")
    one.write(a_state())
    with pytest.raises(OSError, match="another process writes it too; give each node a state_file of its own"):
        other.write(replace(a_state(), frame_id="right"))
    one.write(replace(a_state(), frame_id="left"))
    found = read_state(tmp_path / "state")
    assert found is not None and found.frame_id == "left"
    (tmp_path / "state").unlink()
    one.write(a_state())
    StateWriter(tmp_path / "state").write(replace(a_state(), frame_id="next process"))


def change(**fields: Any) -> Callable[[dict], None]:
    return lambda state: state.update(fields)


def change_object(**fields: Any) -> Callable[[dict], None]:
    return lambda state: state["objects"][0]["now"].update(fields)


def change_mask(**fields: Any) -> Callable[[dict], None]:
    return lambda state: state["objects"][0]["mask"].update(fields)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (change(next_id=0), "the next id is 0"),
        (change(next_id=2**32), "the next id is 4294967296"),
        (change(next_id=7), "ids are wrong"),
        (change(objects=[]), "don't belong together"),
        (change(frame_id="a\nb"), "the frame id holds the character U+000A"),
        (change(width=0), "the image's size is wrong"),
        (change(height=0), "the image's size is wrong"),
        (change(width=1 << 16), "the image's size is wrong"),
        (change(height=(1 << 16) + 1), "the image's size is wrong"),
        (change(stamp=LATEST + 1), "a stamp is out of range"),
        (change_object(first_seen=-LATEST - 1), "a stamp is out of range"),
        (change_object(frames_since_seen=2**32), "a counter is wrong"),
        (change_mask(x=WIDTH - 6), "a mask lies outside its picture"),
        (change_mask(y=HEIGHT - 9), "a mask lies outside its picture"),
        (change(stamp="now"), "_State.stamp is str; accepted: int"),
        (change(colour=1), "unknown field 'colour'"),
        (change(pictures=[]), "don't belong together"),
        (lambda state: state["pictures"][0].update(jpeg=b"no picture"), "neither JPEG nor PNG"),
        (lambda state: state["objects"].append(state["objects"][0]), "ids are wrong"),
        (lambda state: state["objects"][0].update(picture=5), "don't belong together"),
        (change_object(name="bowl"), "two objects have one name"),
        (change_object(name="a\nb"), "U+000A"),
        (change_object(label="x" * 300), "300 characters"),
        (change_object(visibility=float("nan")), "a number is not finite"),
        (change_object(state=9), "accepted: [1, 2, 3]"),
        (change_object(frames_tracked=-1), "a counter is wrong"),
        (change_mask(x=60), "a mask lies outside its picture"),
        (change_mask(y=-1), "a mask lies outside its picture"),
        (change_mask(width=1 << 40), "a mask and its picture differ in size"),
        (change_mask(crop=["uint8", [2, 2], b"abcd"]), "a mask is no mask"),
        (change_mask(crop=["bool", [0, 0], b""]), "a mask is no mask"),
        (change_mask(crop=["bool", [1 << 28, 1 << 28], b""]), "without its"),
    ],
)
def test_every_value_of_the_file_is_checked(tmp_path: Path, wrong: Callable[[dict], None], why: str) -> None:
    with pytest.raises(StateError) as refused:
        read_state(written_with(wrong, tmp_path / "state"))
    assert why in str(refused.value) and "\n" not in str(refused.value)


def written_with(difference: Callable[[dict], None], file: Path) -> Path:
    """A file with a right checksum around something else."""
    StateWriter(file).write(a_state())
    state = msgpack.unpackb(file.read_bytes()[len(state_file._MAGIC + state_file._VERSION) + 32 :])
    difference(state)
    body = msgpack.packb(state)
    file.write_bytes(state_file._MAGIC + state_file._VERSION + hashlib.sha256(body).digest() + body)
    return file


@pytest.mark.parametrize(
    "odd",
    [
        change(next_id=2**32 - 1),
        change(stamp=LATEST),
        change(stamp=-LATEST),
        change(frame_id=""),
        change(width=(1 << 16) - 1, height=(1 << 16) - 1),
        change(width=1, height=1),
        lambda state: state["pictures"][0].update(stamp=LATEST),
        change_object(first_seen=-LATEST, last_seen=LATEST),
        change_object(frames_tracked=2**32 - 1, frames_since_seen=2**32 - 1),
        change_object(frames_tracked=0, frames_since_seen=0),
        change_object(name="", label=""),
        change_mask(x=0, y=0),
        change_mask(x=WIDTH - 7, y=HEIGHT - 10),
    ],
)
def test_what_may_be_comes_back(tmp_path: Path, odd: Callable[[dict], None]) -> None:
    found = read_state(written_with(odd, tmp_path / "state"))
    assert found is not None and found.saved.sightings.keys() == {1, 2, 4}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def older(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"state 1\n", b"state 0\n", 1))


def huge(file: Path) -> None:
    os.truncate(file, state_file.MOST_BYTES + 1)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut, "damaged"), (flip, "damaged"), (older, "version b'0"), (huge, "accepted: up to"),
        (pipe, "no regular file"), (lambda file: file.write_bytes(b""), "no state file"),
        (lambda file: file.write_text("id: 1"), "no state file"),
    ],
)  # fmt: skip
def test_a_file_that_cant_be_used_is_set_aside_with_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    file = tmp_path / "state"
    StateWriter(file).write(a_state())
    spoil(file)
    told: list[str] = []
    assert StateKeeper(file, lambda *_: None).load(told.append) is None
    assert len(told) == 1 and why in told[0] and "\n" not in told[0] and f"it is {file}.refused now" in told[0]
    assert [each.name for each in tmp_path.iterdir()] == ["state.refused"]


def processed(*objects: ObjectResult, stamp: int = 9) -> Processed:
    frame = Frame(stamp, lambda: picture(3), 0, Header(frame_id="camera"))
    return Processed(frame, picture(3), FrameResult(0, stamp, WIDTH, HEIGHT, objects), 0, 0, Counters())


class Written:
    """What a keeper's thread writes, in place of a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[State] = []
        self._heard = threading.Condition()
        monkeypatch.setattr(StateWriter, "write", self._write)

    def _write(self, state: State) -> None:
        with self._heard:
            self.states.append(state)
            self._heard.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._heard:
            assert self._heard.wait_for(condition, PATIENCE)


def names(state: State) -> list[str]:
    return [obj.name for obj in state.saved.newest.objects]


def test_a_command_is_written_soon_and_frames_at_a_bounded_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The period is an hour here: only what changes the objects' names, labels or ids is written before."""
    monkeypatch.setattr("sam2_ros.ros.state_keeper._PERIOD", 3600.0)
    written = Written(monkeypatch)
    keeper = StateKeeper(tmp_path / "state", lambda *_: None)
    assert keeper.load(pytest.fail) is None
    keeper.start()
    keeper.note(processed(), 1)
    written.wait(lambda: len(written.states) == 1)
    for stamp in range(100):
        keeper.note(processed(stamp=stamp), 1)
    keeper.note(processed(tracked(1, name="cup")), 2)
    written.wait(lambda: names(written.states[-1]) == ["cup"])
    assert len(written.states) == 2, "a hundred frames without a command were not written"
    assert written.states[-1].saved.sightings.keys() == {1}
    keeper.note(processed(tracked(1, name="mug")), 2)
    written.wait(lambda: names(written.states[-1]) == ["mug"])
    keeper.note(processed(tracked(1, ObjectState.OCCLUDED, name="mug"), stamp=20), 2)
    keeper.close(forget=False, next_id=2)
    last = written.states[-1].saved
    assert last.newest.stamp == 20 and last.sightings[1].stamp == 9, "the last good frame of a hidden object is kept"


def test_a_cleanup_forgets_the_objects_and_keeps_the_ids(tmp_path: Path) -> None:
    """Also those of an earlier process, before the first frame of this one."""
    StateWriter(tmp_path / "state").write(a_state())
    keeper = StateKeeper(tmp_path / "state", lambda *_: None)
    assert keeper.load(pytest.fail) is not None
    keeper.start()
    keeper.close(forget=True, next_id=8)
    found = read_state(tmp_path / "state")
    assert found is not None and found.saved.next_id == 8 and not found.saved.newest.objects


def test_a_file_that_cant_be_written_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam2_ros.ros.state_keeper._PERIOD", 0.1)
    reported = threading.Event()
    failures: list[Exception] = []

    def report(error: Exception) -> None:
        failures.append(error)
        reported.set()

    (tmp_path / "folder").write_text("in the way")
    keeper = StateKeeper(tmp_path / "folder" / "state", report)
    keeper.start()
    keeper.note(processed(), 1)
    assert reported.wait(PATIENCE)
    assert isinstance(failures[0], OSError)
    (tmp_path / "folder").unlink()
    keeper.note(processed(tracked(1)), 2)
    keeper.close(forget=False, next_id=2)
    found = read_state(tmp_path / "folder" / "state")
    assert found is not None and found.saved.next_id == 2


def test_each_camera_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert state_path("", "left") is None
    assert state_path("/run/state", "") == Path("/run/state")
    assert state_path("/run/state", "left") == Path("/run/state.left")
    assert state_path("/run/{camera}/state", "left") == Path("/run/left/state")
    with pytest.raises(ValueError, match="is a folder; accepted: the path of a file"):
        state_path(str(tmp_path), "")


def test_the_pixels_of_an_earlier_process_are_no_image_to_segment() -> None:
    listener: Any = None
    worker = Worker(NullBackend, listener, last=newest_of(a_state()))
    with pytest.raises(PromptError, match="the camera has sent none"):
        ImageRequest(SegmentImage.Request(everything=True), worker)
