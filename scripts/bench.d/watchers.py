"""(e) Two thousand watchers on one busy task: how late the last of them has a log line, and what a watcher costs."""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from urllib.parse import urlsplit

from here import HERE, Settings, Sizes, say
from meter import Resident, cpu_seconds, memory_mb, reset_peak
from sets import Set, of_case

from broker import create_topic, delete_topic
from client import Client
from common import fresh_name
from service import Service

# One device writes a line each so many milliseconds. One device, because ten of them would write ten times as many lines,
# and then two cores are too few for two thousand clients beside the service.
PROGRESS_MS = 100
# Lines of this long after the last watcher attached still come out of the table, in part; they are not counted.
SETTLE = 0.5


async def run(settings: Settings, sizes: Sizes, progress_ms: int = PROGRESS_MS) -> dict[str, object]:
    allow_files(sizes.watchers)
    rows = of_case("f", settings, sizes)
    topic = fresh_name("bench-watchers")
    create_topic(settings.kafka, topic)
    try:
        with Service(settings, "bench-watchers", rows.url, topic, WORKER_PROGRESS_MS=str(progress_ms)) as service:
            service.start()
            service.wait_ready()
            return {"name": f"{sizes.watchers:,} watchers", "watchers": sizes.watchers, "progress_ms": progress_ms} | await measure(
                service, rows, topic, sizes.watchers
            )
    finally:
        delete_topic(settings.kafka, topic)


def allow_files(watchers: int) -> None:
    """A socket is an open file, in the service as well, which inherits this limit."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < watchers + 200:
        raise RuntimeError(f"only {most} files may be open in a process here; {watchers} watchers need more (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def measure(service: Service, rows: Set, topic: str, watchers: int) -> dict[str, object]:
    process = service.process
    assert process is not None
    fresh = memory_mb(process.pid, "VmRSS")
    # The same task with only the one who submitted it: what the work itself takes of memory.
    say("(e) the task with no watcher but the one who submitted it")
    alone = await play(service, rows, topic, None)
    await asyncio.sleep(1)
    idle = memory_mb(process.pid, "VmRSS")

    crowd = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "crowd.py"), "127.0.0.1", str(service.port), urlsplit(service.url).path, service.token, str(watchers),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
    )
    try:
        connected = await answer(crowd)
        say(f"(e) {watchers:,} connected in {connected['seconds']:.2f} s; the task again")
        await asyncio.sleep(1)
        quiet = memory_mb(process.pid, "VmRSS")
        watched = await play(service, rows, topic, crowd)
        seen = await answer(crowd)
        await asyncio.sleep(1)
        settled = memory_mb(process.pid, "VmRSS")
        assert crowd.stdin is not None
        crowd.stdin.write(b"\n")
        await crowd.wait()
    finally:
        if crowd.returncode is None:
            crowd.kill()
            await crowd.wait()
    if service.complaints():
        raise RuntimeError(f"the service's log complains: {service.complaints()[0]}")
    return {
        "memory_mb": {
            "fresh, no connection": fresh, "idle after a task, no connection": idle, "idle, all connected": quiet,
            "idle after the watched task, all connected": settled,
            "peak of the task alone": alone["peak"], "peak of the task watched": watched["peak"],
            "median of the task alone": alone["median"], "median of the task watched": watched["median"],
        },
        "seconds": {"alone": alone["seconds"], "watched": watched["seconds"], "connecting": connected["seconds"]},
        "service_cpu": {"alone": alone["cpu"], "watched": watched["cpu"]},
    } | delays(seen, watchers)


async def play(service: Service, rows: Set, topic: str, crowd: asyncio.subprocess.Process | None) -> dict[str, float]:
    process = service.process
    assert process is not None
    client = await Client.open(service.url, service.token)
    reset_peak(process.pid)
    resident, cpu, begin, last = Resident(process.pid), cpu_seconds(process.pid), time.monotonic(), None
    task = await client.submit(rows.request(topic))
    if crowd is not None and crowd.stdin is not None:
        crowd.stdin.write(f"{task}\n".encode())
    async for event in client.events():
        last = event
    seconds, cpu = time.monotonic() - begin, cpu_seconds(process.pid) - cpu
    median = statistics.median(value for _, value in resident.stop())
    if last is None or last.state != "succeeded":
        raise RuntimeError(f"the task did not succeed: {last}")
    await client.close()
    return {"seconds": seconds, "cpu": cpu, "median": median, "peak": memory_mb(process.pid, "VmHWM")}


async def answer(crowd: asyncio.subprocess.Process) -> dict[str, object]:
    assert crowd.stdout is not None
    line = await crowd.stdout.readline()
    if not line:
        raise RuntimeError("the watchers broke off; what they said is above")
    return json.loads(line)


def delays(seen: dict[str, object], watchers: int) -> dict[str, object]:
    """Milliseconds from two beginnings: when the line was written, and when the first watcher had it."""
    lines = seen.pop("lines")
    counted = [line for line in lines if line[1] > seen["all_attached"] + SETTLE]
    if short := [line[0] for line in lines if line[5] != watchers]:
        raise RuntimeError(f"not every watcher had the lines {short[:5]}")
    if not counted:
        raise RuntimeError("no line was written after all watchers had attached: the task is too short (--rows)")
    span = max(line[1] for line in counted) - min(line[1] for line in counted)
    return {
        "lines": len(counted), "lines_before": len(lines) - len(counted), "lines_per_second": len(counted) / span if span else 0.0,
        "written_to_last_ms": [1000 * (last - written) for _, written, _, last, _, _ in counted],
        "written_to_first_ms": [1000 * (first - written) for _, written, first, _, _, _ in counted],
        "first_to_last_ms": [1000 * (last - first) for _, _, first, last, _, _ in counted],
        "written_to_last_read_ms": [1000 * (read - written) for _, written, _, _, read, _ in counted],
        "client": {"cpu_share": seen["cpu_share"], "lag_ms": seen["lag_ms"]},
    }
