"""The contenders: the service, `psql | kcat`, and a script with checks. Each reports its time and CPU time."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import audience
from cpu import kafka_cpu
from sets import Set, source

from client import Client
from service import Service

HERE = Path(__file__).resolve().parent


@dataclass
class Took:
    """One run."""

    seconds: float
    # CPU time of the contender's processes, of those of the source (PostgreSQL, OpenSearch), and of Kafka's.
    cpu: float
    source_cpu: float
    kafka_cpu: float
    peak_mb: float


class Watch:
    """The CPU time of other processes meanwhile."""

    def __init__(self, source_cpu: Callable[[], float]) -> None:
        self.source_cpu = source_cpu
        self.source, self.kafka, self.begin = source_cpu(), kafka_cpu(), time.monotonic()

    def took(self, cpu: float, peak_mb: float, seconds: float | None = None) -> Took:
        seconds = time.monotonic() - self.begin if seconds is None else seconds
        return Took(seconds, cpu, self.source_cpu() - self.source, kafka_cpu() - self.kafka, peak_mb)


async def service(settings: SimpleNamespace, rows: Set, topic: str) -> Took:
    """From the submit to `task finished`, with the default configuration and a new queue."""
    with Service(settings, "bench", rows.url, topic, **rows.options()) as running:
        running.start()
        running.wait_ready()
        client = await Client.open(running.url, running.token)
        cpu, watch = running.cpu_seconds(), Watch(rows.source_cpu)
        last = None
        with audience.of(settings, running):
            await client.submit(rows.request(topic))
            async for event in client.events():
                last = event
            seconds = time.monotonic() - watch.begin
        if last is None or last.state != "succeeded":
            raise RuntimeError(f"the task did not succeed: {last}")
        took = watch.took(running.cpu_seconds() - cpu, running.peak_rss_mib() * 1.048576, seconds)
        await client.close()
        return took


def shell(command: str, rows: Set) -> Took:
    """The wall time and CPU time of a command line."""
    watch, before = Watch(rows.source_cpu), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.monotonic() - watch.begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    # Until the postmaster has reaped its backend, the backend's time is not counted.
    time.sleep(0.3)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return watch.took(cpu, 0.0, seconds)


# The quote is a character that does not occur in JSON, so nothing is quoted or escaped and the documents stay unchanged.
COPY = """COPY (SELECT "deviceId", doc FROM raw_data WHERE {where} AND "triggerTime" BETWEEN '{begin}' AND '{end}'
 ORDER BY {order}) TO STDOUT (FORMAT csv, DELIMITER E'\\t', QUOTE E'\\x01')"""


def psql_kcat(settings: SimpleNamespace, rows: Set, topic: str, flags: str) -> Took:
    """By hand: one COPY per device, or one for all of many devices; key and document, no headers, no checks."""
    if len(rows.devices) <= 100:
        wheres = [(f"\"deviceId\" = '{one}'", '"triggerTime", id') for one in rows.devices]
    else:
        wheres = [("true", '"deviceId", "triggerTime", id')]
    copies = [COPY.format(where=where, order=order, begin=source.BEGIN, end=source.END).replace("\n", "") for where, order in wheres]
    commands = " ".join("-c " + quoted(copy) for copy in copies)
    return shell(f"psql -X -q -d {quoted(rows.url)} {commands} | kcat -P -b {settings.kafka} -t {topic} -K $'\\t' {flags}", rows)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def script(settings: SimpleNamespace, rows: Set, topic: str) -> Took:
    devices = settings.work / "devices.txt"
    devices.write_text("\n".join(rows.devices))
    return shell(f"{sys.executable} {HERE}/careful.py {quoted(rows.url)} {settings.kafka} {topic} {devices} {source.BEGIN} {source.END}", rows)
