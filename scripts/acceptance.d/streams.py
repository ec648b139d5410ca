"""`streams`: 2,000 event streams over HTTP follow one task of a million rows, each to its end and without a gap."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import defaultdict
from datetime import datetime

import million
import source
from api import Api
from broker import create_topic, delete_topic
from common import Report, Settings, fresh_name, note
from service import Service

STREAMS = 2_000
# Connections without a token yet are few per address, so they are opened a few at a time.
OPENING = 32


async def run(settings: Settings) -> Report:
    report = Report("streams")
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("streams")
    create_topic(settings.kafka, topic)
    options = {"SERVER_MAX_CONNECTIONS": str(2 * STREAMS)}
    with Service(settings, "streams", url, topic, **options) as service:
        service.start()
        service.wait_ready()
        api = Api(service)
        alone = publish(api, topic)
        request = {"src": "iota"} | million.request(topic) | {"rate": 1}
        task = str(api.call("POST", "/tasks", request)["taskId"])
        note(f"{STREAMS} streams ...")
        turn, following = asyncio.Semaphore(OPENING), asyncio.Semaphore(0)
        watching = [asyncio.create_task(follow(service, task, turn, following)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            await following.acquire()
        begin = time.monotonic()
        await asyncio.to_thread(api.call, "PATCH", f"/tasks/{task}", {"rate": None})
        seen = await asyncio.gather(*watching)
        watched = time.monotonic() - begin
        report.figure("service: peak RSS, MiB", service.peak_rss_mib())
        service.check_log(report)
    report.figure("a million rows without streams, s", alone)
    report.figure(f"with {STREAMS} streams, whose client is Python on the same cores, s", watched)
    arrivals: dict[int, list[float]] = defaultdict(list)
    for entries in seen:
        for seq, delay in entries:
            arrivals[seq].append(delay)
    last = sorted(max(delays) for delays in arrivals.values())
    report.figure("lines", len(arrivals))
    report.figure("a line reaches the last stream: median, ms", 1_000 * statistics.median(last))
    report.figure("a line reaches the last stream: most, ms", 1_000 * last[-1])
    expected = list(range(1, len(arrivals) + 1))
    complete = sum([seq for seq, _ in entries] == expected for entries in seen)
    report.equal("every stream has every line once", complete, STREAMS)
    if not settings.keep:
        delete_topic(settings.kafka, topic)
    return report


def publish(api: Api, topic: str) -> float:
    begin = time.monotonic()
    task = str(api.call("POST", "/tasks", {"src": "iota"} | million.request(topic))["taskId"])
    api.finished(task)
    return time.monotonic() - begin


async def follow(
    service: Service, task: str, turn: asyncio.Semaphore, following: asyncio.Semaphore
) -> list[tuple[int, float]]:
    """The number of each entry, and how long after it was written it came."""
    async with turn:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            f"GET /data-patch/api/v1/tasks/{task}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {service.token}\r\n\r\n".encode()
        )
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"a stream was refused: {status!r}")
    following.release()
    entries = []
    while line := await reader.readline():
        if line.startswith(b"data: "):
            entry = json.loads(line[6:])
            delay = time.time() - datetime.fromisoformat(entry["time"]).timestamp()
            entries.append((entry["seq"], delay))
            if entry.get("state") is not None:
                break
    writer.close()
    return entries
