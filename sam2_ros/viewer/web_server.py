"""The web server of the viewer: static files, and one WebSocket for each browser."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import WSCloseCode, web

from sam2_ros.media.errors import UserError
from sam2_ros.viewer.access import guard, is_local
from sam2_ros.viewer.hub import Hub
from sam2_ros.viewer.session import Session

STATIC = Path(__file__).parent / "static"
LARGEST_COMMAND = 64 * 1024  # bytes
_SOCKETS: web.AppKey[set[web.WebSocketResponse]] = web.AppKey("sockets")
_HUB = web.AppKey("hub", Hub)


def application(make_hub: Callable[[], Hub], token: str = "") -> web.Application:
    """The server's routes; ``make_hub`` is called when the event loop runs."""
    app = web.Application(middlewares=[guard(token)])
    sockets: set[web.WebSocketResponse] = set()
    app[_SOCKETS] = sockets

    async def hub_context(app: web.Application) -> AsyncIterator[None]:
        app[_HUB] = make_hub()
        yield
        for socket in list(sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the viewer ends")
        await asyncio.to_thread(app[_HUB].close)

    app.cleanup_ctx.append(hub_context)
    app.router.add_get("/", _page)
    app.router.add_get("/socket", _socket)
    app.router.add_static("/static/", STATIC)
    return app


async def _page(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(STATIC / "index.html")


async def _socket(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(heartbeat=20.0, max_msg_size=LARGEST_COMMAND, compress=False)
    await socket.prepare(request)
    request.app[_SOCKETS].add(socket)
    try:
        await Session(request.app[_HUB], socket).run()
    finally:
        request.app[_SOCKETS].discard(socket)
    return socket


async def serve(make_hub: Callable[[], Hub], host: str, port: int, token: str, ready: Callable[[str], None]) -> None:
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
    runner = web.AppRunner(application(make_hub, token), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UserError(
                f"no server at {host}, port {port}: {error.strerror or error}; --port 0 takes a free port"
            ) from None
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{bound}/" + (f"?token={token}" if token else ""))
        await _until_signal()
    finally:
        await runner.cleanup()


async def _until_signal() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
