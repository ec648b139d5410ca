"""The rows: made once, kept as databases of the test server, the same for every contender."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import psycopg
from here import Settings, Sizes, say
from psycopg import sql

import store
from broker import read_topic


@dataclass(frozen=True)
class Set:
    """Rows of some devices of one thing."""

    name: str
    url: str
    devices: list[str]
    rows: int

    def request(self, topic: str) -> dict[str, object]:
        return {"topic": topic, "thingId": store.THING, "devices": self.devices, "from": store.BEGIN, "to": store.END}


def of_case(case: str, settings: Settings, sizes: Sizes) -> Set:
    admin, rows = settings.postgres, sizes.rows
    match case:
        case "a":
            return ten(admin, rows)
        case "b":
            name = f"{rows:,} rows in 10 devices, json"
            return made(name, admin, f"bench_json_{rows}", 10, rows // 10, "json")
        case "c":
            devices = sizes.small_devices
            return made(f"{devices:,} devices of 20 rows, jsonb", admin, f"bench_small_{devices}", devices, 20)
        case "f":
            return made(f"one device of {rows:,} rows, jsonb", admin, f"bench_one_{rows}", 1, rows)
        case _:
            return made(f"{10 * rows:,} rows in 10 devices, jsonb", admin, f"bench_jsonb_{10 * rows}", 10, rows)


def ten(admin: str, rows: int) -> Set:
    """The acceptance run's own database, made by whichever of the two needs it first."""
    url = store.million(admin, rows // 10)
    return Set(f"{rows:,} rows in 10 devices, jsonb", url, store.million_devices(), rows)


def made(name: str, admin: str, database: str, devices: int, rows_each: int, kind: str = "jsonb") -> Set:
    """Rows in the order of their arrival: a reading of each device, then the next, as a live store is written."""
    url = store.database(admin, database)
    result = Set(name, url, [device(number) for number in range(1, devices + 1)], devices * rows_each)
    with psycopg.connect(admin, autocommit=True) as connection:
        found = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (database,)
        ).fetchone()
        if found is not None and found[0] == store.DONE:
            return result
        say(f"making database {database}: {result.rows:,} rows ...")
        store.recreate(connection, database)
        with psycopg.connect(url, autocommit=True) as fresh:
            fresh.execute(store.TABLES.replace("doc jsonb", f"doc {kind}"))
            fresh.execute(
                sql.SQL(
                    """INSERT INTO "Device" SELECT ('00000000-0000-4000-8000-' || lpad(d::text, 12, '0'))::uuid, '静力水准仪' || d, {thing}
                    FROM generate_series(1, {devices}) AS d"""
                ).format(thing=sql.Literal(store.THING), devices=sql.Literal(devices))
            )
            # Where the column is `json`, the documents are cast as they go in: the same rows, to the byte. The number of
            # rows as bigint, since values are made of products with it that an integer can't hold.
            fresh.execute(
                sql.SQL(store.READINGS).format(
                    rows=sql.SQL("{}::bigint").format(sql.Literal(rows_each)), devices=sql.Literal(devices),
                    thing=sql.Literal(store.THING), begin=sql.Literal(store.BEGIN),
                )
            )
            fresh.execute('CREATE INDEX raw_data_device_time ON raw_data ("deviceId", "triggerTime", id)')
            fresh.execute("VACUUM ANALYZE")
        # The mark comes last: a database that was left half made is made anew.
        connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), sql.Literal(store.DONE))
        )
    return result


def device(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


class Digests:
    """What is in a set, or arrived of it: of each device all its documents in their order, hashed. Equal digests mean the
    same rows, byte for byte, in the same order, without repeats; of how many rows does not matter to the memory it takes."""

    def __init__(self) -> None:
        self._devices: dict[str, hashlib.blake2b] = {}

    def take(self, key: str, document: bytes) -> None:
        if key not in self._devices:
            self._devices[key] = hashlib.blake2b(digest_size=16)
        # The length tells where a document ends.
        self._devices[key].update(len(document).to_bytes(4, "little") + document)

    def differ(self, other: Digests) -> list[str]:
        """The devices whose documents are not the same in both."""
        mine, others = ({key: state.digest() for key, state in of._devices.items()} for of in (self, other))
        return sorted(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))

    @staticmethod
    def of_set(rows: Set) -> Digests:
        """By the database's own word. It also reads every row once, so PostgreSQL's cache is warm for all afterwards."""
        digests = Digests()
        with psycopg.connect(rows.url) as connection, connection.cursor(name="rows") as cursor:
            cursor.itersize = 20_000
            cursor.execute(
                'SELECT "deviceId"::text, doc::text FROM raw_data WHERE "triggerTime" BETWEEN %s AND %s'
                ' ORDER BY "deviceId", "triggerTime", id',
                (store.BEGIN, store.END),
            )
            for key, text in cursor:
                digests.take(key, text.encode())
        return digests

    @staticmethod
    def of_topic(brokers: str, topic: str) -> Digests:
        digests = Digests()
        for record in read_topic(brokers, topic):
            digests.take(record.key, record.value)
        return digests
