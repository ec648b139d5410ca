"""What a run takes, seen from outside through /proc: time, CPU of each party, memory."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Took:
    """One run of one contender."""

    seconds: float
    # User and system time: of the contender's own processes, PostgreSQL's, Kafka's, and of everything else on the machine
    # (the kernel's own threads, this bench, and whoever disturbs it).
    cpu: float
    postgres_cpu: float | None
    kafka_cpu: float | None
    other_cpu: float
    # The most resident memory of the contender's processes together.
    peak_mb: float

    def asdict(self) -> dict[str, float | None]:
        return asdict(self)


def fields(pid: int) -> list[str]:
    # After the command's name, which is in parentheses and may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int, with_ended_children: bool = False) -> float:
    return sum(map(int, fields(pid)[11 : 15 if with_ended_children else 13])) / TICKS


def memory_mb(pid: int, which: str) -> float:
    """VmRSS: what is resident now; VmHWM: the most that ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def reset_peak(pid: int) -> None:
    """VmHWM begins anew from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


class Parties:
    """PostgreSQL and Kafka as processes of this machine. In a container they may not be seen: then their CPU is unknown."""

    def __init__(self, postgres_url: str, kafka: str) -> None:
        self.postmaster = self._postmaster(postgres_url)
        self.kafka = self._kafka(kafka)

    @staticmethod
    def _postmaster(url: str) -> int | None:
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
            try:
                if row and command_line(row[0]).startswith("postgres:"):
                    return int(fields(row[0])[1])
            except OSError:
                pass
        return None

    @staticmethod
    def _kafka(address: str) -> int | None:
        port = urlsplit(f"//{address.split(',')[0]}").port
        for pid in all_pids():
            try:
                line = command_line(pid)
            except OSError:
                continue
            if "kafka.Kafka " in line and (".port=" not in line or f".port={port} " in line):
                return pid
        return None

    def postgres_cpu(self) -> float | None:
        """The postmaster counts its children once they have ended; those that live are counted themselves."""
        if self.postmaster is None:
            return None
        total = cpu_seconds(self.postmaster, with_ended_children=True)
        for pid in all_pids():
            try:
                if int(fields(pid)[1]) == self.postmaster:
                    total += cpu_seconds(pid)
            except OSError:
                continue
        return total

    def kafka_cpu(self) -> float | None:
        return None if self.kafka is None else cpu_seconds(self.kafka)


def machine_cpu() -> float:
    """All time that was not idle, of all cores."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS


class Meter:
    """Started right before a run, read right after it."""

    def __init__(self, parties: Parties) -> None:
        self._parties = parties
        self._postgres, self._kafka, self._machine = parties.postgres_cpu(), parties.kafka_cpu(), machine_cpu()
        self._begin = time.monotonic()
        self._seconds: float | None = None

    def stop(self) -> float:
        self._seconds = time.monotonic() - self._begin
        return self._seconds

    def took(self, cpu: float, peak_mb: float) -> Took:
        if self._seconds is None:
            raise RuntimeError("the meter was not stopped")
        machine = machine_cpu() - self._machine
        # A backend that has just ended is counted when the postmaster has noticed.
        time.sleep(0.2)
        postgres, kafka = self._parties.postgres_cpu(), self._parties.kafka_cpu()
        postgres = None if postgres is None or self._postgres is None else postgres - self._postgres
        kafka = None if kafka is None or self._kafka is None else kafka - self._kafka
        other = max(0.0, machine - cpu - (postgres or 0) - (kafka or 0))
        return Took(self._seconds, cpu, postgres, kafka, other, peak_mb)


class Peaks:
    """The most memory of short-lived processes. Looked up again and again, since it is gone with the process; and what
    wait4 says afterwards is no less than what the process that started it had, so it is of no use here."""

    def __init__(self, pids: list[int]) -> None:
        self._peaks = dict.fromkeys(pids, 0.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for pid in self._peaks:
                try:
                    self._peaks[pid] = max(self._peaks[pid], memory_mb(pid, "VmHWM"))
                except OSError:
                    continue

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return sum(self._peaks.values())


class Resident:
    """Resident memory of a process over a while."""

    def __init__(self, pid: int) -> None:
        self.seen: list[tuple[float, float]] = []
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.seen.append((time.time(), memory_mb(self._pid, "VmRSS")))

    def stop(self) -> list[tuple[float, float]]:
        self._over.set()
        self._thread.join()
        return self.seen
