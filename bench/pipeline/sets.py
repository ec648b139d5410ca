"""The data sets: created once, as databases of the test server, and used by all contenders."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
from cpu import postgres_cpu
from psycopg import sql

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "acceptance.d"))
import source  # noqa: E402


@dataclass(frozen=True)
class Set:
    """Rows of some devices of one thing."""

    url: str
    devices: list[str]
    rows: int

    def request(self, topic: str) -> dict[str, object]:
        return {"topic": topic, "thingId": source.THING, "devices": self.devices, "from": source.BEGIN, "to": source.END}

    def options(self) -> dict[str, str]:
        """Options of the service, by the names of their variables, besides the URL."""
        return {}

    def source_cpu(self) -> float:
        return postgres_cpu()


def device(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def jsonb(admin: str, name: str, devices: int, rows_each: int) -> Set:
    """Rows in the order of arrival, as in production: one reading of each device, then the next of each."""
    url = source.database(admin, name)
    result = Set(url, [device(number) for number in range(1, devices + 1)], devices * rows_each)
    if source.is_done(admin, name):
        return result
    say(f"making database {name}: {result.rows:,} rows ...")
    source.begin(admin, name, source.TABLES)
    with psycopg.connect(url, autocommit=True) as fresh:
        fresh.execute(
            sql.SQL(
                """INSERT INTO "Device" SELECT ('00000000-0000-4000-8000-' || lpad(d::text, 12, '0'))::uuid, '静力水准仪' || d, {thing}
                FROM generate_series(1, {devices}) AS d"""
            ).format(thing=sql.Literal(source.THING), devices=sql.Literal(devices))
        )
        fresh.execute(
            sql.SQL(source.READINGS).format(
                rows=sql.SQL("{}::bigint").format(sql.Literal(rows_each)), devices=sql.Literal(devices), thing=sql.Literal(source.THING), begin=sql.Literal(source.BEGIN)
            )
        )
    source.finish(admin, name)
    return result


def json(admin: str, name: str, of: Set) -> Set:
    """The same rows, their documents as `json`."""
    url = source.database(admin, name)
    result = Set(url, of.devices, of.rows)
    if source.is_done(admin, name):
        return result
    say(f"making database {name}: the same rows as json ...")
    source.begin(admin, name, source.TABLES.replace("doc jsonb", "doc json"))
    for table in ('"Device"', "raw_data"):
        # From the first page: with synchronized scans, a scan would start in the middle.
        copy = f"SET synchronize_seqscans = off; COPY {table} TO STDOUT"
        out = subprocess.Popen(["psql", "-X", "-q", "-d", of.url, "-c", copy], stdout=subprocess.PIPE)
        subprocess.run(["psql", "-X", "-q", "-d", url, "-c", f"COPY {table} FROM STDIN"], stdin=out.stdout, check=True)
        if out.wait() != 0:
            raise RuntimeError(f"{table} could not be copied")
    source.finish(admin, name)
    return result


def say(text: str) -> None:
    print(f"  .. {text}", file=sys.stderr, flush=True)
