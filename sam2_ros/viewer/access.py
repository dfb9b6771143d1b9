"""Access control: a browser on this machine or one with the token, but never the page of another site."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

COOKIE = "sam2_ros_token"
# The page loads nothing from other sites, and no site may frame it. Pictures are blobs of received bytes.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def is_local(host: str) -> bool:
    """Whether a host name or address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(token: str) -> Middleware:
    """Middleware that passes or refuses requests.

    With a ``token`` every request needs it: first in the address (``?token=…``) and then in a cookie, or as
    ``Authorization: Bearer``. Without one, the address must name this machine, which stops DNS rebinding.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = urlsplit(f"//{request.host}").hostname or ""
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return _refuse(403, f"requests from another site ({origin[:100]}) are refused; open the viewer's own page")
        if not token and not is_local(host):
            return _refuse(403, f"'{host[:100]}' is no name of this machine; open http://localhost or give --token")
        if token and not _knows(request, token):
            return _refuse(401, "the token is missing or wrong; open the address that 'sam2_ros view' has printed")
        if token and "token" in request.query and request.path == "/":
            answer: web.StreamResponse = web.Response(status=302, headers={"Location": "/"})
            answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", max_age=30 * 24 * 3600)
        else:
            answer = await handler(request)
        if not answer.prepared:
            answer.headers.update(_HEADERS)
        return answer

    return check


def _knows(request: web.Request, token: str) -> bool:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    given = (request.query.get("token", ""), request.cookies.get(COOKIE, ""), bearer)
    # In constant time, so that the delay reveals nothing.
    return any(hmac.compare_digest(text.encode(), token.encode()) for text in given)


def _refuse(status: int, reason: str) -> web.Response:
    return web.Response(status=status, text=f"{reason}\n", headers=_HEADERS)
