"""The service as a child process: configured by environment variables alone, and measured from outside through /proc."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from common import WORK, Report, Settings, fresh_name


class Service:
    """One queue, one port, one token; started as often as a part likes. `user`: the id of the system's user that it runs as."""

    def __init__(self, settings: Settings, part: str, iota_url: str, topic: str, user: int | None = None, **options: str) -> None:
        self.part = part
        self.user = user
        self.folder = WORK / "run" / fresh_name(part)
        self.folder.mkdir(parents=True)
        self.keep = settings.keep
        if user is not None:
            os.chown(self.folder, user, user)
        self.token = options.get("TOKEN") or secrets.token_hex(8)
        self.port = free_port()
        self.log_path = WORK / f"{part}.log"
        self.log_path.write_bytes(b"")
        # A copy: a build that ends in the middle of a part must not change what is measured.
        self.binary = Path(shutil.copy2(settings.binary, self.folder / "data-patch"))
        self.process: subprocess.Popen[bytes] | None = None
        # The caller's own settings of the service must not leak in; what is not set here stays at its default.
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("DATA_PATCH_")}
        self.environment |= {
            "DATA_PATCH_SERVER_LISTEN": f"127.0.0.1:{self.port}",
            "DATA_PATCH_QUEUE_URL": f"sqlite://{self.folder}/queue.db",
            "DATA_PATCH_IOTA_URL": iota_url,
            "DATA_PATCH_KAFKA_BROKERS": settings.kafka,
            "DATA_PATCH_KAFKA_DEFAULT_TOPIC": topic,
            "DATA_PATCH_TOKEN": self.token,
        } | {f"DATA_PATCH_{key}": value for key, value in options.items()}

    def replace(self, binary: Path) -> None:
        """Another version, from the next start on."""
        self.binary.unlink()
        shutil.copy2(binary, self.binary)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/data-patch/websocket"

    def start(self) -> None:
        """Starts it and returns at once; `wait_ready` waits."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve"], cwd=self.folder, env=self.environment, user=self.user, group=self.user,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )

    def wait_ready(self, seconds: float = 60) -> float:
        """Waits until /readyz says yes: queue, source and broker are there. Returns how long that took."""
        begin = time.monotonic()
        # The caller's proxy is not for loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() - begin < seconds:
            if self._running().poll() is not None:
                raise RuntimeError(f"the service ended at its start with {self._running().returncode}; see {self.log_path}")
            try:
                with opener.open(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                    return time.monotonic() - begin
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        raise RuntimeError(f"the service was not ready within {seconds} s; see {self.log_path}")

    def kill(self) -> None:
        """No warning, no goodbye: what a crash or a power cut of the process is."""
        self._running().send_signal(signal.SIGKILL)
        self._running().wait()

    def stop(self, seconds: float = 30) -> int | None:
        """Asks it to end; returns its exit code, or None when it had to be killed."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def metric(self, name: str) -> float:
        """A value of /metrics that has no labels."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise RuntimeError(f"/metrics has no {name}")

    def complaints(self) -> list[str]:
        """Lines of its own log that no part has a reason for."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if "panicked at" in line or " ERROR " in line]

    def check_log(self, report: Report) -> None:
        found = self.complaints()
        report.check(not found, "the service's own log tells of no panic and no error", f"{len(found)} lines, the first: {found[:1]}")

    def peak_rss_mib(self) -> float:
        for line in Path(f"/proc/{self._running().pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmHWM")

    def cpu_seconds(self) -> float:
        """User and system time since its start."""
        stat = Path(f"/proc/{self._running().pid}/stat").read_text()
        # After the command's name, which is in parentheses and may hold anything.
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError("the service was not started")
        return self.process

    def __enter__(self) -> Service:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def remove(self) -> None:
        """Ends it if it runs, and removes its folder."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
