"""The command line of scripts/acceptance."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import traceback
from pathlib import Path

import cluster
import cut
import documents
import killed
import million
import sample
import steered
import streams
import upgrade
from broker import murmur2
from common import DEVICES, ROOT, WORK, Report, Settings

PARTS = {
    "sample": sample.run,
    "million": million.run,
    "cut": cut.run,
    "killed": killed.run,
    "steered": steered.run,
    "streams": streams.run,
    "cluster": cluster.run,
    "elastic": documents.run,
    "upgrade": upgrade.run,
}

USAGE = """\
An independent proof of the service on real PostgreSQL, real Kafka and the release binary.

  million   one request for a million rows of ten devices; what arrived is compared with the database, byte for byte
  killed    the same, with the service killed (SIGKILL) three times on the way
  sample    the contract's request of seven devices, twenty times: how long it takes
  cut       a watcher whose connection is cut ten times sees each log line once
  steered   preview, pause, resume, rate, cancel, retry, receipt and verification while a million rows are on their way
  streams   2,000 event streams over HTTP follow a task of a million rows, each without a gap
  cluster   three instances on one queue in PostgreSQL: one killed, one cut off from the queue and one from Kafka for a
            minute each, the queue's server crashed, and a watcher on each (takes root, nft, five minutes)
  elastic   a million documents in OpenSearch or Elasticsearch (two nodes of its own): the service killed three times, and
            the data node once
  upgrade   three instances on one queue in PostgreSQL, of the version that --before names, are replaced one by one by
            this one while they work on a task
  all       all of them but `upgrade`

The service's own log of each part is in target/acceptance. Exit code 0 only when all passed."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/acceptance", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--rows", type=int, default=1_000_000, help="instead of a million (a multiple of 40)")
    parser.add_argument(
        "--binary", type=Path, default=ROOT / "target" / "release" / "data-patch", help="default: target/release/data-patch"
    )
    parser.add_argument("--elastic", default="opensearch-2.19", metavar="VERSION", help="of scripts/elastic/node; default: opensearch-2.19")
    parser.add_argument("--before", type=Path, help="for `upgrade`: the program of the version before (a build of its tag)")
    parser.add_argument("--keep", action="store_true", help="keep topics, the sample's database and queue files")
    # For the launcher, which looks at the arguments before it starts anything.
    parser.add_argument("--parse-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # Whole devices, and whole groups of four rows in each (see source.py).
    if arguments.rows < 40 or arguments.rows % (4 * DEVICES):
        parser.error("--rows must be a multiple of 40")
    return arguments


async def run(part: str, settings: Settings) -> Report:
    """A part that breaks down has failed; the others still have their turn."""
    try:
        return await PARTS[part](settings)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        report = Report(part)
        report.check(False, "the part ran to its end", repr(error))
        return report


def main() -> int:
    arguments = parse()
    if arguments.parse_only:
        return 0
    # Kafka's own test vectors of murmur2 (UtilsTest): the yardstick is measured first.
    assert [murmur2(text) for text in (b"21", b"foobar", b"a-little-bit-long-string")] == [
        value & 0xFFFFFFFF for value in (-973932308, -790332482, -985981536)
    ]
    WORK.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        os.environ["DATA_PATCH_TEST_POSTGRES"],
        os.environ["DATA_PATCH_TEST_KAFKA"],
        arguments.binary.resolve(),
        arguments.rows,
        arguments.elastic,
        arguments.before and arguments.before.resolve(),
        arguments.keep,
    )
    reports = []
    for part in [part for part in PARTS if part != "upgrade"] if arguments.part == "all" else [arguments.part]:
        print(f"{part} ...", flush=True)
        report = asyncio.run(run(part, settings))
        report.show()
        reports.append(report)
    if len(reports) > 1:
        print("\n" + "\n".join(f"{report.part:<8} {'PASS' if report.passed else 'FAIL'}" for report in reports))
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
