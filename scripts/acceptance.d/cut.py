"""`cut`: a watcher whose connection breaks again and again sees what one sees that is never interrupted."""

from __future__ import annotations

import asyncio
import random

import source
from broker import create_topic, delete_topic
from client import Client, Event, gapless
from common import Report, Settings, fresh_name, note
from million import request
from service import Service

CUTS = 10
# At most so long between an attach and its cut, and between the cut and the next attach, when it is a million rows.
WATCHED_SECONDS, AWAY_SECONDS = 0.6, 0.3


async def run(settings: Settings) -> Report:
    report = Report("cut")
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("cut")
    create_topic(settings.kafka, topic)
    # Twenty times as many lines as by default: a cut is to fall between two of them, and lines into each gap.
    with Service(settings, "cut", url, topic, WORKER_PROGRESS_LOG_INTERVAL_MS="50") as service:
        service.start()
        service.wait_ready()
        steady = await Client.open(service.url, service.token)
        task = await steady.submit(request(topic))
        watching = asyncio.create_task(whole(steady))
        seen, cuts = await torn(service, task, settings.rows / 1_000_000)
        calm = await watching
        await steady.close()
        replay = await Client.open(service.url, service.token)
        await replay.attach(task, 0)
        replayed = await whole(replay)
        await replay.close()
        # All are gone, and the service has had longer than it waits for any of them.
        await asyncio.sleep(5)
        for metric in ("data_patch_connections", "data_patch_watches"):
            report.equal(f"{metric} is 0 when all have gone", service.metric(metric), 0.0)
        report.equal("SIGTERM ends it with code 0", service.stop(), 0)
        service.check_log(report)
    note(calm[-1].message)
    report.figure("rows", f"{settings.rows:,}")
    report.figure("log lines", len(calm))
    report.figure("cut after seq", ", ".join(map(str, cuts)))
    report.equal("the connection was cut ten times before the end", len(cuts), CUTS)
    report.check(calm[-1].state == "succeeded", "the task succeeded", calm[-1].message)
    for who, events in (("uninterrupted", calm), ("cut", seen), ("late", replayed)):
        report.check(not gapless(events), f"the {who} watcher saw seq 1, 2, 3 … each once", gapless(events))
    for who, events in (("cut", seen), ("late", replayed)):
        same = [event.text for event in events] == [event.text for event in calm]
        report.check(same, f"the {who} watcher saw what the uninterrupted one saw, to the letter", f"{len(events)} and {len(calm)} lines")
    if not settings.keep:
        delete_topic(settings.kafka, topic)
    return report


async def whole(client: Client) -> list[Event]:
    return [event async for event in client.events()]


async def torn(service: Service, task: str, scale: float) -> tuple[list[Event], list[int]]:
    """Watches to the end; the first ten connections are cut. Returns what was seen, and after which seq the cuts came."""
    seen: list[Event] = []
    cuts: list[int] = []
    while not (seen and seen[-1].ends):
        client = await Client.open(service.url, service.token)
        last = seen[-1].seq if seen else 0
        await client.attach(task, last)
        if len(cuts) == CUTS:
            seen += await whole(client)
            await client.close()
            break
        try:
            # What has come but was not looked at when the time is up goes down with the connection.
            async with asyncio.timeout(random.uniform(0.0, WATCHED_SECONDS * scale)):
                async for event in client.events():
                    seen.append(event)
        except TimeoutError:
            cuts.append(seen[-1].seq if seen else 0)
        client.abort()
        # The log goes on meanwhile: the next attach must replay, then go over to the live lines.
        await asyncio.sleep(random.uniform(0.0, AWAY_SECONDS * scale))
    return seen, cuts
