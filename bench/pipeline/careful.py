"""What a careful colleague would write in an afternoon: the rows of some devices into a topic, each looked at, each
acknowledged, with a cursor in a file and a word to the console every second.

    careful.py POSTGRES_URL BROKERS TOPIC FILE_OF_DEVICE_IDS FROM TO
"""

import json
import sys
import time

import psycopg
from confluent_kafka import Producer

url, brokers, topic, device_file, begin, end = sys.argv[1:]
devices = open(device_file).read().split()
producer = Producer({
    "bootstrap.servers": brokers, "acks": "all", "enable.idempotence": True, "compression.type": "lz4",
    "partitioner": "murmur2_random", "linger.ms": 20,
})
acknowledged = failed = held = 0
said = time.monotonic()


def delivered(error, message):
    global acknowledged, failed
    if error is None:
        acknowledged += 1
    else:
        failed += 1
        print(f"not delivered: {error}", file=sys.stderr)


def fault(device, text):
    """What ET can't read."""
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
    headers = [("data-patch-row", f"{device}/{at.isoformat()}/{key}")]
    while True:
        try:
            producer.produce(topic, text.encode(), device, headers=headers, on_delivery=delivered)
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)


with psycopg.connect(url) as connection:
    for device in devices:
        with connection.cursor(name="rows") as rows:
            rows.itersize = 5_000
            rows.execute(
                'SELECT "triggerTime", id, doc::text FROM raw_data WHERE "deviceId" = %s AND "triggerTime" BETWEEN %s AND %s'
                ' ORDER BY "triggerTime", id',
                (device, begin, end),
            )
            for at, key, text in rows:
                reason = fault(device, text)
                if reason is None:
                    produce(device, at, key, text)
                else:
                    held += 1
                    print(f"held back: {device} {key}: {reason}", file=sys.stderr)
                if time.monotonic() - said >= 1:
                    said = time.monotonic()
                    producer.flush()
                    with open(f"{device_file}.cursor", "w") as cursor:
                        cursor.write(f"{device} {at.isoformat()} {key}\n")
                    print(f"{device}: {acknowledged} acknowledged")
producer.flush()
print(f"{acknowledged} acknowledged, {held} held back, {failed} failed")
sys.exit(1 if failed else 0)
