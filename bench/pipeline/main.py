"""Runs the cases, prints tables, and stores the raw figures."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import contenders
import elastic
import elastic_contenders
import latency
import sets
from broker import TopicPartition, create_topic, delete_topic
from common import fresh_name
from confluent_kafka import Consumer
from contenders import Took
from report import ELASTIC, NAMES, goal, show
from sets import Set, say

ROOT = Path(__file__).resolve().parents[2]
# As reliable as the service, and with kcat's defaults.
EQUAL = "-z lz4 -X acks=all -X enable.idempotence=true -X partitioner=murmur2_random -X linger.ms=50"
EXAMPLES = """
examples:
  bench/pipeline/run a --rounds 3            one case, three rounds
  bench/pipeline/run all                     a to k as in docs/performance.md (about an hour and a half)
  bench/pipeline/run a c --rows 100000       smaller
  bench/pipeline/run a d --only ours,before --before ../older/target/release/data-patch
                                             two builds of the service, in turn
  bench/pipeline/run x10                     ten million rows once: memory must not grow (10 GB of disk)

cases:
  a    one million rows in 10 devices, jsonb       d  the contract's sample: latency of a submit
  b    the same rows in a json column              e  2,000 watchers on one busy task
  c    10,000 devices of 20 rows                   f  one device of a million rows

  readings in OpenSearch 2.19 (a private server, its indices kept in target/bench; needs Maven, Java, npm):
  g    as a                                        i  one device of 200,000 rows
  h    as c                                        j  as i, each 25,000 at one millisecond
  k    nine of the ten devices of g: as in production, rows of other devices lie between those asked for
