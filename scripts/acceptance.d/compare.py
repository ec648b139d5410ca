"""What the topic must hold, by the database's own word, and whether it does."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter

import psycopg

from broker import PARTITIONS, Record, java_partition
from common import Report

# In the order that the contract of the topic promises within a device; the order between devices does not matter.
ROWS = """
    SELECT "deviceId"::text, id, doc::text FROM raw_data
    WHERE "deviceId" = ANY(%s::uuid[]) AND "triggerTime" BETWEEN %s AND %s
    ORDER BY "deviceId", "triggerTime", id
"""


def digest(document: bytes) -> bytes:
    return hashlib.blake2b(document, digest_size=8).digest()


class Expected:
    """The rows of a request: for each its device, its rank in the device, and a hash of its document."""

    def __init__(self, url: str, devices: list[str], begin: str, end: str, rows: str = ROWS) -> None:
        self.index: dict[int, int] = {}
        self.digests = bytearray()
        self.devices: list[str] = []
        # Of each row, the device as an index of `devices`. The global index ascends within a device, so it serves as the rank.
        self.device_of = array("H")
        self.bytes = 0
        with psycopg.connect(url) as connection, connection.cursor(name="rows") as cursor:
            # A server-side cursor: the rows come in batches, and are gone once they are hashed.
            cursor.itersize = 20_000
            cursor.execute(rows, (devices, begin, end))
            for device, key, text in cursor:
                if not self.devices or self.devices[-1] != device:
                    self.devices.append(device)
                document = text.encode()
                self.index[key] = len(self.device_of)
                self.device_of.append(len(self.devices) - 1)
                self.digests += digest(document)
                self.bytes += len(document)

    def __len__(self) -> int:
        return len(self.device_of)

    def digest_of(self, index: int) -> bytes:
        return bytes(self.digests[8 * index : 8 * index + 8])


class Comparison:
    """Takes the records of one task as they are read, and keeps count of what is wrong with them."""

    def __init__(self, expected: Expected, task: str) -> None:
        self.expected = expected
        self.task = task
        self.seen = bytearray(len(expected))
        self.records = 0
        self.wrong: Counter[str] = Counter()
        self.example: dict[str, str] = {}
        # The device of each repeat, and when it was sent, in milliseconds.
        self.repeats: list[tuple[str, int]] = []
        # The rank of a device's last row that came for the first time.
        self._last: dict[int, int] = {}
        self._partition = {device: java_partition(device, PARTITIONS) for device in expected.devices}

    def take(self, record: Record) -> None:
        self.records += 1
        if record.headers.get("data-patch-task") != self.task:
            self._complain("task header", record)
        device, _, rest = record.headers.get("data-patch-row", "").partition("/")
        index = self.expected.index.get(_key(rest))
        if index is None:
            self._complain("unknown row", record)
            return
        owner = self.expected.device_of[index]
        if record.key != self.expected.devices[owner] or device != record.key:
            self._complain("key", record)
        elif record.partition != self._partition[record.key]:
            self._complain("partition", record)
        if digest(record.value) != self.expected.digest_of(index):
            self._complain("bytes", record)
        if self.seen[index]:
            # The first one counts; a consumer that drops repeats never sees this one.
            self.repeats.append((record.key, record.time_ms))
            return
        self.seen[index] = 1
        if self._last.get(owner, -1) >= index:
            self._complain("order", record)
        self._last[owner] = index

    def _complain(self, what: str, record: Record) -> None:
        self.wrong[what] += 1
        self.example.setdefault(what, f"{record.headers}, key {record.key}, partition {record.partition}")

    @property
    def missing(self) -> int:
        return len(self.seen) - sum(self.seen)

    def report(self, report: Report) -> None:
        report.equal("every row of the database is in the topic", self.missing, 0)
        for what, text in (
            ("unknown row", "nothing else is in it, each header data-patch-row names a row"),
            ("bytes", "each value is the row's doc::text, byte for byte"),
            ("order", "within a device the rows come in the order of (time, id), repeats dropped"),
            ("key", "the key is the device's id"),
            ("partition", "each lies in the partition of Java's murmur2"),
            ("task header", "the header data-patch-task is the task's id"),
        ):
            report.check(not self.wrong[what], text, f"{self.wrong[what]} are not, the first: {self.example.get(what)}")


def _key(rest: str) -> int:
    """The row key at the end of a header, or one that no row has."""
    text = rest.rpartition("/")[2]
    return int(text) if text.isdecimal() else -1
