"""`elastic`: a million documents in a store of two nodes, with the service killed three times and the data node once."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psycopg

import source
from broker import create_topic
from common import ROOT, WORK, Report, Settings, fresh_name, note
from million import request
from service import Service
from watcher import PATIENCE, Watcher, judge

# The service is killed when so much is published, the data node at so much; it is away for some seconds.
SERVICE_KILLS = (0.15, 0.40, 0.75)
NODE_KILL = 0.55
NODE_AWAY_SECONDS = 5
# After the last document, and before today: a range that has not ended is read with a delay.
END = "2025-01-01T00:00:00+08:00"
INDEX = "raw_data"
BULK_BYTES = 8 << 20
# Documents of one time come in the order of their ids, as texts.
ROWS = """
    SELECT "deviceId"::text, id, doc::text FROM raw_data WHERE "deviceId" = ANY(%s::uuid[]) AND "triggerTime" BETWEEN %s AND %s
    ORDER BY "deviceId", "triggerTime", id::text COLLATE "C"
"""


class Node:
    """One server of scripts/elastic/node; it ends with us."""

    def __init__(self, version: str, home: Path, *settings: str) -> None:
        self._command = [str(ROOT / "scripts/elastic/node"), version, str(home), "0", *settings]
        self._home = home
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found: dict[str, int] = {}
        assert self._process.stdout is not None
        while found.keys() != {"READY", "TRANSPORT"}:
            match = re.fullmatch(r"(READY|TRANSPORT) (\d+)\n", self._process.stdout.readline())
            if match is None:
                raise RuntimeError(f"the node did not start; see {self._home}/node.log")
            found[match[1]] = int(match[2])
        self.port, self.transport = found["READY"], found["TRANSPORT"]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Store:
    """A master, which is asked, and a data node, which has the shard."""

    def __init__(self, version: str) -> None:
        folder = WORK / "run" / fresh_name("elastic")
        self.has_types = version.startswith(("elasticsearch-5", "elasticsearch-6"))
        self.master = Node(version, folder / "master", "node.name=master", "node.roles=master", "cluster.initial_master_nodes=master")
        self.data = Node(version, folder / "data", "node.name=data", "node.roles=data", f"discovery.seed_hosts=127.0.0.1:{self.master.transport}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.master.port}/{INDEX}"

    def ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, object]:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.master.port}{path}", body, {"content-type": "application/json"}, method=method
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=120) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def load(self, url: str) -> None:
        fields = {"dynamic": False, "properties": {"deviceId": {"type": "keyword"}, "triggerTime": {"type": "date"}}}
        mappings = {"doc": fields} if self.has_types else fields
        settings = {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": -1}
        self.ask("PUT", f"/{INDEX}", json.dumps({"settings": settings, "mappings": mappings}).encode())
        bulk = f"/{INDEX}/doc/_bulk" if self.has_types else f"/{INDEX}/_bulk"
        for body in bulks(url):
            if self.ask("POST", f"{bulk}?filter_path=errors", body) != {"errors": False}:
                raise RuntimeError("not all documents were accepted")
        self.ask("POST", f"/{INDEX}/_refresh")
        self.ask("POST", f"/{INDEX}/_flush?force=true&wait_if_ongoing=true")

    def restart_data(self) -> float:
        begin = time.monotonic()
        self.data.kill()
        time.sleep(NODE_AWAY_SECONDS)
        self.data.start()
        self.ask("GET", "/_cluster/health?wait_for_status=green&timeout=60s")
        return time.monotonic() - begin

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.data.kill()
        self.master.kill()


def bulks(url: str, readings: str = "raw_data") -> Iterator[bytes]:
    """The bodies of bulk requests with all of `readings`, a table or a query in parentheses."""
    body = bytearray()
    with psycopg.connect(url) as connection, connection.cursor(name="load") as cursor:
        # In the order of the table, from its first page.
        connection.execute("SET max_parallel_workers_per_gather = 0; SET synchronize_seqscans = off")
        cursor.itersize = 10_000
        cursor.execute(f"SELECT id, doc::text FROM {readings} AS rows")
        for key, doc in cursor:
            body += b'{"index":{"_id":"%d"}}\n%b\n' % (key, doc.encode())
            if len(body) > BULK_BYTES:
                yield bytes(body)
                body.clear()
    if body:
        yield bytes(body)


async def run(settings: Settings) -> Report:
    report = Report("elastic")
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("elastic")
    create_topic(settings.kafka, topic)
    note(f"filling {settings.elastic} ...")
    with Store(settings.elastic) as store:
        store.load(url)
        with Service(settings, "elastic", url, topic, IOTA_READINGS_URL=store.url) as service:
            service.start()
            service.wait_ready()
            task, watcher, seconds = await patch(settings, report, topic, service, store)
            report.equal("SIGTERM ends it with code 0", service.stop(), 0)
    report.figure("store", settings.elastic)
    judge(report, settings, url, topic, task, [watcher], seconds, ROWS)
    return report


async def patch(settings: Settings, report: Report, topic: str, service: Service, store: Store) -> tuple[str, Watcher, float]:
    watcher = Watcher(service)
    begin = time.monotonic()
    # Slow enough that the last fault still finds it at work.
    task = await watcher.submit(request(topic) | {"to": END, "rate": max(1, settings.rows // 40)})
    following = asyncio.create_task(watcher.follow(task))
    happened = 0
    for share in sorted([*SERVICE_KILLS, NODE_KILL]):
        while watcher.progress.published < share * settings.rows and not following.done():
            await asyncio.sleep(0.02)
        happened += not following.done()
        what = "the data node" if share == NODE_KILL else "the service"
        note(f"{time.monotonic() - begin:.0f} s, {watcher.progress.published:,} rows: {what} is killed")
        if share == NODE_KILL:
            report.figure("the data node was away, s", await asyncio.to_thread(store.restart_data))
        else:
            service.kill()
            service.start()
            await asyncio.to_thread(service.wait_ready)
    report.equal("every fault came while the task was at work", happened, len(SERVICE_KILLS) + 1)
    await asyncio.wait_for(following, PATIENCE)
    return task, watcher, watcher.events[-1].at - begin
