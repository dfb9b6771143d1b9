"""The file in which the objects of one camera outlive the node's process.

It begins with ``sam2_ros state``, the version and a SHA-256 of the rest: a msgpack map (:class:`_State`). Frames are
JPEG. It is written to a temporary name and moved into place, so that a reader finds the old or the new one.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import msgpack
import numpy as np
from numpy.typing import NDArray

from sam2_ros.inference.recovery import SavedObjects, Sighting
from sam2_ros.media.picture_decoder import decode_picture, read_header
from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.tracking.prompt_checks import MAX_PROMPTS, check_names, text_problem
from sam2_ros.tracking.types import CroppedMask, FrameResult, ObjectResult

_MAGIC, _VERSION = b"sam2_ros state ", b"1\n"
_HASH_BYTES = hashlib.sha256().digest_size
MOST_BYTES = 64 << 20
_MOST_ID = 2**32 - 1  # ids are uint32 in messages
_MOST_STAMP = 2**31 * 10**9  # ns: seconds are int32 in messages
_MOST_PIXELS = 1 << 28  # of all pictures
_QUALITY = 95  # of JPEG


class StateError(ValueError):
    """A state file that can't be used; ``str(error)`` says why."""


@dataclass(frozen=True)
class State:
    """What the file holds."""

    saved: SavedObjects
    frame_id: str  # of the newest image


@dataclass(frozen=True)
class _Picture:
    stamp: int  # ns
    jpeg: bytes


@dataclass(frozen=True)
class _Object:
    now: ObjectResult  # without its mask
    mask: CroppedMask  # on the picture
    picture: int  # index; -1 = the object was never seen


@dataclass(frozen=True)
class _State:
    next_id: int
    frame_id: str
    stamp: int  # ns, of the newest image
    width: int  # pixels
    height: int
    pictures: list[_Picture]
    objects: list[_Object]


