"""`upgrade`: three instances of one version are replaced by another, one after the other, while they work."""

from __future__ import annotations

import asyncio
import time

import source
from broker import create_topic
from cluster import start, stop
from common import Report, Settings, fresh_name, note
from million import request
from queue_server import QueueServer
from service import Service
from watcher import PATIENCE, Watcher, judge

# When so much is published, the next instance is replaced. In between, both versions are at work.
SHARES = (0.15, 0.40, 0.65)
# The task is slowed down to take so long.
SECONDS = 60


async def run(settings: Settings) -> Report:
    report = Report("upgrade")
    if settings.before is None:
        report.check(False, "--before names the program of the version before")
        return report
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("upgrade")
    create_topic(settings.kafka, topic)
    with QueueServer() as queue:
        services = [Service(settings, f"upgrade-{number}", url, topic, QUEUE_URL=queue.url, TOKEN="the-token-of-all") for number in range(3)]
        try:
            for service in services:
                service.replace(settings.before)
            start(services)
            watchers = [Watcher(service) for service in services]
            begin = time.monotonic()
            task = await watchers[0].submit(request(topic) | {"rate": max(1, settings.rows // SECONDS)})
            following = [asyncio.create_task(watcher.follow(task)) for watcher in watchers]
            happened = 0
            for share, service in zip(SHARES, services, strict=True):
                while max(watcher.progress.published for watcher in watchers) < share * settings.rows and not following[0].done():
                    await asyncio.sleep(0.05)
                happened += not following[0].done()
                note(f"{time.monotonic() - begin:.0f} s: {service.part} is replaced")
                report.equal(f"the old {service.part} ends with code 0 after SIGTERM", await asyncio.to_thread(service.stop), 0)
                service.replace(settings.binary)
                service.start()
                await asyncio.to_thread(service.wait_ready)
            report.equal("each was replaced while the task was at work", happened, len(services))
            await asyncio.wait_for(asyncio.gather(*following), PATIENCE)
            seconds = watchers[0].events[-1].at - begin
            stop(report, services)
        finally:
            for service in services:
                service.remove()
    comparison = judge(report, settings, url, topic, task, watchers, seconds)
    report.equal("no row is repeated, since each handed its jobs over", len(comparison.repeats), 0)
    return report
