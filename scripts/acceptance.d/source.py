"""PostgreSQL: the databases that the service reads from, as IoTA's own tables are."""

from __future__ import annotations

import os
import shutil
import subprocess
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from common import DEVICES, ROOT, note

THING = "5ca1ab1e-0000-4000-8000-000000000001"
# A reading every 30 seconds, from here on.
BEGIN = "2024-01-01T00:00:00+08:00"
# After the last of them, whatever the scale.
END = "2034-01-01T00:00:00+08:00"
SAMPLE = ROOT / "deploy" / "postgres" / "10-iota-sample.sql"

TABLES = """
CREATE TABLE "Device" (id uuid PRIMARY KEY, name text, "thingId" uuid NOT NULL);
CREATE TABLE raw_data (id bigint PRIMARY KEY, "deviceId" uuid NOT NULL, "triggerTime" timestamptz NOT NULL, doc jsonb NOT NULL);
"""

# In the order of arrival: one reading of each device, then the next, as a live source is written. That order is made
# worthless to whoever would rely on it:
# - each tenth reading has the time of the one before, so ties must be broken by id;
# - ids run backwards in groups of four, so within a tie the later arrival has the smaller id.
# Values keep trailing zeros, some messages hold what JSON must escape, and Chinese: bytes that a re-modelling would change.
READINGS = """
INSERT INTO raw_data (id, "deviceId", "triggerTime", doc)
SELECT (k # 3) * {devices} + d, device, at, jsonb_build_object(
    'userId', '00000001-107a-4000-8000-000000000001', 'thingId', {thing},
    'dimensionId', '00000002-107a-4000-8000-000000000001', 'dimCapId', '00000003-107a-4000-8000-000000000001',
    'capId', '00000004-107a-4000-8000-000000000001', 'deviceId', device,
    'scheduleId', lpad(d::text, 8, '0') || '-107a-4000-8000-000000000005', 'taskId', lpad(k::text, 8, '0') || '-107a-4000-8000-000000000006',
    'jobId', d, 'jobRepeatId', k + 1,
    'triggerTime', to_char(at AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD"T"HH24:MI:SS"+08:00"'),
    'realTime', to_char(at AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD"T"HH24:MI:SS".012345678+08:00"'),
    'finishTime', to_char(at AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD"T"HH24:MI:SS".340097263+08:00"'),
    'seq', 0, 'released', k % 7 = 0,
    'data', jsonb_build_object('type', 1,
        'data', jsonb_build_object('pressure', (12500 + (k * 7919 + d) % 600)::numeric / 1000, 'temp', ((k * 31) % 400)::numeric(9, 2)),
        'result', jsonb_build_object('code', 0, 'msg', CASE WHEN k % 100 = 0 THEN E'正常 "ok" \\\\ \\n €😀' ELSE '' END,
            'detail', null, 'errTimes', 0, 'dropped', false)))
FROM generate_series(0, {rows} - 1) AS k
CROSS JOIN generate_series(1, {devices}) AS d
CROSS JOIN LATERAL (SELECT
    ('00000000-0000-4000-8000-' || lpad(d::text, 12, '0'))::uuid AS device,
    {begin}::timestamptz + (k - CASE WHEN k % 10 = 9 THEN 1 ELSE 0 END) * INTERVAL '30 seconds' AS at) AS row
ORDER BY k, d
"""

# Says too how it was made: one that was made otherwise is made anew.
DONE = "complete, in the order of arrival"


def million_devices() -> list[str]:
    return [f"00000000-0000-4000-8000-{number:012}" for number in range(1, DEVICES + 1)]


def database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def million(admin: str, rows_per_device: int) -> str:
    """Ten devices with so many rows each; made once, then found again. Returns its URL."""
    name = f"acceptance_{rows_per_device * DEVICES}"
    url = database(admin, name)
    if is_done(admin, name):
        return url
    note(f"making database {name} ...")
    begin(admin, name, TABLES)
    with psycopg.connect(url, autocommit=True) as fresh:
        fresh.cursor().executemany(
            'INSERT INTO "Device" VALUES (%s, %s, %s)',
            [(device, f"静力水准仪{number:02}", THING) for number, device in enumerate(million_devices(), start=1)],
        )
        fresh.execute(
            sql.SQL(READINGS).format(
                rows=sql.SQL("{}::bigint").format(sql.Literal(rows_per_device)), devices=sql.Literal(DEVICES), thing=sql.Literal(THING), begin=sql.Literal(BEGIN)
            )
        )
    finish(admin, name)
    return url


def is_done(admin: str, name: str) -> bool:
    with psycopg.connect(admin, autocommit=True) as connection:
        found = connection.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (name,)).fetchone()
    return found is not None and found[0] == DONE


def begin(admin: str, name: str, tables: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        recreate(connection, name)
    with psycopg.connect(database(admin, name), autocommit=True) as fresh:
        fresh.execute(tables)


def finish(admin: str, name: str) -> None:
    with psycopg.connect(database(admin, name), autocommit=True) as fresh:
        fresh.execute('CREATE INDEX raw_data_device_time ON raw_data ("deviceId", "triggerTime", id)')
        # As is usual where the disk is an SSD, or all is in memory. By default the planner is so near to sorting the whole
        # table for each device that the chance of a sample decides, for whoever asks for all rows of a device at once.
        fresh.execute(sql.SQL("ALTER DATABASE {} SET random_page_cost = 1.1").format(sql.Identifier(name)))
        fresh.execute("VACUUM ANALYZE")
    with psycopg.connect(admin, autocommit=True) as connection:
        # The mark comes last: a database that was left half made is made anew.
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(DONE)))


def sample(admin: str) -> str:
    """The sample of deploy/, loaded as its own head says. Returns its URL."""
    psql = shutil.which("psql")
    if psql is None:
        raise RuntimeError("psql is needed to load the sample")
    name = f"acceptance_sample_{os.getpid()}"
    with psycopg.connect(admin, autocommit=True) as connection:
        recreate(connection, name)
    url = database(admin, name)
    subprocess.run([psql, "-X", "-q", "-d", url, "-f", str(SAMPLE)], check=True, stdout=subprocess.DEVNULL)
    return url


def drop(admin: str, url: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        name = urlsplit(url).path.lstrip("/")
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def recreate(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
