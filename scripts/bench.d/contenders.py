"""Who moves the rows: the service, `psql | kcat` with and without equal promises, and a careful script."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from here import HERE, WORK, Settings
from meter import Meter, Parties, Peaks, Took
from sets import Set

import store
from client import Client
from service import Service

# What the service promises, so that both do the same: every replica has it, no repeats, compressed, and in the partition
# where Kafka's Java clients would put the key. And 50 ms for a batch to fill, with which it is faster than with its own 5.
EQUAL = ["-z", "lz4", "-X", "acks=all", "-X", "enable.idempotence=true", "-X", "topic.partitioner=murmur2_random", "-X", "linger.ms=50"]

# CSV with a character as quote that no JSON text holds, and a tab, which is none either: nothing is quoted or escaped,
# and the documents arrive byte for byte. COPY's text format doubles backslashes; `psql -At` first collects all rows.
COPY = (
    """COPY (SELECT "deviceId", doc FROM raw_data WHERE {where} "triggerTime" BETWEEN '{begin}' AND '{end}' """
    """ORDER BY {order}) TO STDOUT (FORMAT csv, DELIMITER E'\\t', QUOTE E'\\x01')"""
)
# More devices than this are copied with one query, in the order of devices: by far the fastest way for psql.
ONE_BY_ONE = 100


@dataclass(frozen=True)
class Contender:
    key: str
    name: str
    run: Callable[[Settings, Parties, Set, str], Took]


def service(settings: Settings, parties: Parties, rows: Set, topic: str) -> Took:
    """A service with a fresh queue and its own defaults; from the submit to `task finished`."""
    return asyncio.run(_service(settings, parties, rows, topic))


async def _service(settings: Settings, parties: Parties, rows: Set, topic: str) -> Took:
    with Service(settings, "bench", rows.url, topic) as running:
        running.start()
        running.wait_ready()
        client = await Client.open(running.url, running.token)
        cpu, meter, last = running.cpu_seconds(), Meter(parties), None
        await client.submit(rows.request(topic))
        async for event in client.events():
            last = event
        meter.stop()
        took = meter.took(running.cpu_seconds() - cpu, running.peak_rss_mib() * 2**20 / 1e6)
        await client.close()
    if last is None or last.state != "succeeded":
        raise RuntimeError(f"the task did not succeed: {last}; see {running.log_path}")
    if running.complaints():
        raise RuntimeError(f"the service's log complains: {running.complaints()[0]}")
    return took


def psql_kcat(flags: list[str]) -> Callable[[Settings, Parties, Set, str], Took]:
    """By hand: a COPY for each device, or one for all where they are many. Key and document; no headers, no checks, and
    whoever breaks it off does not know where it was."""

    def run(settings: Settings, parties: Parties, rows: Set, topic: str) -> Took:
        if len(rows.devices) <= ONE_BY_ONE:
            wheres = [(f"\"deviceId\" = '{device}' AND", '"triggerTime", id') for device in rows.devices]
        else:
            wheres = [("", '"deviceId", "triggerTime", id')]
        psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", rows.url]
        for where, order in wheres:
            psql += ["-c", COPY.format(where=where, order=order, begin=store.BEGIN, end=store.END)]
        kcat = ["kcat", "-P", "-b", settings.kafka, "-t", topic, "-K", "\\t", *flags]
        return piped(parties, [psql, kcat])

    return run


def script(settings: Settings, parties: Parties, rows: Set, topic: str) -> Took:
    WORK.mkdir(parents=True, exist_ok=True)
    devices, cursor = WORK / "careful.devices", WORK / "careful.cursor"
    devices.write_text("\n".join(rows.devices))
    cursor.unlink(missing_ok=True)
    arguments = [rows.url, settings.kafka, topic, devices, cursor, store.BEGIN, store.END]
    return piped(parties, [[sys.executable, str(HERE / "careful.py"), *map(str, arguments)]])


def piped(parties: Parties, commands: list[list[str]]) -> Took:
    """Runs commands as a pipeline; all must end well."""
    started: list[subprocess.Popen[bytes]] = []
    meter = Meter(parties)
    try:
        for command in commands:
            last = command is commands[-1]
            started.append(
                subprocess.Popen(
                    command,
                    stdin=started[-1].stdout if started else subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                )
            )
            if len(started) > 1 and (pipe := started[-2].stdout):
                # Or else the first would never notice that the second is gone.
                pipe.close()
        peaks = Peaks([process.pid for process in started])
        cpu = 0.0
        for process in reversed(started):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
        meter.stop()
        peak = peaks.stop()
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                process.wait()
    for command, process in zip(commands, started):
        if process.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {' '.join(command)[:500]}")
    return meter.took(cpu, peak)


ALL = [
    Contender("ours", "data-patch", service),
    Contender("equal", "psql \\| kcat, same promises", psql_kcat(EQUAL)),
    Contender("plain", "psql \\| kcat, plain", psql_kcat([])),
    Contender("script", "Python script", script),
]
