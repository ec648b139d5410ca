"""The service itself, on a broker in its process and a source of one device, until it has a value for every metric that it can have."""

import base64
import contextlib
import json
import os
import re
import secrets
import socket
import sqlite3
import struct
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

THING, DEVICE = "9d9d14b3-cf77-4cba-934b-faeaf2d153ba", "b34299aa-625e-4404-a580-fde1d7cbc3e8"
TIME, TIME_MS = "2019-01-12T00:00:00Z", 1547251200000
CONFIG = """
[kafka]
brokers = "embedded"
[kafka.properties]
"statistics.interval.ms" = 100
"""


class WebSocket:
    """As much of RFC 6455 as it takes to send a text and to read the answers."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.stream = socket.create_connection((host, int(port)), timeout=30)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.stream.sendall(
            f"GET /data-patch/websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.read = self.stream.makefile("rb")
        while self.read.readline() != b"\r\n":
            pass

    def send(self, message):
        data, mask = json.dumps(message).encode(), secrets.token_bytes(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self.stream.sendall(struct.pack("!BBH", 0x81, 0x80 | 126, len(data)) + mask + masked)

    def receive(self):
        while True:
            kind, length = self.read.read(2)
            if length == 126:
                (length,) = struct.unpack("!H", self.read.read(2))
            data = self.read.read(length)
            if kind == 0x81:
                return json.loads(data)

    def publish(self, **fields):
        """Submits a task and reads its log to the end."""
        request = {"src": "iota", "token": "123456", "thingId": THING, "devices": [DEVICE], "from": TIME, "to": TIME}
        self.send(request | fields)
        while self.receive()["payload"].get("state") not in ("succeeded", "failed"):
            pass


def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def running(binary):
    """Its address, after a task that was published, failures of Kafka, of the source and of the queue, and a refused request."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = sqlite3.connect(folder / "iota.db")
        source.executescript(f"""
            CREATE TABLE "Device" (id TEXT PRIMARY KEY, name TEXT, "thingId" TEXT);
            CREATE TABLE raw_data (id INTEGER PRIMARY KEY, "deviceId" TEXT, "triggerTime" INTEGER, doc TEXT);
            INSERT INTO "Device" VALUES ('{DEVICE}', 'a', '{THING}');
            INSERT INTO raw_data VALUES (1, '{DEVICE}', {TIME_MS}, '{{"deviceId":"{DEVICE}","triggerTime":"{TIME}","data":{{"data":{{}}}}}}');
        """)
        (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DATA_PATCH_")} | {
            "DATA_PATCH_TOKEN": "123456",
            "DATA_PATCH_SERVER_LISTEN": "127.0.0.1:0",
            "DATA_PATCH_QUEUE_URL": f"sqlite://{folder}/queue.db",
            "DATA_PATCH_IOTA_URL": f"sqlite://{folder}/iota.db",
        }
        log = folder / "log"
        with log.open("wb") as errors:
            service = subprocess.Popen([binary, "serve", "--config", folder / "config.toml"], env=environment, stderr=errors)
        try:
            until = time.monotonic() + 30
            while not (up := re.search(r"data-patch is up.*? address=(\S+)", log.read_text(encoding="utf-8"))):
                if service.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the service does not start:\n{log.read_text(encoding='utf-8')}")
                time.sleep(0.05)
            client = WebSocket(up[1])
            client.publish()
            client.publish(topic="no-such-topic")
            # The table is gone, so this one fails for the source.
            source.execute("ALTER TABLE raw_data RENAME TO gone")
            client.publish()
            client.send({"token": "123456", "what": "is this"})
            client.receive()
            # Somebody else writes the queue, and /metrics tries whether it can be written: an error after five seconds.
            queue = sqlite3.connect(folder / "queue.db", isolation_level=None)
            queue.execute("BEGIN IMMEDIATE")
            until = time.monotonic() + 60
            for sample in ["kafka_client_round_trip_seconds{", "queue_errors_total{"]:
                while sample not in get(up[1], "/metrics"):
                    if time.monotonic() > until:
                        raise SystemExit(f"{sample} does not appear")
                    time.sleep(0.1)
            queue.execute("ROLLBACK")
            yield up[1]
        finally:
            service.terminate()
            service.wait(timeout=30)
