"""(d) The contract's sample: how long somebody waits from the submit to `task finished`."""

from __future__ import annotations

import time

from here import Settings, Sizes, say
from rounds import count

import sample
import store
from broker import create_topic, delete_topic
from client import Client
from common import fresh_name
from service import Service

WARM_UPS = 10
# The contract's own request names two of the sample's devices; scripts/acceptance asks for all seven of their thing.
REQUESTS = {"two": [sample.DEVICES[0], sample.LEVEL_06], "seven": sample.DEVICES}


async def run(settings: Settings, sizes: Sizes) -> dict[str, object]:
    url = store.sample(settings.postgres)
    try:
        result: dict[str, object] = {"name": "the contract's sample"}
        for name, devices in REQUESTS.items():
            result[name] = await measure(settings, sizes.submits, url, devices)
        return result
    finally:
        store.drop(settings.postgres, url)


async def measure(settings: Settings, submits: int, url: str, devices: list[str]) -> dict[str, object]:
    topic = fresh_name("bench-sample")
    create_topic(settings.kafka, topic)
    request: dict[str, object] = {
        "topic": topic, "thingId": sample.THING, "devices": devices, "from": sample.FROM, "to": sample.TO,
    }
    created, finished = [], []
    try:
        with Service(settings, "bench-sample", url, topic) as service:
            service.start()
            service.wait_ready()
            client = await Client.open(service.url, service.token)
            arrived = 0
            for number in range(WARM_UPS + submits):
                begin, last = time.monotonic(), None
                await client.submit(request)
                answered = time.monotonic()
                async for event in client.events():
                    last = event
                if last is None or last.state != "succeeded":
                    raise RuntimeError(f"a submit did not succeed: {last}")
                created.append(1000 * (answered - begin))
                finished.append(1000 * (last.at - begin))
                if number == 0:
                    arrived = count(settings.kafka, topic)
            await client.close()
            peak = service.peak_rss_mib() * 2**20 / 1e6
        total = count(settings.kafka, topic)
        if not arrived or total != arrived * (WARM_UPS + submits):
            raise RuntimeError(f"{total:,} messages are in the topic, not {WARM_UPS + submits} times {arrived:,}")
    finally:
        delete_topic(settings.kafka, topic)
    say(f"(d) {len(devices)} devices, {arrived:,} rows: {submits} submits measured")
    return {
        "devices": len(devices), "rows": arrived, "peak_mb": peak,
        "created_ms": created[WARM_UPS:], "finished_ms": finished[WARM_UPS:],
    }
