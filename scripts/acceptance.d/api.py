"""A client of the HTTP API that knows nothing but docs/api.md."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator

from service import Service

# The caller's proxy is not for loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Api:
    """Requests with the token of one service."""

    def __init__(self, service: Service) -> None:
        self._base = f"http://127.0.0.1:{service.port}/data-patch/api/v1"
        self._token = service.token

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        with OPENER.open(self._request(method, path, body), timeout=60) as answer:
            return dict(json.loads(answer.read()))

    def lines(self, path: str, body: object = None) -> Iterator[dict[str, object]]:
        """The lines of an answer of JSON lines, as they come."""
        with OPENER.open(self._request("POST", path, body), timeout=60) as answer:
            for line in answer:
                if line.strip():
                    yield json.loads(line)

    def finished(self, task: str, seconds: float = 300) -> dict[str, object]:
        """Waits until a task is finished."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            view = self.call("GET", f"/tasks/{task}")
            if view["finishedAt"] is not None:
                return view
            time.sleep(0.05)
        raise RuntimeError(f"task {task} was not finished within {seconds} s")

    def _request(self, method: str, path: str, body: object) -> urllib.request.Request:
        headers = {"Authorization": f"Bearer {self._token}"}
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        elif method == "POST":
            data = b""
        return urllib.request.Request(self._base + path, data=data, headers=headers, method=method)
