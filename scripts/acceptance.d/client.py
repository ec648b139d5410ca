"""A client of the WebSocket contract that knows nothing but the contract."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

PUBLISHED = re.compile(r"^iota data published\((\d+) / (\d+)\)\. device: (\S+)$")

# What a connection that ends, or can't be made, looks like.
GONE = (ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError)


class Refused(Exception):
    """The service answered with an error where the contract promises none."""


@dataclass(frozen=True)
class Event:
    """One line of a task's log."""

    task: str
    seq: int
    ok: bool
    message: str
    state: str | None
    # The frame as it came: two watchers of one task are to see the same, to the letter.
    text: str
    # When it was written, by the service's wall clock, in milliseconds; and when it came, by our monotonic clock.
    written_ms: float
    at: float

    @property
    def ends(self) -> bool:
        return self.state is not None

    @staticmethod
    def of(text: str) -> Event:
        frame = json.loads(text)
        payload = frame["payload"]
        if "seq" not in payload:
            raise Refused(text)
        return Event(
            payload["taskId"],
            payload["seq"],
            frame["res"] == "ok",
            payload["msg"],
            payload.get("state"),
            text,
            1000 * datetime.fromisoformat(payload["time"]).timestamp(),
            time.monotonic(),
        )


class Client:
    """One connection."""

    def __init__(self, socket_: ClientConnection, token: str) -> None:
        self._socket = socket_
        self._token = token

    @staticmethod
    async def open(url: str, token: str) -> Client:
        # The caller's proxy is not for loopback, and log lines are too short to be compressed.
        return Client(await connect(url, proxy=None, compression=None), token)

    @staticmethod
    async def open_soon(url: str, token: str, seconds: float = 60) -> Client:
        """Tries again until the service listens."""
        begin = time.monotonic()
        while True:
            try:
                return await Client.open(url, token)
            except GONE:
                if time.monotonic() - begin > seconds:
                    raise
                await asyncio.sleep(0.02)

    async def submit(self, request: dict[str, object]) -> str:
        """Sends a request and returns the id of the task that it became."""
        return await self._ask({"src": "iota", "token": self._token} | request, "task created.")

    async def attach(self, task: str, after: int) -> None:
        await self._ask({"token": self._token, "taskId": task, "after": after}, "task attached.")

    async def _ask(self, message: dict[str, object], expected: str) -> str:
        await self._socket.send(json.dumps(message))
        text = await self._socket.recv()
        answer = json.loads(text)
        if answer["type"] != "data-patch" or answer["res"] != "ok" or answer["payload"].get("msg") != expected:
            raise Refused(str(text))
        return str(answer["payload"]["taskId"])

    async def events(self) -> AsyncIterator[Event]:
        """The log as it comes, until the line that ends the task."""
        while True:
            event = Event.of(str(await self._socket.recv()))
            yield event
            if event.ends:
                return

    def abort(self) -> None:
        """Cuts the connection as a dead network card would be noticed at best: a reset, no close frame, no FIN."""
        transport = self._socket.transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def close(self) -> None:
        await self._socket.close()


class Progress:
    """What the log tells of how far a task is."""

    def __init__(self) -> None:
        self._devices: dict[str, int] = {}

    def hear(self, event: Event) -> None:
        match = PUBLISHED.match(event.message)
        if match:
            self._devices[match[3]] = int(match[1])

    @property
    def published(self) -> int:
        return sum(self._devices.values())


def gapless(events: list[Event]) -> str:
    """Empty when the numbers are 1, 2, 3 …; else what is wrong."""
    for expected, event in enumerate(events, start=1):
        if event.seq != expected:
            return f"seq {event.seq} where {expected} was due"
    return ""
