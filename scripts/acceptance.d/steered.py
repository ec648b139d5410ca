"""`steered`: every control of a task is used while a million rows are on their way, and the topic is what is looked at."""

from __future__ import annotations

import time
from collections import defaultdict

import million
import source
import xxhash
from api import Api
from broker import Ends, create_topic, delete_topic, read_topic
from common import Report, Settings, fresh_name, note
from service import Service

# Nothing of a paused or cancelled task may arrive any more after the answer and this many seconds.
PROMPT = 1.0


async def run(settings: Settings) -> Report:
    report = Report("steered")
    url = source.million(settings.postgres, settings.rows_per_device)
    topic = fresh_name("steered")
    create_topic(settings.kafka, topic)
    ends = Ends(settings.kafka, topic)
    request = {"src": "iota"} | million.request(topic)
    with Service(settings, "steered", url, topic) as service:
        service.start()
        service.wait_ready()
        api = Api(service)
        preview(report, api, request, settings.rows)
        proof(report, api, request, settings)
        slowed = pause_and_rate(report, api, request, ends)
        receipt = api.call("GET", f"/tasks/{slowed}/receipt")
        cancel_and_retry(report, api, request, ends)
        service.check_log(report)
    ends.close()
    compare(report, settings, topic, slowed, receipt)
    if not settings.keep:
        delete_topic(settings.kafka, topic)
    return report


def preview(report: Report, api: Api, request: dict[str, object], rows: int) -> None:
    begin = time.monotonic()
    first, lines = 0.0, []
    for line in api.lines("/previews", request):
        first = first or time.monotonic() - begin
        lines.append(line)
    report.figure("preview: first line, s", first)
    report.figure("preview: all, s", time.monotonic() - begin)
    report.equal("the preview counts the rows", lines[-1]["rows"], rows)
    report.check(first < 1, "the preview's first line comes within a second", f"{first:.2f} s")


def proof(report: Report, api: Api, request: dict[str, object], settings: Settings) -> None:
    """A task that is left alone is verified in less time than it took to publish."""
    note("publishing and verifying ...")
    begin = time.monotonic()
    task = str(api.call("POST", "/tasks", request)["taskId"])
    api.finished(task)
    published = time.monotonic() - begin
    begin = time.monotonic()
    summary = list(api.lines(f"/tasks/{task}/verify"))[-1]
    verified = time.monotonic() - begin
    report.figure("publishing, s", published)
    report.figure("verifying, s", verified)
    report.check(verified < published, "verifying takes less time than publishing", f"{verified:.1f} s and {published:.1f} s")
    report.equal("the verification is complete", (summary["verdict"], summary["found"]), ("complete", settings.rows))


def pause_and_rate(report: Report, api: Api, request: dict[str, object], ends: Ends) -> str:
    note("pausing, slowing down ...")
    begin = ends.total()
    task = str(api.call("POST", "/tasks", request | {"reason": "slowed"})["taskId"])
    ends.wait_for(begin + 100_000)
    api.call("POST", f"/tasks/{task}/pause")
    answered = time.monotonic()
    last = ends.last_change(3)
    report.figure("last row after the answer to a pause, s", max(0.0, last - answered))
    report.check(last - answered < PROMPT, "a pause stops within a second", f"{last - answered:.2f} s")
    paused = ends.total()
    view = api.call("GET", f"/tasks/{task}")
    report.equal("a paused task counts what is in the topic", view["rows"]["published"], paused - begin)  # type: ignore[index]
    for rate in (5_000, 20_000):
        api.call("PATCH", f"/tasks/{task}", {"rate": rate})
        if rate == 5_000:
            api.call("POST", f"/tasks/{task}/resume")
        # What was sent before the change arrives first.
        time.sleep(1)
        seconds, rows, most = ends.watch(10)
        report.figure(f"rate {rate}: rows a second over {seconds:.1f} s", rows / seconds)
        report.figure(f"rate {rate}: most rows within a second", most)
        error = abs(rows / seconds - rate) / rate
        report.check(error < 0.05, f"a rate of {rate} is kept within 5 %", f"{100 * error:.1f} %")
        report.check(most <= 2 * rate, "no burst is more than a second's worth", f"{most}")
    api.call("PATCH", f"/tasks/{task}", {"rate": None})
    view = api.finished(task)
    report.equal("it succeeds", view["state"], "succeeded")
    return task


def cancel_and_retry(report: Report, api: Api, request: dict[str, object], ends: Ends) -> None:
    note("cancelling, retrying ...")
    begin = ends.total()
    task = str(api.call("POST", "/tasks", request | {"reason": "cancelled"})["taskId"])
    ends.wait_for(begin + 100_000)
    asked = time.monotonic()
    api.call("POST", f"/tasks/{task}/cancel")
    view = api.finished(task)
    report.figure("from cancel to finished, s", time.monotonic() - asked)
    at_end = ends.total()
    report.equal("the counts of a cancelled task are exact", view["rows"]["published"], at_end - begin)  # type: ignore[index]
    time.sleep(2)
    report.equal("nothing arrives after its last line", ends.total(), at_end)
    retried = str(api.call("POST", f"/tasks/{task}/retry")["taskId"])
    view = api.finished(retried)
    report.equal("the retry of a cancelled task succeeds", view["state"], "succeeded")
    summary = list(api.lines(f"/tasks/{retried}/verify"))[-1]
    report.equal("and is complete", summary["verdict"], "complete")


def compare(report: Report, settings: Settings, topic: str, task: str, receipt: dict[str, object]) -> None:
    """The slowed task: each row once, and the checksums of its receipt computed anew."""
    note("reading the topic back ...")
    copies: dict[str, int] = defaultdict(int)
    sums: dict[str, int] = defaultdict(int)
    for record in read_topic(settings.kafka, topic):
        if record.headers["data-patch-task"] == task:
            row = record.headers["data-patch-row"]
            copies[row] += 1
            if copies[row] == 1:
                sums[record.key] += xxhash.xxh3_128_intdigest(row.encode() + b"\0" + record.value)
    report.equal("a task that was paused and slowed has each row", len(copies), settings.rows)
    report.equal("and each once", sum(copies.values()), settings.rows)
    devices: list[dict[str, str]] = receipt["devices"]  # type: ignore[assignment]
    found = {device["deviceId"]: device["checksum"] for device in devices}
    report.equal("its receipt has the checksums of the topic", found, {key: f"{value % 2**128:032x}" for key, value in sums.items()})
