"""Downloads against a real HTTP server on this machine: resume, truncation, wrong content, refusal, no connection."""

import contextlib
import hashlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sam2_ros.cli.main import main
from sam2_ros.model import download as core
from sam2_ros.model.download import Checkpoint, DownloadError, checkpoint_path, download

CONTENT = bytes(range(256)) * 9001  # more than two chunks
CHECKPOINT = Checkpoint("sam2.1_hiera_tiny.pt", "092824", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
URL_PATH = "/mirror/092824/sam2.1_hiera_tiny.pt"


class Server(ThreadingHTTPServer):
    """Serves ``content`` at :data:`URL_PATH`; breaks off after ``stop_after`` bytes of a body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.stop_after = len(CONTENT)
        self.knows_ranges = True
        self.announces = True  # the length, else it sends chunks without an end
        self.drips = False  # sends a little at a time, without an end
        self.release = threading.Event()  # lets a body that waits go on
        self.waiting = threading.Event()  # a body waits
        self.release.set()
        self.ranges: list[str | None] = []  # of the requests so far

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        self.close_connection = True
        if self.path != URL_PATH:
            self.send_error(404)
            return
        content, start = self.server.content, 0
        if wanted and self.server.knows_ranges:
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert match
            start = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if not self.server.announces:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.send_without_end(content)
            return
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.server.drips:
            with contextlib.suppress(OSError):  # until the client leaves
                for place in range(start, len(content), 100):
                    self.wfile.write(content[place : place + 100])
                    time.sleep(0.05)
            return
        if not self.server.release.is_set():
            self.wfile.write(content[start : start + 1000])
            start += 1000
            self.server.waiting.set()
            self.server.release.wait(120)
        self.wfile.write(content[start : start + self.server.stop_after])

    def send_without_end(self, content: bytes) -> None:
        with contextlib.suppress(OSError):  # until the client leaves
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setitem(core.CHECKPOINTS, "tiny", CHECKPOINT)
    monkeypatch.setenv("SAM2_ROS_CACHE", str(tmp_path / "cache"))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setenv("SAM2_ROS_BASE_URL", running.url)
        yield running
        running.shutdown()
        thread.join()


def stored(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()} if path.parent.is_dir() else set()


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    for name in ("SAM2_ROS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert core.cache_dir() == Path("/home/user/.cache/sam2_ros")
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # counts as not set
    assert core.cache_dir() == Path("/home/user/.cache/sam2_ros")
    monkeypatch.setenv("XDG_CACHE_HOME", "/data/cache")
    assert core.cache_dir() == Path("/data/cache/sam2_ros")
    monkeypatch.setenv("SAM2_ROS_CACHE", "~/models")
    assert core.cache_dir() == Path("/home/user/models")


def test_a_checkpoint_arrives_whole_in_the_cache_and_is_then_kept(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = download("tiny", progress=lambda have, total: seen.append((have, total)))
    assert path == tmp_path / "cache" / "checkpoints" / "sam2.1_hiera_tiny.pt" == checkpoint_path("tiny")
    assert path.read_bytes() == CONTENT
    assert stored(path) == {path.name}
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 2
    assert download("tiny-2.1") == path
    assert len(server.ranges) == 1, "no second request"
    assert download("sam2.1_hiera_tiny", force=True) == path
    assert len(server.ranges) == 2


def test_a_broken_connection_keeps_what_came_and_the_next_call_continues(server: Server) -> None:
    server.stop_after = 1_500_000
    with pytest.raises(DownloadError, match=r"1500000 of 2304256 bytes.*the same command continues"):
        download("tiny")
    path = checkpoint_path("tiny")
    assert stored(path) == {path.name + ".part"}
    server.stop_after = len(CONTENT)
    assert download("tiny").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]
    assert stored(path) == {path.name}


def test_a_server_without_ranges_sends_the_file_again(server: Server) -> None:
    server.stop_after = 1_500_000
    with pytest.raises(DownloadError):
        download("tiny")
    server.stop_after, server.knows_ranges = len(CONTENT), False
    assert download("tiny").read_bytes() == CONTENT


def test_a_file_with_a_wrong_hash_is_set_aside(server: Server) -> None:
    server.content = b"\0" * len(CONTENT)
    with pytest.raises(DownloadError, match=r"not the genuine file: SHA-256 .* set aside as .*\.pt\.bad"):
        download("tiny")
    path = checkpoint_path("tiny")
    assert stored(path) == {path.name + ".bad"}
    server.content = CONTENT
    assert download("tiny").read_bytes() == CONTENT
    assert server.ranges == [None, None], "nothing of the bad file is continued"


def test_a_damaged_file_in_the_cache_is_replaced(server: Server) -> None:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(core.__name__)
    logger.addHandler(handler)
    path = checkpoint_path("tiny")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:1000])
    assert download("tiny").read_bytes() == CONTENT
    logger.removeHandler(handler)
    assert len(messages) == 1 and "set aside as" in messages[0]
    assert stored(path) == {path.name, path.name + ".bad"}


def test_a_file_of_another_size_is_refused_before_its_body(server: Server) -> None:
    server.content = CONTENT[:-1]
    with pytest.raises(DownloadError, match="offers 2304255 bytes; the genuine file has 2304256"):
        download("tiny")
    assert stored(checkpoint_path("tiny")) == set()


def test_a_server_that_has_no_such_file_is_named(server: Server) -> None:
    with pytest.raises(DownloadError, match="answered 404"):
        download("tiny", base_url=server.url + "elsewhere")


def test_without_a_connection_the_message_says_what_to_do(server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"can't download from 127\.0\.0\.1:\d+ .*refused.*mirror.*yourself"):
            download("tiny", base_url=address)
    with pytest.raises(DownloadError, match="accepted: http"):
        download("tiny", base_url="file:///tmp")


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"can't write .*choose --dir"):
        download("tiny", directory=tmp_path / "file" / "below")


def test_the_verb(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "tiny", "--dir", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert f"verified: {tmp_path / 'sam2.1_hiera_tiny.pt'}" in out
    assert err == "", "no progress bar without a terminal"
    assert main(["download", "huge"]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("sam2_ros: error: no file and no official checkpoint is called 'huge'; official ones: tiny,")
    assert err.count("\n") == 1


def test_the_table_names_every_official_file_once() -> None:
    assert len({checkpoint.sha256 for checkpoint in core.CHECKPOINTS.values()}) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", checkpoint.sha256) for checkpoint in core.CHECKPOINTS.values())
    assert checkpoint_path("large-2.0", Path("/x")) == Path("/x/sam2_hiera_large.pt")
    url = core.checkpoint_url(core.CHECKPOINTS["base_plus"], core.BASE_URL)
    assert url == "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_base_plus.pt"


def test_the_verb_as_a_process(server: Server, tmp_path: Path) -> None:
    """With the official table: the server's file is of another size."""
    command = [sys.executable, "-m", "sam2_ros", "download", "tiny", "--dir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("sam2_ros: error: ") and result.stderr.count("\n") == 1
    assert "the genuine file has 156008466" in result.stderr


def test_more_bytes_than_the_file_has_are_not_read(server: Server) -> None:
    server.announces = False
    seen: list[int] = []
    assert download("tiny", progress=lambda have, _: seen.append(have)).read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)


def test_a_server_that_does_not_answer_or_drips_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, monkeypatch.context() as patch:
        patch.setattr(core, "ANSWER_S", 0.2)
        with pytest.raises(DownloadError, match=r"no answer within 0\.2 s"):
            download("tiny", base_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
    server.drips = True
    with monkeypatch.context() as patch:
        patch.setattr(core, "WINDOW_S", 0.5)
        patch.setattr(core, "SLOWEST", 1 << 30)
        with pytest.raises(DownloadError, match=r"it sends fewer than 1073741824 bytes a second.*same command"):
            download("tiny")
    part = checkpoint_path("tiny").with_name("sam2.1_hiera_tiny.pt.part")
    assert 0 < part.stat().st_size < len(CONTENT)
    server.drips = False
    assert download("tiny").read_bytes() == CONTENT


def test_a_complete_part_is_verified_and_not_fetched_again(server: Server) -> None:
    path = checkpoint_path("tiny")
    path.parent.mkdir(parents=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(CONTENT)
    assert download("tiny").read_bytes() == CONTENT
    assert server.ranges == [] and stored(path) == {path.name}
    path.unlink()
    part.write_bytes(CONTENT + b"more")
    assert download("tiny").read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_part_that_is_a_link_or_a_pipe_is_not_written(server: Server, tmp_path: Path) -> None:
    path = checkpoint_path("tiny")
    path.parent.mkdir(parents=True)
    part = path.with_name(path.name + ".part")
    (tmp_path / "mine").write_text("precious")
    part.symlink_to(tmp_path / "mine")
    with pytest.raises(DownloadError, match=r"\.part is a link or no file; remove it"):
        download("tiny")
    assert (tmp_path / "mine").read_text() == "precious"
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(DownloadError, match=r"\.part is a link or no file; remove it"):
        download("tiny", force=True)


def test_two_at_once_do_not_write_the_same_file(server: Server) -> None:
    server.release.clear()
    first = threading.Thread(target=download, args=("tiny",))
    first.start()
    assert server.waiting.wait(120)
    with pytest.raises(DownloadError, match=r"another process downloads .*\.part just now; wait until it has ended"):
        download("tiny")
    server.release.set()
    first.join(120)
    path = checkpoint_path("tiny")
    assert path.read_bytes() == CONTENT and stored(path) == {path.name} and len(server.ranges) == 1


def test_a_failed_new_download_keeps_the_old_file(server: Server) -> None:
    path = download("tiny")
    server.content = CONTENT[:-1]
    with pytest.raises(DownloadError, match="offers"):
        download("tiny", force=True)
    assert path.read_bytes() == CONTENT and stored(path) == {path.name}
