"""What a careful colleague would write in an afternoon: the rows of some devices into a topic, each looked at, each
acknowledged, a word to the console every second, and a cursor in a file from which a second run goes on.

    careful.py POSTGRES_URL BROKERS TOPIC FILE_OF_DEVICE_IDS CURSOR_FILE FROM TO
"""

import json
import sys
import time
from pathlib import Path

import psycopg
from confluent_kafka import Producer

url, brokers, topic, device_file, cursor_file, begin, end = sys.argv[1:]
devices = Path(device_file).read_text().split()
cursor_path = Path(cursor_file)
producer = Producer({
    "bootstrap.servers": brokers, "acks": "all", "enable.idempotence": True, "compression.type": "lz4",
    "partitioner": "murmur2_random", "linger.ms": 20,
})
acknowledged = failed = held_back = 0

# COPY rather than a server-side cursor: one question a device, and the rows come as a stream of text, as they are stored.
ROWS = """COPY (SELECT "triggerTime", id, doc FROM raw_data WHERE "deviceId" = %s AND "triggerTime" BETWEEN %s AND %s {more}
  ORDER BY "triggerTime", id) TO STDOUT"""
AFTER = 'AND ("triggerTime", id) > (%s, %s)'


def delivered(error, message):
    global acknowledged, failed
    if error is None:
        acknowledged += 1
    else:
        failed += 1
        print(f"not delivered: {error}", file=sys.stderr)


def fault(device, text):
    """Why ET could not read it, if so."""
    try:
        doc = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(doc, dict):
        return "not an object"
    if doc.get("deviceId") != device:
        return "of another device"
    if doc.get("triggerTime") is None:
        return "no triggerTime"
    data = doc.get("data")
    if data is not None and not isinstance(data, dict):
        return "data is no object"
    if data is not None and isinstance(data.get("data"), list):
        return "data.data is a list"
    return None


def produce(device, at, key, text):
    headers = [("data-patch-row", f"{device}/{at}/{key}")]
    while True:
        try:
            producer.produce(topic, text.encode(), device, headers=headers, on_delivery=delivered)
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)


def checkpoint(device, at, key):
    """All before it are acknowledged, so the next run may go on from here."""
    producer.flush()
    if failed:
        sys.exit(f"{failed} failed; run it again to go on from {cursor_path}")
    cursor_path.write_text(f"{device} {key} {at}\n")
    print(f"{device}: {acknowledged} acknowledged, {held_back} held back", flush=True)


place = None
if cursor_path.exists():
    device, key, at = cursor_path.read_text().strip().split(" ", 2)
    devices, place = devices[devices.index(device) :], (at, int(key))
said = time.monotonic()
with psycopg.connect(url, autocommit=True) as connection:
    for device in devices:
        query, values = ROWS.format(more=AFTER if place else ""), (device, begin, end, *(place or ()))
        place = None
        with connection.cursor().copy(query, values) as rows:
            for at, key, text in rows.rows():
                reason = fault(device, text)
                if reason is None:
                    produce(device, at, key, text)
                else:
                    held_back += 1
                    print(f"held back: {device} {key}: {reason}", file=sys.stderr)
                if time.monotonic() - said >= 1:
                    checkpoint(device, at, key)
                    said = time.monotonic()
producer.flush()
print(f"{acknowledged} acknowledged, {held_back} held back, {failed} failed")
sys.exit(1 if failed else 0)
