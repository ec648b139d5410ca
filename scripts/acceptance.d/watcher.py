"""Whoever watches a task to its end, whatever happens to the connection and to the service."""

from __future__ import annotations

import asyncio

from broker import delete_topic
from client import GONE, Client, Event, Progress, Refused, gapless
from common import Report, Settings
from compare import ROWS, Comparison
from million import compare
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


def judge(
    report: Report, settings: Settings, url: str, topic: str, task: str, watchers: list[Watcher], seconds: float, rows: str = ROWS
) -> Comparison:
    """What the watchers saw, and what arrived; `rows` as of `compare`."""
    report.figure("rows", f"{settings.rows:,}")
    report.figure("submit to finished, s", seconds)
    for number, watcher in enumerate(watchers, start=1):
        events = watcher.events
        report.figure(f"watcher {number}: lines, connections", f"{len(events):,}, {watcher.connections}")
        report.check(not gapless(events), f"watcher {number} saw every line once, in order", gapless(events))
        same = [event.text for event in events] == [event.text for event in watchers[0].events]
        report.check(same, f"watcher {number} saw what the first saw, to the letter")
    last = watchers[0].events[-1]
    report.check(last.ok and last.state == "succeeded", "the task succeeded", last.message)
    report.equal("the log counts all rows as published", watchers[0].progress.published, settings.rows)
    expected, comparison = compare(settings, url, topic, task, rows)
    share = f"{100 * len(comparison.repeats) / settings.rows:.2f} %"
    report.figure("records in the topic; repeats", f"{comparison.records:,}; {len(comparison.repeats):,} ({share})")
    report.equal("the database has the rows", len(expected), settings.rows)
    comparison.report(report)
    if not settings.keep:
        delete_topic(settings.kafka, topic)
    return comparison
