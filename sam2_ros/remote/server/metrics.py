"""Counters of the server for Prometheus, and its health page. Thread-safe."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_CONNECTIONS = 32  # to the page at a time; the oldest makes room for another
_LIFETIME = 10.0  # s of such a connection
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # s


class Metrics(Collector):
    """The counters of one server; ``batches`` returns the image encoder's batches by size."""

    def __init__(self, batches: Callable[[], dict[int, int]] = dict) -> None:
        self._batches = batches
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("sam2_ros_requests", "Messages by operation", ["op"], registry=registry)
        self.refused = Counter("sam2_ros_refused", "Refused messages by reason", ["code"], registry=registry)
        self.rejected = Counter(
            "sam2_ros_rejected_connections", "Connections without an accepted key", ["reason"], registry=registry
        )
        self.frames = Counter("sam2_ros_frames", "Tracked frames", registry=registry)
        self.dropped = Counter("sam2_ros_frames_dropped", "Frames that a newer one replaced", registry=registry)
        self.waiting = Histogram(
            "sam2_ros_wait_seconds", "From a frame's arrival to its turn", registry=registry, buckets=_BUCKETS
        )
        self.engine = Histogram(
            "sam2_ros_engine_seconds", "What the engine took for a frame", registry=registry, buckets=_BUCKETS
        )
        self.streams = Gauge("sam2_ros_streams", "Open streams", registry=registry)
        self.objects = Gauge("sam2_ros_objects", "Living objects of all streams", registry=registry)
        registry.register(self)

    def collect(self) -> Iterable[CounterMetricFamily]:
        about = "Batches of the image encoder by the number of frames in them"
        family = CounterMetricFamily("sam2_ros_encoder_batches", about, labels=["size"])
        for size, count in sorted(self._batches().items()):
            family.add_metric([str(size)], count)
        yield family


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: a line for every scrape would fill the log."""


class _PageServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection, of which few live for a short time: an idle client keeps nobody waiting."""

    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self._opened: dict[socket.socket, float] = {}  # s, monotonic, by connection, the oldest first
        self._lock = threading.Lock()
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._cut(len(self._opened) - _CONNECTIONS + 1)
            self._opened[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._opened.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        with self._lock:
            self._cut(sum(time.monotonic() - opened > _LIFETIME for opened in self._opened.values()))

    def _cut(self, count: int) -> None:
        for request in list(self._opened)[: max(0, count)]:
            del self._opened[request]
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a connection that breaks is its client's affair."""


class _PageServer6(_PageServer):
    address_family = socket.AF_INET6


class MetricsPage:
    """Serves ``/metrics`` for Prometheus and ``/health`` (200 while frames are accepted, else 503) over HTTP.

    Args:
        host, port: where; port 0 takes a free one (:attr:`port`).
        health: returns the content of the health page; its ``"ready"`` decides on the status.
    """

    def __init__(self, metrics: Metrics, host: str, port: int, health: Callable[[], dict[str, Any]]) -> None:
        metrics_app = make_wsgi_app(metrics.registry)

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/metrics":
                return metrics_app(environ, start_response)
            if environ["PATH_INFO"] in ("/health", "/healthz"):
                state = health()
                status = "200 OK" if state["ready"] else "503 Service Unavailable"
                start_response(status, [("Content-Type", "application/json")])
                return [json.dumps(state).encode() + b"\n"]
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"accepted: /metrics, /health\n"]

        kind = _PageServer6 if ":" in host else _PageServer
        self._server: WSGIServer = make_server(host, port, app, kind, _QuietHandler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
