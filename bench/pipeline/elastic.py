"""A private OpenSearch, and the sets in it: the documents of the PostgreSQL sets, each set an index that is kept."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psycopg
import xxhash
from cpu import cpu_of_process
from sets import Set, say, source

from broker import read_topic
from documents import bulks

ROOT = Path(__file__).resolve().parents[2]
VERSION = "opensearch-2.19"
# As a server of its own would have it, and not one that runs beside tests; two processors are all that the machine has.
JAVA = "-Xms2g -Xmx2g -XX:-UseSerialGC -XX:+UseG1GC -XX:TieredStopAtLevel=4 -XX:ActiveProcessorCount=2"
# After the last document of each set, and before today: a range that has not ended is read with a delay.
END = "2025-01-01T00:00:00+08:00"
PAGE = 10_000
INDEX = {
    "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": -1},
    # What is not searched for is only stored.
    "mappings": {"dynamic": False, "properties": {"deviceId": {"type": "keyword"}, "triggerTime": {"type": "date"}}},
}
# In the order of arrival, as the PostgreSQL sets are.
READINGS = 'SELECT id, "deviceId", "triggerTime", doc FROM raw_data'
# Each 25,000 readings of a device at one millisecond.
EQUAL_TIMES = """SELECT id, "deviceId", at AS "triggerTime", jsonb_set(doc, '{triggerTime}', to_jsonb(text)) AS doc FROM (
    SELECT *, first_value("triggerTime") OVER same AS at, first_value(doc->>'triggerTime') OVER same AS text FROM raw_data
    WINDOW same AS (PARTITION BY "deviceId", (id - 1) / 25000 ORDER BY "triggerTime", id)) AS rows"""


class Node:
    """The server; it ends with us."""

    def __init__(self) -> None:
        self.home = ROOT / "target/bench" / VERSION
        environment = os.environ | {"DATA_PATCH_TEST_ELASTIC_JAVA": os.environ.get("DATA_PATCH_TEST_ELASTIC_JAVA", JAVA)}
        self.process = subprocess.Popen(
            [ROOT / "scripts/elastic/node", VERSION, self.home, "0"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready = re.fullmatch(r"READY (\d+)\n", self.process.stdout.readline())
        if ready is None:
            raise RuntimeError(f"{VERSION} did not start; see {self.home}/node.log")
        self.address = f"127.0.0.1:{ready[1]}"
        self.connection = http.client.HTTPConnection(self.address, timeout=600)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def ask(self, method: str, path: str, body: bytes | str | None = None, may_fail: bool = False) -> dict[str, object] | None:
        self.connection.request(method, path, body, {"content-type": "application/json"})
        response = self.connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            if may_fail:
                return None
            raise RuntimeError(f"{method} {path}: {response.status} {answer[:1000]!r}")
        return json.loads(answer)

    def cpu(self) -> float:
        return cpu_of_process(self.process.pid)


@dataclass(frozen=True)
class ElasticSet(Set):
    """The same, its readings in an index."""

    node: Node = field(repr=False)
    index: str
    # The documents, as SQL on the database that they come from.
    documents: str

    def request(self, topic: str) -> dict[str, object]:
        return super().request(topic) | {"to": END}

    def options(self) -> dict[str, str]:
        return {"IOTA_READINGS_URL": f"{self.node.url}/{self.index}"}

    def source_cpu(self) -> float:
        return self.node.cpu()

    def search(self, work: Path) -> Path:
        """What the contenders ask: all devices at once, in the order of time."""
        file = work / "search.json"
        query = {"bool": {"filter": [
            {"terms": {"deviceId": self.devices}},
            {"range": {"triggerTime": {"gte": source.BEGIN, "lt": END}}},
        ]}}  # fmt: skip
        file.write_text(json.dumps({"size": PAGE, "query": query, "sort": ["triggerTime"]}))
        return file


def of(node: Node, name: str, rows: Set, documents: str = READINGS) -> ElasticSet:
    """The index of a PostgreSQL set; made once, and again when anything about it has changed."""
    recipe = json.dumps([documents, source.READINGS, source.BEGIN, INDEX])
    index = f"{name}_{rows.rows}_{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    result = ElasticSet(rows.url, rows.devices, rows.rows, node, index, documents)
    found = node.ask("GET", f"/{index}/_count", may_fail=True)
    if found is None or found["count"] != rows.rows:
        load(node, index, result)
    shards = node.ask("GET", f"/{index}/_stats/segments,store")["_all"]["primaries"]
    say(f"{index}: {shards['segments']['count']} segments, {shards['store']['size_in_bytes'] >> 20} MB")
    return result


def load(node: Node, index: str, rows: ElasticSet) -> None:
    say(f"making index {index}: {rows.rows:,} documents ...")
    node.ask("DELETE", f"/{index}", may_fail=True)
    node.ask("PUT", f"/{index}", json.dumps(INDEX))
    for body in bulks(rows.url, f"({rows.documents})"):
        answer = node.ask("POST", f"/{index}/_bulk?filter_path=errors", body)
        if answer != {"errors": False}:
            raise RuntimeError(f"not all documents were accepted by {index}")
    node.ask("PUT", f"/{index}/_settings", json.dumps({"index": {"refresh_interval": None}}))
    node.ask("POST", f"/{index}/_flush?wait_if_ongoing=true&force=true")
    node.ask("POST", f"/{index}/_refresh")
    # Merges that have begun go on for a while, and would take part in the first round.
    while node.ask("GET", f"/{index}/_stats/merge")["_all"]["primaries"]["merges"]["current"]:
        time.sleep(1)


def check_topic(settings: SimpleNamespace, rows: ElasticSet, topic: str) -> None:
    """Each device's messages: all its documents, byte for byte, in the order of time and `_id`."""
    expected = {device: xxhash.xxh3_128() for device in rows.devices}
    found = {device: xxhash.xxh3_128() for device in rows.devices}
    with psycopg.connect(rows.url) as connection, connection.cursor(name="check") as cursor:
        cursor.itersize = 10_000
        cursor.execute(
            f'SELECT "deviceId"::text, doc::text FROM ({rows.documents}) AS rows ORDER BY "triggerTime", id::text COLLATE "C"'
        )
        for device, doc in cursor:
            if device in expected:
                expected[device].update(doc.encode() + b"\n")
    for record in read_topic(settings.kafka, topic):
        found[record.key].update(record.value + b"\n")
    wrong = [device for device in rows.devices if found[device].digest() != expected[device].digest()]
    if wrong:
        raise RuntimeError(f"{len(wrong)} devices are not in the topic as they are stored, the first: {wrong[0]}")
    say(f"{rows.rows:,} messages: documents byte for byte, in order by device")