"""
# Until a new server has compiled what it executes, a row takes it several times as long.
ELASTIC_WARM_UPS = 3


def main() -> None:
    parser = argparse.ArgumentParser("bench/pipeline/run", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["all"], metavar="CASE")
    parser.add_argument("--rounds", type=int, default=5, help="of each contender, in turn (default 5)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="in a, b, f, g, and five times those of c, h, i, j (default a million)")
    parser.add_argument("--only", help="some contenders, with commas between: ours, equal, plain, script, with --before also before, in c also ours-a; "
                        "in g to k elasticdump, scroll, in h also ours-g")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/data-patch")
    parser.add_argument("--watched", action="store_true", help="the other build is this one, while Prometheus and a page look on each second")
    parser.add_argument("--before", type=Path, help="another build of the service, which runs in turn with this one")
    parser.add_argument("--json", type=Path, default=ROOT / "target/bench/pipeline.json", help="where the raw figures go")
    arguments = parser.parse_args()
    cases = list("abcdef" + ELASTIC) if arguments.cases == ["all"] else arguments.cases
    if unknown := [case for case in cases if case not in (*"abcdef", *ELASTIC, "x10")]:
        parser.error(f"unknown case: {', '.join(unknown)}")
    settings = SimpleNamespace(
        postgres=os.environ["DATA_PATCH_TEST_POSTGRES"],
        kafka=os.environ["DATA_PATCH_TEST_KAFKA"],
        binary=arguments.binary,
        before=arguments.binary if arguments.watched else arguments.before,
        looked_on=arguments.watched,
        rows=arguments.rows,
        rounds=arguments.rounds,
        only=arguments.only,
        keep=False,
        work=ROOT / "target/bench",
        node=None,
    )
    settings.work.mkdir(parents=True, exist_ok=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    if set(cases) & set(ELASTIC):
        settings.node = elastic.Node()
    for case in cases:
        kept[case] = run(case, settings)
        arguments.json.write_text(json.dumps(kept, indent=1))


def run(case: str, settings: SimpleNamespace) -> object:
    if case == "d":
        return sample_latency(settings)
    if case == "e":
        # In Rust, since two thousand clients in Python would be the bottleneck.
        rows_of("a", settings)
        environment = os.environ | {"BENCH_DATABASE": f"acceptance_{settings.rows}"}
        lines = subprocess.run(
            ["cargo", "bench", "--locked", "--quiet", "--bench", "watchers"], env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        print(f"\n(e) {lines.strip()}", flush=True)
        return lines
    return compare(case, settings)


def of_before(settings: SimpleNamespace) -> SimpleNamespace:
    """Runs the same with the other build."""
    return SimpleNamespace(**vars(settings) | {"binary": settings.before, "watched": settings.looked_on})


def sample_latency(settings: SimpleNamespace) -> dict[str, list[dict[str, float]]]:
    builds = {"ours": settings} | ({"before": of_before(settings)} if settings.before else {})
    found: dict[str, list[dict[str, float]]] = {build: [] for build in builds}
    for _ in range(settings.rounds if settings.before else 1):
        for build, of_build in builds.items():
            figures = asyncio.run(latency.run(of_build, latency.RUNS))
            found[build].append(figures)
            line = ", ".join(f"{k} {v:.1f}" for k, v in figures.items())
            print(f"(d) {NAMES[build]}: the sample, submit to finished, {latency.RUNS} times, ms: {line}", flush=True)
    medians = {build: statistics.median(figures["p50"] for figures in runs) for build, runs in found.items()}
    print(", ".join(f"{NAMES[build]}: p50 {p50:.1f} ms" for build, p50 in medians.items()))
    print(f"    {goal('p50 under 30 ms', medians['ours'] < 30)}", flush=True)
    return found


def rows_of(case: str, settings: SimpleNamespace) -> tuple[str, Set]:
    of = f"{settings.rows:,}"
    ten = lambda: sets.jsonb(settings.postgres, f"acceptance_{settings.rows}", 10, settings.rows // 10)  # noqa: E731
    match case:
        case "a":
            return f"{of} rows in 10 devices, jsonb", ten()
        case "b":
            return f"{of} rows in 10 devices, json", sets.json(settings.postgres, f"bench_json_{settings.rows}", ten())
        case "c":
            devices = settings.rows // 100
            return f"{devices:,} devices of 20 rows", sets.jsonb(settings.postgres, f"bench_small_{devices}", devices, 20)
        case "f":
            return f"one device of {of} rows", sets.jsonb(settings.postgres, f"bench_one_{settings.rows}", 1, settings.rows)
        case "g":
            name, rows = rows_of("a", settings)
            return name.replace("jsonb", "OpenSearch"), elastic.of(settings.node, "ten", rows)
        case "h":
            name, rows = rows_of("c", settings)
            return f"{name}, OpenSearch", elastic.of(settings.node, "small", rows)
        case "k":
            _, rows = rows_of("g", settings)
            nine = replace(rows, devices=rows.devices[:-1], rows=rows.rows * 9 // 10)
            return f"{nine.rows:,} rows of nine of ten devices, OpenSearch", nine
        case "i" | "j":
            few = settings.rows // 5
            rows = sets.jsonb(settings.postgres, f"bench_one_{few}", 1, few)
            if case == "i":
                return f"one device of {few:,} rows, OpenSearch", elastic.of(settings.node, "one", rows)
            return f"one device of {few:,} rows, each 25,000 at one millisecond, OpenSearch", elastic.of(
                settings.node, "equal_times", rows, elastic.EQUAL_TIMES
            )
        case _:
            return f"{10 * settings.rows:,} rows in 10 devices", sets.jsonb(
                settings.postgres, f"acceptance_{10 * settings.rows}", 10, settings.rows
            )


def compare(case: str, settings: SimpleNamespace) -> dict[str, list[dict[str, float]]]:
    name, rows = rows_of(case, settings)
    contestants = {
        "ours": (rows, lambda topic: asyncio.run(contenders.service(settings, rows, topic))),
        "equal": (rows, lambda topic: contenders.psql_kcat(settings, rows, topic, EQUAL)),
        "plain": (rows, lambda topic: contenders.psql_kcat(settings, rows, topic, "")),
        "script": (rows, lambda topic: contenders.script(settings, rows, topic)),
    }
    if case in ELASTIC:
        contestants |= {
            "equal": (rows, lambda topic: elastic_contenders.curl_kcat(settings, rows, topic, EQUAL)),
            "plain": (rows, lambda topic: elastic_contenders.curl_kcat(settings, rows, topic, "")),
            "elasticdump": (rows, lambda topic: elastic_contenders.elasticdump(settings, rows, topic, EQUAL)),
            "script": (rows, lambda topic: elastic_contenders.script(settings, rows, topic)),
            "scroll": (rows, lambda _: elastic_contenders.scroll(settings, rows)),
        }
    if settings.before:
        contestants["before"] = (rows, lambda topic: asyncio.run(contenders.service(of_before(settings), rows, topic)))
    rounds = settings.rounds
    if case == "x10":
        contestants, rounds = {"ours": contestants["ours"]}, 1
    if case in "ch":
        # For comparison in the same rounds, since the speed of a machine changes over hours.
        large_case = "a" if case == "c" else "g"
        _, large = rows_of(large_case, settings)
        contestants[f"ours-{large_case}"] = (large, lambda topic: asyncio.run(contenders.service(settings, large, topic)))
    if settings.only:
        contestants = {contestant: contestants[contestant] for contestant in settings.only.split(",")}
    if case in ELASTIC and "ours" in contestants:
        once(settings, rows, checked(*contestants["ours"], settings))
    found: dict[str, list[Took]] = {contestant: [] for contestant in contestants}
    for round_ in range(rounds + 1):
        order = list(contestants)
        # The order rotates. The first round fills the caches of the source and the system, and is not counted.
        order = order[round_ % len(order) :] + order[: round_ % len(order)]
        if round_ == 0:
            if case == "x10":
                continue
            order = [one for one in ("ours", "scroll") if one in order] * ELASTIC_WARM_UPS if case in ELASTIC else order[:1]
        for contestant in order:
            of, begin = contestants[contestant]
            took = begin("") if contestant == "scroll" else once(settings, of, begin)
            say(f"{case} {'warm-up' if round_ == 0 else f'round {round_}'}: {contestant} {took.seconds:.2f} s, {took.cpu:.2f} CPU s")
            if round_ > 0:
                found[contestant].append(took)
    show(case, name, {contestant: of.rows for contestant, (of, _) in contestants.items()}, found)
    return {contestant: [asdict(took) for took in runs] for contestant, runs in found.items()}


def checked(rows: Set, contestant: Callable[[str], Took], settings: SimpleNamespace) -> Callable[[str], Took]:
    """Also compares each message with its document."""

    def run_and_check(topic: str) -> Took:
        took = contestant(topic)
        elastic.check_topic(settings, rows, topic)
        return took

    return run_and_check


def once(settings: SimpleNamespace, rows: Set, contestant: Callable[[str], Took]) -> Took:
    topic = fresh_name("bench")
    create_topic(settings.kafka, topic)
    try:
        took = contestant(topic)
        consumer = Consumer({"bootstrap.servers": settings.kafka, "group.id": topic})
        marks = [consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30) for partition in range(3)]
        consumer.close()
        if (arrived := sum(high - low for low, high in marks)) != rows.rows:
            raise RuntimeError(f"{arrived:,} messages are in the topic, not {rows.rows:,}")
        return took
    finally:
        delete_topic(settings.kafka, topic)


if __name__ == "__main__":
    main()
