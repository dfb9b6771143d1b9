"""Sends a frame's pixels to the server: raw or JPEG in the message, or in shared memory.

Shared memory is an anonymous file (``memfd_create``) of sealed size. The server opens it through ``/proc``: no file is
left behind, and a client can't truncate it while the server reads. It begins with the proof, random bytes that the
server sent to this stream alone: so a client can name no memory but its own.
"""

from __future__ import annotations

import fcntl
import hmac
import mmap
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_ros.media.picture_decoder import PictureError, decode_picture, read_header
from sam2_ros.remote import protocol
from sam2_ros.remote.protocol import ProtocolError

MODES = ("auto", "raw", "jpeg", "shm")
MAX_SIDE = 1 << 15  # pixels
PROOF_BYTES = 16
_SLOTS = 2  # the server may still read the previous frame
_MEMFD_NAME = "sam2_ros_pixels"
# fcntl has names for them on Linux only.
_F_ADD_SEALS, _F_GET_SEALS, _F_SEAL_SHRINK = 1033, 1034, 0x0002


class PixelWriter:
    """The client's side; ``mode`` is "raw", "jpeg" or "shm", ``quality`` (1 to 100) is for JPEG, ``proof`` (from the
    server's answer to the hello) for shared memory."""

    def __init__(self, mode: str, quality: int = 90, proof: bytes = b"") -> None:
        self._mode = mode
        self._quality = quality
        self._proof = proof
        self._memory: mmap.mmap | None = None
        self._fd = -1
        self._slot_bytes = 0
        self._slot = 0

    def write(self, frame: NDArray[np.uint8]) -> tuple[dict[str, Any], Any]:
        """The description of ``frame`` (RGB ``uint8 [H, W, 3]``) for the header, and the pixels or None.

        "raw" does not copy the frame, which must not change before the answer has come.
        """
        height, width = frame.shape[:2]
        about = {"height": height, "width": width, "encoding": self._mode}
        if self._mode == "jpeg":
            import cv2

            quality = [cv2.IMWRITE_JPEG_QUALITY, self._quality]
            done, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), quality)
            if not done:
                raise ValueError(f"a frame of {width} x {height} pixels can't be written as JPEG; use raw pixels")
            return about, data.tobytes()
        if self._mode == "shm":
            memory = self._reserve(frame.nbytes)
            self._slot = (self._slot + 1) % _SLOTS
            offset = mmap.PAGESIZE + self._slot * self._slot_bytes
            np.frombuffer(memory, np.uint8, frame.nbytes, offset).reshape(frame.shape)[:] = frame
            return about | {"pid": os.getpid(), "fd": self._fd, "offset": offset}, None
        return about, np.ascontiguousarray(frame).data

    def _reserve(self, size: int) -> mmap.mmap:
        if self._memory is not None and size <= self._slot_bytes:
            return self._memory
        self.close()
        self._slot_bytes = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._fd = os.memfd_create(_MEMFD_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        size = mmap.PAGESIZE + self._slot_bytes * _SLOTS
        os.ftruncate(self._fd, size)
        fcntl.fcntl(self._fd, _F_ADD_SEALS, _F_SEAL_SHRINK)
        self._memory = mmap.mmap(self._fd, size)
        self._memory[: len(self._proof)] = self._proof
        return self._memory

    def close(self) -> None:
        self._memory = None  # unmapped once no array looks into it any more
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._slot_bytes = -1, 0


def choose_writer(mode: str, quality: int, proof: bytes, trial: Callable[[dict[str, Any]], object]) -> PixelWriter:
    """The client's side for a server that sent ``proof`` (empty: it offers no shared memory); "auto" takes shared
    memory where it works, else raw.

    ``trial`` asks the server to read one pixel, and raises ``RuntimeError`` where it can't.
    """
    if mode != "auto":
        return PixelWriter(mode, quality, proof)
    if proof:
        writer = PixelWriter("shm", quality, proof)
        try:
            trial({"frame": writer.write(np.zeros((1, 1, 3), np.uint8))[0]})
            return writer
        except (RuntimeError, OSError):  # another user or container, or no memfd here
            writer.close()
    return PixelWriter("raw", quality)


class PixelReader:
    """The server's side, one per stream; with an empty ``proof`` it reads no shared memory."""

    def __init__(self, max_bytes: int, proof: bytes = b"") -> None:
        self._max_bytes = max_bytes
        self._proof = proof
        self._memory: mmap.mmap | None = None
        self._file: tuple[int, int, int] | None = None  # pid, fd, inode

    def read(self, about: Mapping[str, Any], part: memoryview | None) -> NDArray[np.uint8]:
        """The frame, RGB ``uint8 [H, W, 3]``; does not copy raw pixels.

        Raises:
            ProtocolError: MALFORMED or TOO_LARGE.
        """
        height, width = (protocol.integer(about, key, 1, MAX_SIDE) for key in ("height", "width"))
        size, encoding = height * width * 3, about.get("encoding")
        if size > self._max_bytes:
            reason = f"a frame of {width} x {height} has {size} bytes; accepted: {self._max_bytes}"
            raise ProtocolError(reason, protocol.TOO_LARGE)
        if encoding == "shm":
            return np.frombuffer(self._shared(about, size), np.uint8, size, about["offset"]).reshape(height, width, 3)
        if part is None:
            raise ProtocolError(f"encoding {encoding!r} needs the pixels as the third part of the message")
        if encoding == "jpeg":
            return _decode_jpeg(part, height, width)
        if encoding != "raw":
            raise ProtocolError(f"encoding is {str(encoding)[:40]!r}; accepted: raw, jpeg, shm")
        if len(part) != size:
            raise ProtocolError(f"the pixels have {len(part)} bytes; {width} x {height} in RGB need {size}")
        return np.frombuffer(part, np.uint8).reshape(height, width, 3)

    def _shared(self, about: Mapping[str, Any], size: int) -> mmap.mmap:
        pid, fd = protocol.integer(about, "pid", 1, 1 << 30), protocol.integer(about, "fd", 0, 1 << 20)
        if not self._proof:
            raise ProtocolError("shared memory is for clients on the server's machine; send raw pixels instead")
        path = f"/proc/{pid}/fd/{fd}"
        try:
            file = (pid, fd, os.stat(path).st_ino)
            if self._memory is None or self._file != file:
                self._memory, self._file = _map_sealed(path, self._max_bytes * _SLOTS, self._proof), file
        except (OSError, ValueError) as error:  # not told: it would say which processes and files there are
            raise ProtocolError(
                f"the shared memory {path} can't be used: it must be a sealed memfd that begins with this stream's "
                "proof, of the same machine, user and process namespace; send raw pixels instead"
            ) from error
        protocol.integer(about, "offset", 0, max(0, len(self._memory) - size))
        if size > len(self._memory):
            raise ProtocolError(f"the shared memory has {len(self._memory)} bytes; the frame needs {size}")
        return self._memory

    def close(self) -> None:
        self._memory = self._file = None


def _map_sealed(path: str, max_bytes: int, proof: bytes) -> mmap.mmap:
    """Maps memory that the client of this stream made for it, and no other file that any process has open."""
    if not os.readlink(path).startswith(f"/memfd:{_MEMFD_NAME}"):
        raise ValueError("not a client's memory")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not fcntl.fcntl(fd, _F_GET_SEALS) & _F_SEAL_SHRINK:
            raise ValueError("its size is not sealed")
        size = os.fstat(fd).st_size
        if not mmap.PAGESIZE <= size <= max_bytes + (1 + _SLOTS) * mmap.PAGESIZE:
            raise ValueError(f"it has {size} bytes; accepted: up to {max_bytes}")
        memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        if not hmac.compare_digest(memory[: len(proof)], proof):
            raise ValueError("it is not this client's")
        return memory
    finally:
        os.close(fd)


def _decode_jpeg(part: memoryview, height: int, width: int) -> NDArray[np.uint8]:
    data = bytes(part)
    try:
        header = read_header(data)
        if header != ("JPEG", width, height):
            found = f"{header.kind}, {header.width} x {header.height}"
            raise ProtocolError(f"the pixels are {found}; the header says JPEG, {width} x {height}")
        return decode_picture(data, max_pixels=width * height)
    except PictureError as error:
        raise ProtocolError(f"the pixels are no JPEG picture: {error}") from error
