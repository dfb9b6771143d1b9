"""Reads the list of inference servers that a user wrote."""

from __future__ import annotations

import re

_ENDPOINT = re.compile(r"ipc://\S+|tcp://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}")
_CAMERA = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
ACCEPTED = (
    "tcp://HOST:PORT or ipc:///PATH, several separated by ','; for cameras of their own: "
    "'left=tcp://a:5555, tcp://b:5555; right=tcp://b:5555'"
)


def check_endpoint(option: str, endpoint: str) -> None:
    """
    Raises:
        ValueError: ``endpoint``, which ``option`` gives, is none.
    """
    if not _ENDPOINT.fullmatch(endpoint):
        raise ValueError(f"{option} is '{endpoint}'; accepted: tcp://HOST:PORT or ipc:///PATH")


def endpoints_for(written: str, camera: str = "") -> tuple[str, ...]:
    """The servers for ``camera`` in the order of preference; empty for an empty text.

    ``written`` is a list separated by commas, or such lists for cameras by name, separated by semicolons.

    Raises:
        ValueError: it can't be read, or has no server for this camera.
    """
    lists: dict[str, tuple[str, ...]] = {}
    for part in filter(None, map(str.strip, written.split(";"))):
        named = _CAMERA.fullmatch(part)
        name, listed = (named[1], named[2]) if named else ("", part)
        endpoints = tuple(filter(None, map(str.strip, listed.split(","))))
        wrong = [endpoint for endpoint in endpoints if not _ENDPOINT.fullmatch(endpoint)]
        if wrong or not endpoints or name in lists:
            raise ValueError(f"inference.endpoint is '{written}', of which '{(wrong or [part])[0]}' is no endpoint; "
                             f"accepted: {ACCEPTED}")  # fmt: skip
        lists[name] = endpoints
    if not lists:
        return ()
    found = lists.get(camera, lists.get(""))
    if found is None and camera:
        raise ValueError(f"inference.endpoint is '{written}', with no server for the camera '{camera}'")
    return found or ()
