"""Times the contract's sample request from submit to `task finished`, repeatedly on one connection."""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace

import audience
import sample
from sets import source

from broker import create_topic, delete_topic
from client import Client
from common import fresh_name
from service import Service

WARM_UPS = 10
RUNS = 200


async def run(settings: SimpleNamespace, runs: int) -> dict[str, float]:
    """Returns the time in milliseconds."""
    url, topic = source.sample(settings.postgres), fresh_name("bench-sample")
    create_topic(settings.kafka, topic)
    request: dict[str, object] = {
        "topic": topic, "thingId": sample.THING, "devices": sample.DEVICES, "from": sample.FROM, "to": sample.TO,
    }
    took, created = [], []
    try:
        with Service(settings, "bench-sample", url, topic) as service:
            service.start()
            service.wait_ready()
            client = await Client.open(service.url, service.token)
            with audience.of(settings, service):
                for _ in range(WARM_UPS + runs):
                    begin = time.monotonic()
                    await client.submit(request)
                    created.append(1000 * (time.monotonic() - begin))
                    last = None
                    async for event in client.events():
                        last = event
                    if last is None or last.state != "succeeded":
                        raise RuntimeError(f"a sample did not succeed: {last}")
                    took.append(1000 * (time.monotonic() - begin))
            await client.close()
    finally:
        delete_topic(settings.kafka, topic)
        source.drop(settings.postgres, url)
    took, created = took[WARM_UPS:], created[WARM_UPS:]
    return {
        "p50": statistics.median(took),
        "p99": statistics.quantiles(took, n=100)[98],
        "max": max(took),
        "created p50": statistics.median(created),
    }
