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


def application(make_hub: Callable[[], Hub], token: str = "") -> web.Application:
    """The server's routes; ``make_hub`` is called when the event loop runs."""
    sockets: set[web.WebSocketResponse] = set()
    hub: Hub

    async def hub_context(_: web.Application) -> AsyncIterator[None]:
        nonlocal hub
        hub = make_hub()
        yield
        for socket in list(sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the viewer ends")
        await asyncio.to_thread(hub.close)

    async def page(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "index.html")

    async def stream(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=20.0, max_msg_size=LARGEST_COMMAND, compress=False)
        await socket.prepare(request)
        sockets.add(socket)
        try:
            await Session(hub, socket).run()
        finally:
            sockets.discard(socket)
        return socket

    app = web.Application(middlewares=[guard(token)])
    app.cleanup_ctx.append(hub_context)
    app.router.add_get("/", page)
    app.router.add_get("/socket", stream)
    app.router.add_static("/static/", STATIC)
    return app


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
            reason = error.strerror or error
            raise UserError(f"no server at {host}, port {port}: {reason}; --port 0 takes a free port") from None
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{bound}/" + (f"?token={token}" if token else ""))
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()
