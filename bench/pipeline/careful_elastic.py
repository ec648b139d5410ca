"""`careful.py` for readings in Elasticsearch or OpenSearch: one scroll of all devices, each document looked at, each
acknowledged. Documents are parsed and written again, as `json` does.

    careful_elastic.py http://HOST:PORT INDEX FILE_OF_THE_SEARCH BROKERS TOPIC
"""

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

from confluent_kafka import Producer

node, index, search_file, brokers, topic = sys.argv[1:]
search = open(search_file).read()
devices = set(json.loads(search)["query"]["bool"]["filter"][0]["terms"]["deviceId"])
connection = http.client.HTTPConnection(urlsplit(node).netloc, timeout=60)
producer = Producer({
    "bootstrap.servers": brokers, "acks": "all", "enable.idempotence": True, "compression.type": "lz4",
    "partitioner": "murmur2_random", "linger.ms": 20,
})
acknowledged = failed = held = found = 0
said = time.monotonic()


def delivered(error, message):
    global acknowledged, failed
    if error is None:
        acknowledged += 1
    else:
        failed += 1
        print(f"not delivered: {error}", file=sys.stderr)


def ask(method, path, body):
    connection.request(method, path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200 or answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
        sys.exit(f"{response.status}: {json.dumps(answer)[:500]}")
    return answer


def fault(doc):
    """What ET can't read."""
    if not isinstance(doc, dict):
        return "not an object"
    if doc.get("deviceId") not in devices:
        return "of another device"
    if doc.get("triggerTime") is None:
        return "no triggerTime"
    data = doc.get("data")
    if data is not None and not isinstance(data, dict):
        return "data is no object"
    if data is not None and isinstance(data.get("data"), list):
        return "data.data is a list"
    return None


def produce(key, doc):
    device = doc["deviceId"]
    headers = [("data-patch-row", f"{device}/{doc['triggerTime']}/{key}")]
    value = json.dumps(doc, ensure_ascii=False).encode()
    while True:
        try:
            producer.produce(topic, value, device, headers=headers, on_delivery=delivered)
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)


page = ask("POST", f"/{index}/_search?scroll=5m", search)
total = page["hits"]["total"]["value"]
while hits := page["hits"]["hits"]:
    found += len(hits)
    for hit in hits:
        doc = hit["_source"]
        reason = fault(doc)
        if reason is None:
            produce(hit["_id"], doc)
        else:
            held += 1
            print(f"held back: {hit['_id']}: {reason}", file=sys.stderr)
    if time.monotonic() - said >= 1:
        said = time.monotonic()
        producer.flush()
        with open(f"{search_file}.cursor", "w") as cursor:
            cursor.write(f"{hits[-1]['sort'][0]}\n")
        print(f"{acknowledged} acknowledged")
    page = ask("POST", "/_search/scroll", json.dumps({"scroll": "5m", "scroll_id": page["_scroll_id"]}))
ask("DELETE", "/_search/scroll", json.dumps({"scroll_id": page["_scroll_id"]}))
producer.flush()
print(f"{acknowledged} acknowledged, {held} held back, {failed} failed")
sys.exit(1 if failed or found != total else 0)
