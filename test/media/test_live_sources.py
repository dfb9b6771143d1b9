"""Addresses as sources: a camera's stream and a video file behind a local HTTP server. V4L2 devices are not tested."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_ros.media import live_source
from sam2_ros.media.errors import UserError
from sam2_ros.media.frame_sources import VideoFile, open_source

PICTURES = 30


@contextmanager
def served(video: bytes = b"") -> Iterator[str]:
    """The address of an HTTP server: ``/live`` sends motion JPEG, ``/stall`` stops sending, ``/video`` is a file."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if self.path == "/video":
                self.send_header("Content-Length", str(len(video)))
                self.end_headers()
                self.wfile.write(video)
                return
            self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
            self.end_headers()
            for number in range(PICTURES):
                picture = np.full((48, 64, 3), 8 * number, np.uint8)
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            if self.path == "/stall":
                ended.wait()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://user:secret@127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("path", ["/live", "/stall"])
def test_a_live_stream_that_ends_or_stalls_is_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 60_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 2000)
    monkeypatch.setattr(live_source, "_LIMITS", limits)
    frames = []
    with served() as address:
        source = open_source(address + path)
        assert source.length is None
        with pytest.raises(
            UserError, match=r"^http://127\.0\.0\.1:\d+/.* stopped delivering after \d+ frames"
        ) as caught:
            for frame in source:
                frames.append(frame)
    assert "secret" not in str(caught.value)
    assert len(frames) >= PICTURES - 1  # the parser may wait for the end of the last one
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert [round(frame.rgb.mean() / 8) for frame in frames] == list(range(len(frames)))
    assert all(before.stamp <= after.stamp for before, after in pairwise(frames))


def test_a_video_behind_an_address_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    with served(path.read_bytes()) as address:
        source = open_source(address + "/video")
        assert isinstance(source, VideoFile) and source.length == 5
        assert [(frame.index, frame.stamp) for frame in source] == [(n, n * 100_000_000) for n in range(5)]


def test_what_can_not_be_opened_is_told_without_the_password() -> None:
    with pytest.raises(UserError, match=r"^rtsp://127\.0\.0\.1:9/x can't be opened, or did not answer"):
        open_source("rtsp://user:secret@127.0.0.1:9/x")
    with pytest.raises(UserError, match=r"camera /dev/null can't be opened; accepted: the number"):
        open_source("/dev/null")
