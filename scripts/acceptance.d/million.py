"""`million`: one request for a million rows, and what of it arrives."""

from __future__ import annotations

import os
import time

import source
from broker import create_topic, delete_topic, read_topic
from client import Client, Event, Progress, gapless
from common import Report, Settings, fresh_name, note
from compare import ROWS, Comparison, Expected
from service import Service


def request(topic: str) -> dict[str, object]:
    """All rows of all ten devices."""
    return {
        "topic": topic,
        "thingId": source.THING,
        "devices": source.million_devices(),
        "from": source.BEGIN,
        "to": source.END,
    }


async def run(settings: Settings) -> Report:
    report = Report("million")
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("million")
    create_topic(settings.kafka, topic)
    with Service(settings, "million", url, topic) as service:
        service.start()
        report.figure("start to ready, s", service.wait_ready())
        client = await Client.open(service.url, service.token)
        progress, events = Progress(), list[Event]()
        cpu, begin = service.cpu_seconds(), time.monotonic()
        task = await client.submit(request(topic))
        async for event in client.events():
            progress.hear(event)
            events.append(event)
        seconds = events[-1].at - begin
        report.figure("rows", f"{settings.rows:,}")
        report.figure("submit to finished, s", seconds)
        report.figure("rows/s", f"{settings.rows / seconds:,.0f}")
        report.figure("service: CPU, s", service.cpu_seconds() - cpu)
        report.figure("service: peak RSS, MiB", service.peak_rss_mib())
        report.figure("log lines", len(events))
        report.figure("load average of 1 min, CPUs", f"{os.getloadavg()[0]:.1f}, {os.cpu_count()}")
        await client.close()
        begin = time.monotonic()
        code = service.stop()
        report.figure("SIGTERM to exit, s", time.monotonic() - begin)
        report.equal("SIGTERM ends it with code 0", code, 0)
        service.check_log(report)
    note(events[-1].message)
    report.check(events[-1].ok and events[-1].state == "succeeded", "the task succeeded", events[-1].message)
    report.equal("the log counts all rows as published", progress.published, settings.rows)
    report.check(not gapless(events), "seq is 1, 2, 3 … without a gap", gapless(events))
    expected, comparison = compare(settings, url, topic, task)
    report.figure("average document, bytes", expected.bytes // max(1, len(expected)))
    report.figure("records in the topic", f"{comparison.records:,}")
    report.figure("repeats", len(comparison.repeats))
    report.equal("the database has the rows", len(expected), settings.rows)
    comparison.report(report)
    report.equal("no repeats, since nothing went wrong", len(comparison.repeats), 0)
    if not settings.keep:
        delete_topic(settings.kafka, topic)
    return report


def compare(settings: Settings, url: str, topic: str, task: str, rows: str = ROWS) -> tuple[Expected, Comparison]:
    note("hashing the database's rows ...")
    expected = Expected(url, source.million_devices(), source.BEGIN, source.END, rows)
    note("reading the topic back ...")
    comparison = Comparison(expected, task)
    for record in read_topic(settings.kafka, topic):
        comparison.take(record)
    return expected, comparison
