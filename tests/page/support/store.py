"""Writes an SQLite source for the tests of the page: store.py FILE MANY

It has a bridge with seven devices, of which one has a gap, and a dam
with eleven, of which one has rows that ET cannot read; and a tunnel with MANY devices of two rows each.
"""
import json
import sqlite3
import sys
import uuid

HOUR = 3_600_000
# 2019-01-11T00:00:00+08:00
START = 1_547_136_000_000
DAYS = 11

BRIDGE = "9d9d14b3-cf77-4cba-934b-faeaf2d153ba"
DAM = "7dea63f9-d15f-4ef2-8d70-d8e256d637a0"
TUNNEL = "3f1c2a44-5b1e-4f0e-9d0a-6f0c4a1b2c3d"


def device_id(name):
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def document(device, time_ms, value):
    return json.dumps({"deviceId": device, "triggerTime": time_ms, "data": {"data": {"pressure": value}}})


def main(path, many):
    db = sqlite3.connect(path)
    db.executescript(
        """
        CREATE TABLE "Thing" (id TEXT PRIMARY KEY NOT NULL, name TEXT);
        CREATE TABLE "Device" (id TEXT PRIMARY KEY NOT NULL, name TEXT, "thingId" TEXT NOT NULL);
        CREATE INDEX device_thing ON "Device" ("thingId");
        CREATE TABLE raw_data (id INTEGER PRIMARY KEY, "deviceId" TEXT NOT NULL, "triggerTime" INTEGER NOT NULL, doc TEXT);
        CREATE INDEX raw_data_device_time ON raw_data ("deviceId", "triggerTime", id);
        """
    )
    db.executemany('INSERT INTO "Thing" VALUES (?, ?)', [(BRIDGE, "东海大桥"), (DAM, "乌东德大坝"), (TUNNEL, "港珠澳隧道")])
    key = 0

    def add(thing, name, rows):
        nonlocal key
        device = device_id(name)
        db.execute('INSERT INTO "Device" VALUES (?, ?, ?)', (device, name, thing))
        values = []
        for time, doc in rows:
            key += 1
            values.append((key, device, time, doc or document(device, time, key % 97)))
        db.executemany("INSERT INTO raw_data VALUES (?, ?, ?, ?)", values)

    def half_hours(phase):
        return [START + phase * 1000 + n * HOUR // 2 for n in range(DAYS * 48)]

    for n in range(1, 8):
        times = half_hours(n * 5)
        if n == 4:
            # Nothing from 01-14 00:00 to 01-15 12:00.
            times = [time for time in times if not START + 72 * HOUR <= time < START + 108 * HOUR]
        add(BRIDGE, f"静力水准仪{n:02}", [(time, None) for time in times])
    for n in range(1, 12):
        rows = [(time, None) for time in half_hours(n * 7)]
        if n == 3:
            rows[100:103] = [(time, '{"deviceId":"%s","triggerTime":1,"data":{"data":[1,2]}}' % device_id(f"渗压计{n:02}")) for time, _ in rows[100:103]]
        add(DAM, f"渗压计{n:02}", rows)
    for n in range(1, many + 1):
        add(TUNNEL, f"应变计{n:05}", [(START + n * 1000, None), (START + 24 * HOUR + n * 1000, None)])
    db.commit()


main(sys.argv[1], int(sys.argv[2]))
