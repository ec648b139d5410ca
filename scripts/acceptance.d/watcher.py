"""Whoever watches a task to its end, whatever happens to the connection and to the service."""

from __future__ import annotations

import asyncio

from client import GONE, Client, Event, Progress, Refused
from service import Service

# How long a task may take, whatever the machine.
PATIENCE = 3_600


class Watcher:
    """Follows a task on one instance, and comes back to the same one after each end of a connection."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.events: list[Event] = []
        self.progress = Progress()
        self.connections = 0

    async def submit(self, request: dict[str, object]) -> str:
        client = await Client.open(self.service.url, self.service.token)
        task = await client.submit(request)
        await client.close()
        return task

    async def follow(self, task: str) -> None:
        while not (self.events and self.events[-1].ends):
            try:
                client = await Client.open_soon(self.service.url, self.service.token, PATIENCE)
                await client.attach(task, len(self.events))
                self.connections += 1
                async for event in client.events():
                    self.events.append(event)
                    self.progress.hear(event)
                await client.close()
            except (*GONE, Refused):
                await asyncio.sleep(0.2)