class StateWriter:
    """Writes states to one file, as long as nobody else does; encodes every frame once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = _digest_of(path)  # as it was read, or written last
        self._jpegs: dict[int, tuple[NDArray[np.uint8], bytes]] = {}  # by the id() of the frame, which they hold

    def write(self, state: State) -> None:
        """
        Raises:
            OSError: the file can't be written, or another process writes it too.
        """
        if _digest_of(self._path) not in (b"", self._digest):
            raise OSError("another process writes it too; give each node a state_file of its own")
        newest, sightings = state.saved.newest, state.saved.sightings
        kept = [sighting for obj in newest.objects if (sighting := sightings.get(obj.object_id))]
        frames = {id(sighting.frame): sighting for sighting in sorted(kept, key=lambda each: -each.stamp)}
        self._jpegs = {key: self._jpegs.get(key) or _encoded(each.frame) for key, each in frames.items()}
        places: dict[int, int] = {}  # in the list of pictures, by the id() of the frame
        seen: dict[int, tuple[CroppedMask, int]] = {}  # mask and place by object id
        bytes_left, pixels_left = 3 * MOST_BYTES // 4, _MOST_PIXELS  # a quarter is for names and numbers
        for object_id, sighting in sorted(sightings.items(), key=lambda item: -item[1].stamp):
            key = id(sighting.frame)
            if key not in frames:
                continue
            frame, jpeg = self._jpegs[key]
            size, pixels = (0, 0) if key in places else (len(jpeg), frame.shape[0] * frame.shape[1])
            size += sighting.mask.crop.size // 8 + 1  # a bit a pixel
            if size <= bytes_left and pixels <= pixels_left:  # else the oldest are left out
                bytes_left, pixels_left = bytes_left - size, pixels_left - pixels
                seen[object_id] = sighting.mask, places.setdefault(key, len(places))
        nothing = CroppedMask.empty(newest.width, newest.height)
        objects = [
            _Object(replace(obj, mask=nothing), *seen.get(obj.object_id, (nothing, -1))) for obj in newest.objects
        ]
        pictures = [_Picture(frames[key].stamp, self._jpegs[key][1]) for key in places]
        about = (state.saved.next_id, state.frame_id, newest.stamp, newest.width, newest.height)
        body = msgpack.packb(to_wire(_State(*about, pictures, objects)))
        digest = hashlib.sha256(body).digest()
        _replace_file(self._path, _MAGIC + _VERSION + digest, body)
        self._digest = digest


def read_state(path: Path) -> State | None:
    """What the file holds; None where there is no file.

    Raises:
        StateError: it is damaged, foreign, too large or of another version.
        OSError: it can't be read.
    """
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(about.st_mode):
        raise StateError("it is no regular file")
    if about.st_size > MOST_BYTES:
        raise StateError(f"it has {about.st_size} bytes; accepted: up to {MOST_BYTES}")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES)
    if not data.startswith(_MAGIC):
        raise StateError("it is no state file of sam2_ros")
    data = data[len(_MAGIC) :]
    if not data.startswith(_VERSION):
        raise StateError(f"it is of version {data[:8]!r}; accepted: {_VERSION!r}")
    digest, body = data[len(_VERSION) :][:_HASH_BYTES], data[len(_VERSION) + _HASH_BYTES :]
    if hashlib.sha256(body).digest() != digest:
        raise StateError("it is damaged: the checksum is another")
    try:
        return _checked(from_wire(_State, msgpack.unpackb(body)))
    except StateError:
        raise
    except Exception as error:  # msgpack's own classes, RecursionError, an image that can't be decoded
        raise StateError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _checked(state: _State) -> State:
    _check(1 <= state.next_id <= _MOST_ID, f"the next id is {state.next_id}")
    _check(len(state.objects) <= MAX_PROMPTS, f"it holds {len(state.objects)} objects")
    if problem := text_problem(state.frame_id):
        raise StateError(f"the frame id {problem}")
    _check(0 < state.width < 1 << 16 and 0 < state.height < 1 << 16, "the image's size is wrong")
    _check_stamps([state.stamp, *(picture.stamp for picture in state.pictures)])
    ids = [obj.now.object_id for obj in state.objects]
    _check(ids == sorted(set(ids)) and all(0 < each < state.next_id for each in ids), "ids are wrong or not in order")
    names = [obj.now.name for obj in state.objects if obj.now.name]
    _check(len(set(names)) == len(names), "two objects have one name")
    used = {obj.picture for obj in state.objects} - {-1}
    _check(used == set(range(len(state.pictures))), "objects and pictures don't belong together")
    headers = [read_header(picture.jpeg) for picture in state.pictures]
    _check(sum(header.width * header.height for header in headers) <= _MOST_PIXELS, "the pictures are too large")
    frames = [decode_picture(picture.jpeg) for picture in state.pictures]
    sightings: dict[int, Sighting] = {}
    nothing = CroppedMask.empty(state.width, state.height)
    for obj in state.objects:
        now = obj.now
        check_names(now.name, now.label, now.label_score)
        numbers = [getattr(now, field.name) for field in fields(now) if isinstance(getattr(now, field.name), float)]
        _check(all(math.isfinite(number) for number in numbers), "a number is not finite")
        _check_stamps([now.first_seen, now.last_seen])
        _check(0 <= now.frames_since_seen <= _MOST_ID and 0 <= now.frames_tracked <= _MOST_ID, "a counter is wrong")
        if obj.picture >= 0:
            _check_mask(obj.mask, frames[obj.picture])
            sightings[now.object_id] = Sighting(frames[obj.picture], state.pictures[obj.picture].stamp, obj.mask)
    objects = tuple(replace(obj.now, mask=nothing) for obj in state.objects)
    newest = FrameResult(0, state.stamp, state.width, state.height, objects)
    return State(SavedObjects(newest, sightings, state.next_id), state.frame_id)


def _check(fine: bool, problem: str) -> None:
    if not fine:
        raise StateError(problem)


def _check_stamps(stamps: Iterable[int]) -> None:
    _check(all(abs(stamp) < _MOST_STAMP for stamp in stamps), "a stamp is out of range")


def _check_mask(mask: CroppedMask, frame: NDArray[np.uint8]) -> None:
    _check(mask.crop.dtype == np.bool_ and mask.crop.ndim == 2 and mask.crop.size > 0, "a mask is no mask")
    _check((mask.height, mask.width) == frame.shape[:2], "a mask and its picture differ in size")
    height, width = mask.crop.shape
    inside = 0 <= mask.x <= mask.width - width and 0 <= mask.y <= mask.height - height
    _check(inside, "a mask lies outside its picture")


def _encoded(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bytes]:
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise OSError("the frame can't be encoded")
    return frame, jpeg.tobytes()


def _digest_of(path: Path) -> bytes:
    """The checksum that a state file begins with; empty without a file."""
    begin = len(_MAGIC + _VERSION)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(begin + _HASH_BYTES)[begin:]
    except OSError:  # reported where it is written
        return b""


def _replace_file(path: Path, begin: bytes, body: bytes) -> None:
    """Writes the file as a whole, readable for its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(begin)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
