"""`killed`: the same million, with the service killed three times on the way."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field

import source
from broker import create_topic, delete_topic
from client import GONE, Client, Event, Progress, gapless
from common import DEVICES, Report, Settings, fresh_name, note
from million import compare, request
from service import Service

# Killed when the log tells of so much …
SHARES = (0.20, 0.45, 0.70)
# … and up to so many seconds later, when it is a million rows: right after a line the checkpoints are fresh, and few rows would repeat.
LATER = 0.6
# … or a little after work has begun again, when nothing is at work then.
IDLE = 0.2
# What may be in flight is about 12,900 of these rows (kafka.in_flight_bytes), and what goes out between two checkpoints (stored fifty times a
# second) about 3,000. Above this, checkpoints were not stored for a while.
REPEATS_PER_KILL = 20_000

DEVICE = re.compile(r"device: ([0-9a-f-]{36})")
GOES_ON = "its previous worker was lost"


@dataclass
class Kill:
    """One SIGKILL and what came after."""

    at: float
    published: int
    ready: float = 0.0
    # How long after it the jobs went on that it had interrupted, in seconds.
    takeovers: list[float] = field(default_factory=list)
    repeats: int = 0


class Ledger:
    """Puts down each takeover, and each repeat, to the kill that it comes from. A job may wait for its lease through the next kill,
    so that is not simply the last one: it is the last one that its device was at work before."""

    def __init__(self) -> None:
        self.kills: list[Kill] = []
        self._interrupted: dict[str, Kill] = {}
        self._busy: set[str] = set()
        # Of each device: when it went on, by the wall clock, and after which kill.
        self._takeovers: dict[str, list[tuple[float, Kill]]] = {}

    def hear(self, event: Event) -> None:
        match = DEVICE.search(event.message)
        if match is None:
            return
        device = match[1]
        self._busy.add(device)
        if GOES_ON in event.message:
            # One that died before its first line was not known to be at work: it is the last kill's.
            kill = self._interrupted.pop(device, self.kills[-1])
            kill.takeovers.append(event.at - kill.at)
            self._takeovers.setdefault(device, []).append((event.written_ms, kill))

    def killed(self, kill: Kill) -> None:
        self.kills.append(kill)
        self._interrupted |= dict.fromkeys(self._busy, kill)
        self._busy.clear()

    def repeated(self, device: str, sent_ms: int) -> None:
        # Written and sent are told by one clock; the line comes before the rows.
        before = [kill for written_ms, kill in self._takeovers.get(device, []) if written_ms <= sent_ms + 1]
        if before:
            before[-1].repeats += 1


async def run(settings: Settings) -> Report:
    report = Report("killed")
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("killed")
    create_topic(settings.kafka, topic)
    ledger, events, progress = Ledger(), list[Event](), Progress()
    # All at its defaults: a lease of 15 s, a checkpoint stored each second.
    with Service(settings, "killed", url, topic) as service:
        service.start()
        service.wait_ready()
        client = await Client.open(service.url, service.token)
        begin = time.monotonic()
        task = await client.submit(request(topic))
        deadline: float | None = None
        while not (events and events[-1].ends):
            number = len(ledger.kills)
            goal = SHARES[number] * settings.rows if number < len(SHARES) else float("inf")
            try:
                # Until the next kill is due. A line that was on its way then comes by the next attach.
                async with asyncio.timeout_at(deadline) as due:
                    async for event in client.events():
                        events.append(event)
                        progress.hear(event)
                        ledger.hear(event)
                        if progress.published >= goal and due.when() is None:
                            seconds = random.uniform(0, LATER * settings.rows / 1_000_000)
                            due.reschedule(asyncio.get_running_loop().time() + seconds)
            except TimeoutError:
                if service.metric("data_patch_jobs_running") == 0:
                    # All jobs wait for the leases of the last kill: a kill would interrupt nothing. Soon again.
                    deadline = asyncio.get_running_loop().time() + IDLE
                    continue
                deadline = None
                ledger.killed(kill(service, progress))
                client.abort()
            except GONE as error:
                note(f"the connection broke by itself: {error!r}")
            if not events[-1].ends:
                client = await attach(service, task, events[-1].seq)
        seconds = events[-1].at - begin
        await client.close()
        # What is stored must be what was seen, though it was seen by pieces.
        client = await attach(service, task, 0)
        stored = [event async for event in client.events()]
        await client.close()
        peak = service.peak_rss_mib()
        report.equal("SIGTERM ends it with code 0", service.stop(), 0)
        service.check_log(report)
    note(events[-1].message)
    expected, comparison = compare(settings, url, topic, task)
    for device, sent_ms in comparison.repeats:
        ledger.repeated(device, sent_ms)

    report.figure("rows", f"{settings.rows:,}")
    report.figure("submit to finished, s", seconds)
    report.figure("service: peak RSS after the last start, MiB", peak)
    report.figure("log lines", len(events))
    for number, one in enumerate(ledger.kills, start=1):
        share = f"{100 * one.published / settings.rows:.0f} %"
        report.figure(f"kill {number}: after, s; published by the log", f"{one.at - begin:.2f}; {one.published:,} ({share})")
        report.figure("  ready again after, s", one.ready)
        report.figure("  jobs of it that were taken over", len(one.takeovers))
        report.figure("  the first and the last after, s", span(one.takeovers))
        report.figure("  rows repeated", f"{one.repeats:,}")
    share = f"{100 * len(comparison.repeats) / settings.rows:.2f} %"
    report.figure("repeats in all", f"{len(comparison.repeats):,} ({share})")

    report.equal("the service was killed three times", len(ledger.kills), len(SHARES))
    report.check(events[-1].ok and events[-1].state == "succeeded", "the task succeeded", events[-1].message)
    report.equal("the log counts all rows as published", progress.published, settings.rows)
    report.check(not gapless(events), "seq is 1, 2, 3 … without gap or repeat over all connections", gapless(events))
    same = [event.text for event in stored] == [event.text for event in events]
    report.check(same, "what was seen by pieces is what is stored, to the letter", f"{len(events)} seen, {len(stored)} stored")
    report.equal("the database has the rows", len(expected), settings.rows)
    comparison.report(report)
    explained = sum(one.repeats for one in ledger.kills)
    report.equal("each repeat follows a takeover that the log tells of", len(comparison.repeats) - explained, 0)
    worst = max((one.repeats for one in ledger.kills), default=0)
    report.check(worst <= REPEATS_PER_KILL, "no kill repeats much more than what may be in flight", f"{worst:,} rows")
    many = max((len(one.takeovers) for one in ledger.kills), default=0)
    report.check(many <= DEVICES, "no job is taken over twice after a kill", f"{many} takeovers")
    if not settings.keep:
        delete_topic(settings.kafka, topic)
    return report


def kill(service: Service, progress: Progress) -> Kill:
    """Kills it and starts it again."""
    service.kill()
    one = Kill(time.monotonic(), progress.published)
    note(f"killed at {one.published:,} rows")
    service.start()
    service.wait_ready()
    one.ready = time.monotonic() - one.at
    return one


async def attach(service: Service, task: str, after: int) -> Client:
    client = await Client.open_soon(service.url, service.token)
    await client.attach(task, after)
    return client


def span(seconds: list[float]) -> str:
    return f"{min(seconds):.2f}, {max(seconds):.2f}" if seconds else "-"
