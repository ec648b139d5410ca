"""Who looks on: Prometheus, which scrapes the metrics every second, and a page, which shows the newest task and its log."""

from __future__ import annotations

import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import sets  # noqa: F401  It makes the modules of scripts/acceptance.d known.
from api import Api
from service import Service

GONE = (urllib.error.URLError, OSError, KeyError, IndexError)


@contextmanager
def of(settings: SimpleNamespace, service: Service) -> Iterator[None]:
    """Nobody, unless the settings say so."""
    if not getattr(settings, "watched", False):
        yield
        return
    over = threading.Event()
    watching = threading.Thread(target=watch, args=(service, over))
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def watch(service: Service, over: threading.Event) -> None:
    api, stream, shown = Api(service), None, None
    base = f"http://127.0.0.1:{service.port}"
    while not over.wait(1):
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{base}/metrics", timeout=5) as answer:
                answer.read()
            newest = api.call("GET", "/tasks?limit=50")["tasks"][0]["taskId"]
            api.call("GET", f"/tasks/{newest}")
            api.call("GET", f"/tasks/{newest}/jobs")
        except GONE:
            continue
        if newest != shown:
            if stream is not None:
                stream.kill()
            # Not in Python, which would take more of the cores than a browser does for the network alone.
            stream = subprocess.Popen(
                ["curl", "-sN", "--noproxy", "*", "-H", f"Authorization: Bearer {service.token}", "-H", "Accept: text/event-stream",
                 f"{base}/data-patch/api/v1/tasks/{newest}/events"],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            shown = newest
    if stream is not None:
        stream.kill()
        stream.wait()
