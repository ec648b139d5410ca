"""What all parts share: where things are, and the report that each part prints."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Databases, logs and queue files of the proof; all of it may be deleted at any time.
WORK = ROOT / "target" / "acceptance"


@dataclass(frozen=True)
class Settings:
    """What the command line and `scripts/services env` say."""

    postgres: str
    kafka: str
    binary: Path
    rows: int
    # The version of the store of the part `elastic`.
    elastic: str
    # The program of the version before, for the part `upgrade`.
    before: Path | None
    keep: bool

    @property
    def rows_per_device(self) -> int:
        return self.rows // DEVICES


DEVICES = 10


def fresh_name(part: str) -> str:
    """A name that no other run has: of a topic, a folder, a log file."""
    return f"acceptance-{part}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass
class Report:
    """Figures and verdicts of one part. A check that was never reached can't pass, so a part names its checks as it goes."""

    part: str
    figures: list[tuple[str, str]] = field(default_factory=list)
    verdicts: list[tuple[bool, str]] = field(default_factory=list)

    def figure(self, name: str, value: object) -> None:
        self.figures.append((name, f"{value:,.2f}" if isinstance(value, float) else str(value)))

    def check(self, passed: bool, what: str, why: str = "") -> bool:
        """Notes a verdict; `why` is what was found instead."""
        self.verdicts.append((passed, what if passed or not why else f"{what}: {why}"))
        return passed

    def equal(self, what: str, found: object, expected: object) -> bool:
        return self.check(found == expected, what, f"expected {expected}, found {found}")

    @property
    def passed(self) -> bool:
        return bool(self.verdicts) and all(passed for passed, _ in self.verdicts)

    def show(self) -> None:
        print(f"\n== {self.part} ==")
        width = max((len(name) for name, _ in self.figures), default=0)
        for name, value in self.figures:
            print(f"  {name:<{width}}  {value}")
        for passed, what in self.verdicts:
            print(f"  PASS  {what}" if passed else f"  FAIL: {what}")
        print(f"{self.part}: {'PASS' if self.passed else 'FAIL'}", flush=True)


def note(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"  .. {text}", flush=True)
