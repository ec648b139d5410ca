"""The contenders that read from OpenSearch: `curl | kcat`, elasticdump, a script with checks, and a scroll by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from contenders import HERE, Took, shell
from elastic import PAGE, ROOT, ElasticSet
from sets import say

ELASTICDUMP = ROOT / "target/bench/elasticdump"

# Splits pages into lines of key and document. A document ends before what the store puts behind it, which no string of JSON
# can hold; one that is no JSON, or has a line break, goes wrong.
SPLIT = r"""perl -ne 'BEGIN { $/ = q("_source":) } next if $. == 1;
 print "$1\t", substr($_, 0, rindex($_, q(,"sort":[))), "\n" if /"deviceId": ?"([^"]*)"/'"""
KEYED = r"""perl -ne 'print "$1\t$_" if /"deviceId":"([^"]*)"/'"""


def scroll(settings: SimpleNamespace, rows: ElasticSet, *_: str) -> Took:
    """What the store itself takes: all pages, and nothing done with them."""
    return shell(pages(settings, rows) + " > /dev/null", rows)


def pages(settings: SimpleNamespace, rows: ElasticSet) -> str:
    return f"{HERE}/scroll {rows.node.url} {rows.index} {rows.search(settings.work)} {PAGE}"


def curl_kcat(settings: SimpleNamespace, rows: ElasticSet, topic: str, flags: str) -> Took:
    """By hand: one scroll of all devices; key and document, no headers, no checks."""
    return shell(f"{pages(settings, rows)} | {SPLIT} | {kcat(settings, topic, flags)}", rows)


def elasticdump(settings: SimpleNamespace, rows: ElasticSet, topic: str, flags: str) -> Took:
    """The usual tool for it, which parses each document and writes it again."""
    dump = (
        f"{elasticdump_program()} --input={rows.node.url}/{rows.index} --output='$' --type=data --sourceOnly --quiet"
        f" --limit={PAGE} --searchBody=@{rows.search(settings.work)}"
    )
    return shell(f"{dump} | {KEYED} | {kcat(settings, topic, flags)}", rows)


def elasticdump_program() -> Path:
    program = ELASTICDUMP / "node_modules/.bin/elasticdump"
    if not program.exists():
        say("installing elasticdump (once) ...")
        ELASTICDUMP.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", ELASTICDUMP, "elasticdump"], check=True)
    return program


def kcat(settings: SimpleNamespace, topic: str, flags: str) -> str:
    return f"kcat -P -b {settings.kafka} -t {topic} -K $'\\t' {flags}"


def script(settings: SimpleNamespace, rows: ElasticSet, topic: str) -> Took:
    search = rows.search(settings.work)
    return shell(f"{sys.executable} {HERE}/careful_elastic.py {rows.node.url} {rows.index} {search} {settings.kafka} {topic}", rows)
