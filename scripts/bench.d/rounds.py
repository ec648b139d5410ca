"""The contenders, one after the other, in rounds; and whether what they published is right."""

from __future__ import annotations

import os
import time

from contenders import ALL, Contender
from here import Settings, Sizes, say
from meter import Parties, Took
from sets import Digests, Set, of_case

from broker import PARTITIONS, create_topic, delete_topic
from common import fresh_name
from confluent_kafka import Consumer, TopicPartition


def run(case: str, settings: Settings, sizes: Sizes, only: list[str]) -> dict[str, object]:
    rows = of_case(case, settings, sizes)
    contenders = [contender for contender in ALL if not only or contender.key in only]
    rounds = sizes.rounds
    if case == "x10":
        contenders, rounds = [contender for contender in contenders if contender.key == "ours"], 1
    say(f"({case}) {rows.name}: reading all of it once, for the comparison, and for PostgreSQL's cache")
    expected = Digests.of_set(rows)
    parties = Parties(rows.url, settings.kafka)
    if case != "x10":
        # Kafka's broker is faster once its code has been compiled; nobody is to pay for that.
        warm = contenders[0]
        say(f"({case}) warm-up, not counted: {warm.name} {once(settings, parties, rows, warm, None).seconds:.2f} s")
    runs: list[dict[str, object]] = []
    for number in range(rounds):
        for contender in order(contenders, number):
            # Each contender's first run is read back, after its time was taken.
            took = once(settings, parties, rows, contender, expected if number == 0 else None)
            runs.append({"round": number + 1, "contender": contender.key, "rows": rows.rows} | took.asdict())
            say(
                f"({case}) round {number + 1} of {rounds}: {contender.name.replace(chr(92), '')} {took.seconds:.2f} s, "
                f"{rows.rows / took.seconds:,.0f} rows/s, CPU {took.cpu:.2f} s, others on the machine {took.other_cpu:.2f} s"
            )
    return {"name": rows.name, "rows": rows.rows, "runs": runs}


def order(contenders: list[Contender], number: int) -> list[Contender]:
    """Each goes first in its turn, and not always after the same other one."""
    first = number % len(contenders)
    turned = contenders[first:] + contenders[:first]
    return turned[:1] + turned[:0:-1] if number % 2 else turned


def once(settings: Settings, parties: Parties, rows: Set, contender: Contender, expected: Digests | None) -> Took:
    topic = fresh_name("bench")
    create_topic(settings.kafka, topic)
    try:
        # What the one before left to be written to the disk is not for this one to wait for.
        os.sync()
        time.sleep(0.5)
        took = contender.run(settings, parties, rows, topic)
        arrived = count(settings.kafka, topic)
        if arrived != rows.rows:
            raise RuntimeError(f"{contender.name}: {arrived:,} messages are in the topic, not {rows.rows:,}")
        if expected is not None:
            wrong = expected.differ(Digests.of_topic(settings.kafka, topic))
            if wrong:
                raise RuntimeError(f"{contender.name}: the documents of {len(wrong)} devices did not arrive as stored, in order: {wrong[:3]}")
            say(f"{contender.name.replace(chr(92), '')}: all {arrived:,} documents read back, byte for byte and in order")
        return took
    finally:
        delete_topic(settings.kafka, topic)


def count(brokers: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": topic, "log_level": 4})
    try:
        marks = [consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30) for number in range(PARTITIONS)]
    finally:
        consumer.close()
    return sum(high - low for low, high in marks)
