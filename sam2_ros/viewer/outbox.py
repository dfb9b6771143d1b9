"""What waits to be sent to one browser: bounded, and of each kind of news only the newest."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping

from aiohttp import web

WAITING_ANSWERS = 32  # after that the browser does not read
SEND_S = 20.0  # for one message, after which a browser counts as gone


class SlowBrowser(ConnectionError):
    """A browser that reads too little."""


class Outbox:
    """Used in the event loop. News of a kind replace older ones that still wait; answers are never replaced."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._news: dict[str, str] = {}
        self._answers: deque[str] = deque()
        self._ready = asyncio.Event()

    def tell(self, message: Mapping[str, object], kind: str = "") -> None:
        """``kind``: which older message it replaces; default: its type."""
        self._news[kind or str(message["type"])] = json.dumps(message)
        self._ready.set()

    def answer(self, message: Mapping[str, object]) -> None:
        """
        Raises:
            SlowBrowser: too many answers wait.
        """
        if len(self._answers) >= WAITING_ANSWERS:
            raise SlowBrowser(f"{WAITING_ANSWERS} answers wait")
        self._answers.append(json.dumps({"type": "answer", **message}))
        self._ready.set()

    async def run(self) -> None:
        """Sends until the browser leaves.

        Raises:
            SlowBrowser: it takes nothing.
        """
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._answers or self._news:
                text = self._answers.popleft() if self._answers else self._news.pop(next(iter(self._news)))
                await self.send(text)

    async def send(self, data: str | bytes) -> None:
        """Sends at once.

        Raises:
            ConnectionError: the browser has left, or takes nothing.
        """
        sending = self._socket.send_str(data) if isinstance(data, str) else self._socket.send_bytes(data)
        try:
            await asyncio.wait_for(sending, SEND_S)
        except asyncio.TimeoutError:
            raise SlowBrowser(f"it took nothing for {SEND_S:.0f} s") from None
        except RuntimeError as error:  # aiohttp's word for a socket that is closing
            raise ConnectionError(str(error)) from error
