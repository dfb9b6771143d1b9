"""Access control: a browser on this machine or one with the token, but never the page of another site."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

COOKIE = "sam2_ros_token"
LONGEST_PATH = 200  # characters
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
        try:
            answer = _refusal(request, token) or await _answer(request, handler, token)
        except web.HTTPException as error:
            answer = error  # with a status of its own, as for a path that is not there
        if not answer.prepared:
            answer.headers.update(_HEADERS)
        if isinstance(answer, web.HTTPException):
            raise answer
        return answer

    return check


def _refusal(request: web.Request, token: str) -> web.Response | None:
    """Why a request is refused; None if it is not."""
    if len(request.path) > LONGEST_PATH:
        return _refuse(400, f"the path has {len(request.path)} characters; accepted: up to {LONGEST_PATH}")
    origin = request.headers.get("Origin")
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
        site = None if origin is None else urlsplit(origin).netloc
    except ValueError as error:
        return _refuse(
            400, f"the address in Host or Origin can't be read ({error}); open the address as it was printed"
        )
    if site is not None and site != request.host:
        return _refuse(403, f"requests from another site ({origin!r:.100}) are refused; open the viewer's own page")
    if not token and not is_local(host):
        return _refuse(403, f"{host!r:.100} is no name of this machine; open http://localhost or give --token")
    if token and not _knows(request, token):
        return _refuse(401, "the token is missing or wrong; open the address that was printed")
    return None


async def _answer(request: web.Request, handler: Handler, token: str) -> web.StreamResponse:
    if not token or "token" not in request.query or request.path != "/":
        return await handler(request)
    answer = web.Response(status=302, headers={"Location": "/"})
    answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", max_age=30 * 24 * 3600)
    return answer


def _knows(request: web.Request, token: str) -> bool:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    given = (request.query.get("token", ""), request.cookies.get(COOKIE, ""), bearer)
    # In constant time, so that the delay reveals nothing.
    return any(hmac.compare_digest(text.encode(errors="replace"), token.encode()) for text in given)


def _refuse(status: int, reason: str) -> web.Response:
    return web.Response(status=status, text=f"{reason}\n")
