"""The web server of the viewer: static files, and one WebSocket for each browser."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from weakref import WeakSet

from aiohttp import WSCloseCode, web
from aiohttp.typedefs import Handler

from sam2_ros.media.errors import UserError
from sam2_ros.viewer.access import guard, is_local
from sam2_ros.viewer.session import Hub, Session

STATIC = Path(__file__).parent / "static"
LARGEST_COMMAND = 64 * 1024  # bytes
MAX_BROWSERS = 32
MAX_CONNECTIONS = 256  # browsers included; they ask for the page's files with several at a time
FIRST_REQUEST_S = 10.0  # that a connection may take to ask for something
END_S = 2.0  # for browsers to take the viewer's farewell
_SWEEP_S = 2.0
_LOG_S = 5.0


def application(
    make_hub: Callable[[], Hub], token: str = "", asked: WeakSet[asyncio.BaseTransport] | None = None,
    first_page: str = "index.html",
) -> web.Application:  # fmt: skip
    """The server's routes; ``make_hub`` is called when the event loop runs. ``asked`` gets every connection that asked
    for something. ``first_page`` is a file of ``static``."""
    sockets: set[web.WebSocketResponse] = set()
    hub: Hub

    async def hub_context(_: web.Application) -> AsyncIterator[None]:
        nonlocal hub
        hub = make_hub()
        yield
        farewells = [socket.close(code=WSCloseCode.GOING_AWAY, message=b"the viewer ends") for socket in sockets]
        with suppress(asyncio.TimeoutError):  # of browsers that read nothing
            await asyncio.wait_for(asyncio.gather(*farewells, return_exceptions=True), END_S)
        await asyncio.to_thread(hub.close)

    async def page(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / first_page)

    async def stream(request: web.Request) -> web.StreamResponse:
        if len(sockets) >= MAX_BROWSERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_BROWSERS} browsers look already; close one of them\n")
        socket = web.WebSocketResponse(heartbeat=20.0, timeout=END_S, max_msg_size=LARGEST_COMMAND, compress=False)
        sockets.add(socket)
        try:
            await socket.prepare(request)
            await Session(hub, socket, partial(_abort, request)).run()
        finally:
            sockets.discard(socket)
        return socket

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        if asked is not None and request.transport is not None:
            asked.add(request.transport)
        return await handler(request)

    app = web.Application(middlewares=[note, guard(token)])
    app.cleanup_ctx.append(hub_context)
    app.router.add_get("/", page)
    app.router.add_get("/socket", stream)
    app.router.add_static("/static/", STATIC)
    return app


class _OneLine(logging.Filter):
    """A malformed request is a line of the log, not a traceback, and at most one in :data:`_LOG_S`."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            record.msg, record.args = "%s: %s: %.200s", (record.getMessage(), type(error).__name__, first)
            record.exc_info = None
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _LOG_S
        return True


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _limit_connections(server: web.Server, asked: WeakSet[asyncio.BaseTransport]) -> None:
    """Closes connections that ask for nothing, and new ones beyond the limit. ``asked``: those that did ask."""
    since: dict[asyncio.BaseTransport, float] = {}
    while True:
        now = time.monotonic()
        open_ones = [handler.transport for handler in server.connections if handler.transport is not None]
        since = {transport: since.get(transport, now) for transport in open_ones}
        silent = [transport for transport in open_ones if transport not in asked]
        late = [transport for transport in silent if now - since[transport] > FIRST_REQUEST_S]
        for transport in {*late, *silent[: max(0, len(open_ones) - MAX_CONNECTIONS)]}:
            transport.abort()
        await asyncio.sleep(_SWEEP_S)


async def serve(
    make_hub: Callable[[], Hub], host: str, port: int, token: str, ready: Callable[[str], None],
    first_page: str = "index.html",
) -> None:  # fmt: skip
    """Serves until SIGINT or SIGTERM.

    Args:
        host: address to bind to. If other machines reach it and ``token`` is empty, a token is made.
        port: 0 = a free one.
        ready: called with the page's address, token included.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    if not token and not is_local(host):
        token = secrets.token_urlsafe(18)
    asked: WeakSet[asyncio.BaseTransport] = WeakSet()
    app = application(make_hub, token, asked, first_page)
    logger = logging.getLogger(__name__)
    logger.addFilter(_OneLine())
    runner = web.AppRunner(app, logger=logger, access_log=None, handle_signals=False, shutdown_timeout=END_S)
    await runner.setup()
    assert runner.server is not None
    limiting = asyncio.ensure_future(_limit_connections(runner.server, asked))
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            cure = "--port 0 takes a free port"
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                cure = "--host takes a name or address of this machine; 0.0.0.0 is all of them"
            raise UserError(f"no server at {host}, port {port}: {error.strerror or error}; {cure}") from None
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{bound}/" + (f"?token={token}" if token else ""))
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        limiting.cancel()
        await runner.cleanup()
