"""Kafka, through an independent client: topics, and reading one back from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

PARTITIONS = 3
# Warnings and worse only: the library tells of its own tidying up otherwise.
QUIET: dict[str, str | int | float | bool] = {"log_level": 4}


@dataclass(frozen=True)
class Record:
    """What came out of the topic."""

    partition: int
    time_ms: int
    key: str
    value: bytes
    headers: dict[str, str]


def create_topic(brokers: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": brokers, **QUIET})
    for created in admin.create_topics([NewTopic(name, num_partitions=PARTITIONS, replication_factor=1)]).values():
        created.result(30)


def delete_topic(brokers: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": brokers, **QUIET})
    for deleted in admin.delete_topics([name]).values():
        deleted.result(30)


def read_topic(brokers: str, name: str) -> Iterator[Record]:
    """All records, each partition in its own order, up to the high watermarks of the moment that it is called."""
    # No group's offsets are used or stored, though the library wants a name.
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": name, "enable.auto.commit": False, "check.crcs": True, **QUIET})
    try:
        places = []
        highs = {}
        for partition in range(PARTITIONS):
            low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=30)
            if high > low:
                places.append(TopicPartition(name, partition, low))
                highs[partition] = high
        consumer.assign(places)
        while highs:
            batch = consumer.consume(num_messages=5_000, timeout=30)
            if not batch:
                raise RuntimeError(f"Kafka gave nothing for 30 s before the high watermarks {highs}")
            for message in batch:
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
                record, offset = _record(message), message.offset()
                if record.partition not in highs or offset is None:
                    continue
                yield record
                if offset + 1 >= highs[record.partition]:
                    del highs[record.partition]
    finally:
        consumer.close()


class Ends:
    """How many records a topic has, watched."""

    def __init__(self, brokers: str, name: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": brokers, "group.id": name, "enable.auto.commit": False, **QUIET})
        self._name = name

    def total(self) -> int:
        return sum(
            self._consumer.get_watermark_offsets(TopicPartition(self._name, partition), timeout=30)[1]
            for partition in range(PARTITIONS)
        )

    def wait_for(self, total: int, seconds: float = 60) -> None:
        begin = time.monotonic()
        while self.total() < total:
            if time.monotonic() - begin > seconds:
                raise RuntimeError(f"the topic did not get {total} records within {seconds} s")
            time.sleep(0.02)

    def last_change(self, quiet: float) -> float:
        """Waits until nothing arrives for so many seconds; returns when the last record was seen to arrive."""
        last, changed = self.total(), time.monotonic()
        while time.monotonic() - changed < quiet:
            time.sleep(0.02)
            total = self.total()
            if total != last:
                last, changed = total, time.monotonic()
        return changed

    def watch(self, seconds: float) -> tuple[float, int, int]:
        """How long was watched, how many records came, and the most within any second."""
        samples = [(time.monotonic(), self.total())]
        while samples[-1][0] - samples[0][0] < seconds:
            time.sleep(0.02)
            samples.append((time.monotonic(), self.total()))
        most, start = 0, 0
        for at, total in samples:
            while at - samples[start][0] > 1:
                start += 1
            most = max(most, total - samples[start][1])
        return samples[-1][0] - samples[0][0], samples[-1][1] - samples[0][1], most

    def close(self) -> None:
        self._consumer.close()


def _record(message: Message) -> Record:
    # What is not there reads as empty, and what is not UTF-8 as broken: the comparison will say so, with the record's name.
    headers = {str(name): _bytes(value).decode(errors="replace") for name, value in list(message.headers() or [])}
    partition = message.partition()
    key = _bytes(message.key()).decode(errors="replace")
    return Record(-1 if partition is None else partition, message.timestamp()[1], key, _bytes(message.value()), headers)


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def java_partition(key: str, partitions: int) -> int:
    """Where Kafka's Java clients put a key: `toPositive(murmur2(key)) % partitions`."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed that Kafka's Java clients use; unsigned."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    hash_ = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        hash_ = hash_ * multiplier & mask ^ word
    if whole < len(data):
        hash_ = (hash_ ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    hash_ = (hash_ ^ hash_ >> 13) * multiplier & mask
    return hash_ ^ hash_ >> 15
