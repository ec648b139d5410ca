"""The CPU time of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(fits: Callable[[str], bool], with_ended_children: bool) -> float:
    """User and system time of all processes whose command line matches."""
    ticks = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if fits((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15] if with_ended_children else fields[11:13]))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / TICKS


def cpu_of_process(pid: int) -> float:
    """User and system time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS


def postgres_cpu() -> float:
    # The postmaster includes its backends once they have ended; running ones are counted separately.
    return cpu_of(lambda line: " -D " in line and "postgres" in line.split(" ")[0], True) + cpu_of(
        lambda line: line.startswith("postgres: "), False
    )


def kafka_cpu() -> float:
    return cpu_of(lambda line: "kafka.Kafka" in line, False)
