"""Where things are, and a word to whoever waits. Imported first: it puts scripts/acceptance.d on the path, whose store,
broker, client and service this bench uses rather than having its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Raw figures, the script's cursor files; all of it may be deleted at any time.
WORK = ROOT / "target" / "bench"
sys.path.insert(0, str(ROOT / "scripts" / "acceptance.d"))

from common import Settings  # noqa: E402


@dataclass(frozen=True)
class Sizes:
    """How much of each case: in full, or as `--quick` and `--rows` have it."""

    rows: int
    small_devices: int
    rounds: int
    submits: int
    watchers: int

    @staticmethod
    def of(quick: bool, rows: int | None, rounds: int | None) -> Sizes:
        if quick:
            return Sizes(rows or 100_000, 1_000, rounds or 2, 40, 200)
        return Sizes(rows or 1_000_000, 10_000, rounds or 5, 200, 2_000)


def say(text: str) -> None:
    """Progress. Not on stdout, which has the tables."""
    print(f"  .. {text}", file=sys.stderr, flush=True)


__all__ = ["HERE", "ROOT", "WORK", "Settings", "Sizes", "say"]
