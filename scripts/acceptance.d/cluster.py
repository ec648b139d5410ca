"""`cluster`: three instances on one queue in PostgreSQL, while whatever may go away does."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from urllib.parse import urlsplit

import source
from broker import create_topic
from common import Report, Settings, fresh_name, note
from million import request
from queue_server import QueueServer
from service import Service
from watcher import PATIENCE, Watcher, judge

# The task is slowed down to take so long, so that it is still at work at the end of the last fault.
SECONDS = 240
# How long an instance is cut off, from the queue and from Kafka.
CUT_SECONDS = 60
# Each instance runs as a user of its own, by which the kernel tells its packets from those of the others.
FIRST_USER = 27_101


class Firewall:
    """Drops an instance's packets to a port: no reset, no answer, as behind a cable that was pulled."""

    TABLE = "data_patch_acceptance"

    def __enter__(self) -> Firewall:
        self._nft(f"table inet {self.TABLE} {{\n chain output {{ type filter hook output priority 0; }}\n}}")
        return self

    def cut(self, user: int, port: int) -> None:
        self._nft(f"add rule inet {self.TABLE} output meta skuid {user} tcp dport {port} drop")

    def heal(self) -> None:
        self._nft(f"flush chain inet {self.TABLE} output")

    def _nft(self, rules: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._nft(f"delete table inet {self.TABLE}")


async def run(settings: Settings) -> Report:
    report = Report("cluster")
    if os.geteuid() != 0 or shutil.which("nft") is None:
        report.check(False, "it runs as root, with nft (Debian: nftables)")
        return report
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("cluster")
    create_topic(settings.kafka, topic)
    with QueueServer() as queue, Firewall() as firewall:
        services = [
            Service(settings, f"cluster-{number}", url, topic, user=FIRST_USER + number, QUEUE_URL=queue.url, TOKEN="the-token-of-all")
            for number in range(3)
        ]
        try:
            start(services)
            task, watchers, seconds = await patch(settings, report, topic, services, queue, firewall)
            stop(report, services)
        finally:
            for service in services:
                service.remove()
    judge(report, settings, url, topic, task, watchers, seconds)
    return report


def start(services: list[Service]) -> None:
    for service in services:
        service.start()
    for service in services:
        service.wait_ready()


def stop(report: Report, services: list[Service]) -> None:
    for service in services:
        report.equal(f"{service.part} ends with code 0 after SIGTERM", service.stop(), 0)
        panics = [line for line in service.complaints() if "panicked at" in line]
        report.check(not panics, f"{service.part} has not panicked", f"{panics[:1]}")


async def patch(
    settings: Settings, report: Report, topic: str, services: list[Service], queue: QueueServer, firewall: Firewall
) -> tuple[str, list[Watcher], float]:
    """One task, submitted to the first instance and watched on all; returns it when it has ended."""
    kafka_port = int(settings.kafka.split(",")[0].rpartition(":")[2])
    queue_port = urlsplit(queue.url).port or 5432
    watchers = [Watcher(service) for service in services]
    begin = time.monotonic()
    task = await watchers[0].submit(request(topic) | {"rate": max(1, settings.rows // SECONDS)})
    following = [asyncio.create_task(watcher.follow(task)) for watcher in watchers]

    async def kill() -> None:
        services[0].kill()
        await asyncio.sleep(10)
        services[0].start()

    async def cut(number: int, port: int) -> None:
        firewall.cut(FIRST_USER + number, port)
        await asyncio.sleep(CUT_SECONDS)
        firewall.heal()

    async def crash() -> None:
        report.figure("the queue's PostgreSQL was away, s", await asyncio.to_thread(queue.crash))

    faults: list[tuple[float, str, Callable[[], Awaitable[None]]]] = [
        (0.08, "instance 1 is killed, and comes back after 10 s", kill),
        (0.20, f"instance 2 is cut off from the queue for {CUT_SECONDS} s", lambda: cut(1, queue_port)),
        (0.50, f"instance 3 is cut off from Kafka for {CUT_SECONDS} s", lambda: cut(2, kafka_port)),
        (0.80, "the queue's PostgreSQL is stopped at once, and comes back", crash),
    ]
    happened = 0
    for share, what, fault in faults:
        while max(watcher.progress.published for watcher in watchers) < share * settings.rows and not all(one.done() for one in following):
            await asyncio.sleep(0.05)
        at = max(watcher.progress.published for watcher in watchers)
        note(f"{time.monotonic() - begin:.0f} s, {at:,} rows: {what}")
        happened += not any(one.done() for one in following)
        await fault()
    report.equal("every fault came while the task was at work", happened, len(faults))
    await asyncio.wait_for(asyncio.gather(*following), PATIENCE)
    return task, watchers, watchers[0].events[-1].at - begin
