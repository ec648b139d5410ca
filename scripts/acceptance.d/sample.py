"""`sample`: the contract's own request on the sample data, and how long a person waits for it."""

from __future__ import annotations

import statistics
import time

import source
from broker import create_topic, delete_topic, read_topic
from client import Client, Event, gapless
from common import Report, Settings, fresh_name
from compare import Comparison, Expected
from service import Service

WARM_UPS = 2
RUNS = 20
THING = "9d9d14b3-cf77-4cba-934b-faeaf2d153ba"
DEVICES = [
    "0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0",
    "e2d26fce-7362-4036-925b-5125453b2d4e",
    "f586ebba-5f93-4634-9e29-f329183cf61e",
    "67bbd235-7357-41b7-8e37-ff9ccf6cf9eb",
    "b34299aa-625e-4404-a580-fde1d7cbc3e8",
    "bfefe2f7-ff9c-40dc-be66-a3c6e0032017",
    "08d2cb15-33c0-42bc-9ff8-523bdb157afd",
]
FROM = "2019-01-11T21:03:00.000+0800"
TO = "2019-01-15T14:30:00.000+0800"
# PostgreSQL reads the offset with or without a colon.
LEVEL_06 = "b34299aa-625e-4404-a580-fde1d7cbc3e8"
# The contract's example log, to the letter.
LINES = (
    f"device: {LEVEL_06} - 静力水准仪06 has 178 rows to publish",
    f"iota data published(178 / 178). device: {LEVEL_06}",
)


async def run(settings: Settings) -> Report:
    report = Report("sample")
    url = source.sample(settings.postgres)
    topic = fresh_name("sample")
    create_topic(settings.kafka, topic)
    expected = Expected(url, DEVICES, FROM, TO)
    request: dict[str, object] = {"topic": topic, "thingId": THING, "devices": DEVICES, "from": FROM, "to": TO}
    logs: dict[str, list[Event]] = {}
    took: list[float] = []
    created: list[float] = []
    with Service(settings, "sample", url, topic) as service:
        service.start()
        report.figure("start to ready, s", service.wait_ready())
        client = await Client.open(service.url, service.token)
        for _ in range(WARM_UPS + RUNS):
            begin = time.monotonic()
            task = await client.submit(request)
            created.append(1000 * (time.monotonic() - begin))
            logs[task] = [event async for event in client.events()]
            took.append(1000 * (logs[task][-1].at - begin))
        await client.close()
        report.figure("service: peak RSS, MiB", service.peak_rss_mib())
        report.equal("SIGTERM ends it with code 0", service.stop(), 0)
        service.check_log(report)
    report.figure("rows of a request", len(expected))
    report.figure("first warm-up, ms", took[0])
    for name, values in (("submit to task created", created[WARM_UPS:]), ("submit to finished", took[WARM_UPS:])):
        figures = (min(values), statistics.median(values), max(values))
        report.figure(f"{name}: min, median, max of {RUNS}, ms", ", ".join(f"{value:.1f}" for value in figures))

    bad = [log[-1].message for log in logs.values() if log[-1].state != "succeeded"]
    report.check(not bad, f"all {len(logs)} tasks succeeded", str(bad[:1]))
    report.equal("each has a log of its own", len(logs), WARM_UPS + RUNS)
    for line in LINES:
        without = [task for task, log in logs.items() if line not in [event.message for event in log]]
        report.check(not without, f"each log has `{line}`", f"{len(without)} have not")
    report.check(not any(map(gapless, logs.values())), "each log's seq is 1, 2, 3 … without a gap")

    comparisons = {task: Comparison(expected, task) for task in logs}
    strangers = 0
    for record in read_topic(settings.kafka, topic):
        comparison = comparisons.get(record.headers.get("data-patch-task", ""))
        if comparison is None:
            strangers += 1
        else:
            comparison.take(record)
    wrong = [
        f"task {task}: {comparison.missing} missing, {len(comparison.repeats)} repeated, wrong {dict(comparison.wrong)}"
        for task, comparison in comparisons.items()
        if comparison.missing or comparison.repeats or comparison.wrong
    ]
    report.check(not wrong, "each task's rows are in the topic: all, once, in order, byte for byte", str(wrong[:1]))
    report.equal("nothing else is in the topic", strangers, 0)
    if not settings.keep:
        delete_topic(settings.kafka, topic)
        source.drop(settings.postgres, url)
    return report
