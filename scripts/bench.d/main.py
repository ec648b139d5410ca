"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from here import ROOT, WORK, Settings, Sizes, say

import latency
import rounds
import table
import watchers
from contenders import ALL

USAGE = """\
data-patch on real PostgreSQL and Kafka, against what a person would do without it, one after the other, in rounds.

cases:
  a    one million rows in 10 devices, jsonb        d    the contract's sample: how long a submit takes
  b    the same rows in a json column               e    2,000 watchers on one busy task
  c    10,000 devices of 20 rows each               f    one device of a million rows
  x10  ten times the rows of (a), data-patch alone: peak memory must not grow (10 GB of disk; not part of `all`)

contenders of a, b, c and f:
  ours    `data-patch serve`: fresh queue, its own defaults; time is from the submit to `task finished`
  equal   psql COPY | kcat with lz4, acks=all, idempotence and Java's partitions, as ours has them
  plain   psql COPY | kcat as it comes
  script  scripts/bench.d/careful.py: psycopg and confluent-kafka, each document checked"""

EXAMPLES = """\
examples:
  scripts/bench                            all of it: about an hour; leave the machine alone meanwhile
  scripts/bench --quick                    all of it, small: a few minutes, to see that it works
  scripts/bench a --rounds 3               one case, three rounds
  scripts/bench a c --only ours --only equal
  scripts/bench b f --rows 200000 --binary /tmp/data-patch
  scripts/bench x10                        ten million rows

Tables go to stdout, progress to stderr, all raw figures to target/bench/results.json; cases that were not run this time
keep theirs. The rows are made once, in databases named bench_… and acceptance_…; scripts/services down --purge removes
them. Exit code 0 when everything ran and arrived, whether the goals are reached or not."""

COMPARED = ("a", "b", "c", "f", "x10")
CASES = ("a", "b", "c", "d", "e", "f", "x10")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=USAGE, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a b c d e f x10, or all (the default): the first six")
    parser.add_argument("--rounds", type=int, metavar="N", help="of each contender, in turn (default 5; 2 with --quick)")
    parser.add_argument("--rows", type=int, metavar="N", help="in a, b, e and f (default 1,000,000; 100,000 with --quick)")
    parser.add_argument("--only", action="append", default=[], choices=[one.key for one in ALL], help="only this contender (may be repeated)")
    parser.add_argument(
        "--binary", type=Path, default=ROOT / "target" / "release" / "data-patch", metavar="P", help="default: target/release/data-patch"
    )
    parser.add_argument("--json", type=Path, default=WORK / "results.json", metavar="FILE", help="default: target/bench/results.json")
    parser.add_argument("--quick", action="store_true", help="fewer rows, rounds, devices, submits and watchers")
    parser.add_argument("--progress-ms", type=int, default=watchers.PROGRESS_MS, metavar="N", help="in e: how often the task writes a line (default 100)")
    # For the launcher, which looks at the arguments before it starts anything.
    parser.add_argument("--parse-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := [case for case in arguments.cases if case not in (*CASES, "all")]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {' '.join(CASES)} and all")
    # Whole devices, and whole groups of four rows in each.
    if arguments.rows is not None and (arguments.rows < 40 or arguments.rows % 40):
        parser.error("--rows must be a multiple of 40")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.parse_only:
        return 0
    if not os.access(arguments.binary, os.X_OK):
        print(f"scripts/bench: {arguments.binary} is no program: cargo build --release, or --binary", file=sys.stderr)
        return 2
    # An end from outside is to clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sizes = Sizes.of(arguments.quick, arguments.rows, arguments.rounds)
    settings = Settings(
        os.environ["DATA_PATCH_TEST_POSTGRES"], os.environ["DATA_PATCH_TEST_KAFKA"], arguments.binary.resolve(), sizes.rows, False
    )
    WORK.mkdir(parents=True, exist_ok=True)
    # What acceptance's own parts write their logs to.
    (ROOT / "target" / "acceptance").mkdir(parents=True, exist_ok=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    cases = [case for case in CASES if case in arguments.cases or (case != "x10" and (not arguments.cases or "all" in arguments.cases))]
    goals: list[table.Goal] = []
    failed = []
    for case in cases:
        try:
            results[case] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()} | measure(case, settings, sizes, arguments)
            goals += show(case, results)
        except KeyboardInterrupt:
            say("broken off")
            return 130
        except Exception as error:  # noqa: BLE001
            # The other cases still have their turn.
            traceback.print_exc()
            print(f"\n### ({case}) FAILED: {error}")
            failed.append(case)
        sys.stdout.flush()
        arguments.json.write_text(json.dumps(results, indent=1, ensure_ascii=False))
    table.all_goals(goals)
    if failed:
        print(f"\nFAILED: {', '.join(failed)}")
    say(f"raw figures: {arguments.json}")
    return 1 if failed else 0


def measure(case: str, settings: Settings, sizes: Sizes, arguments: argparse.Namespace) -> dict[str, object]:
    if case == "d":
        return asyncio.run(latency.run(settings, sizes))
    if case == "e":
        return asyncio.run(watchers.run(settings, sizes, arguments.progress_ms))
    return rounds.run(case, settings, sizes, arguments.only)


def show(case: str, results: dict[str, Any]) -> list[table.Goal]:
    if case in COMPARED:
        return table.comparison(case, results[case], results)
    return table.latency(results[case]) if case == "d" else table.watchers(results[case])


def machine() -> dict[str, object]:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model, "cores": os.cpu_count(), "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(), "python": platform.python_version(), "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.exit(main())
