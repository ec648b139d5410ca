"""The results as Markdown, and whether the goals are reached."""

from __future__ import annotations

import statistics
from typing import Any

from contenders import ALL
from meter import CORES

NAMES = {contender.key: contender.name for contender in ALL}
# At least so many times as fast as psql | kcat with the same promises; the Python script everywhere five times.
AGAINST_KCAT = {"a": 1.3, "b": 1.0, "f": 1.0}
AGAINST_SCRIPT = 5.0
MEMORY_MB = 100

Goal = tuple[str, str, bool | None]


def comparison(case: str, result: dict[str, Any], results: dict[str, Any]) -> list[Goal]:
    """Prints the table of a case and returns its goals: what, what was found, whether it is reached (None: unknown)."""
    rows, runs = result["rows"], result["runs"]
    by: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by.setdefault(run["contender"], []).append(run)
    number = len(next(iter(by.values())))
    print(f"\n### ({case}) {result['name']}; {number} round{'s' if number > 1 else ''}, median (min–max)\n")
    print("| | seconds | rows/s | ours is faster | CPU s | CPU s of PostgreSQL | CPU s of Kafka | CPU s of others | peak MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for key, name in NAMES.items():
        if key in by:
            took = by[key]
            ratio = "" if key == "ours" or "ours" not in by else spread(ratios(by, key), 2, " ×")
            print(
                f"| {name} | {spread([run['seconds'] for run in took], 2)} | {spread([rows / run['seconds'] for run in took], 0)} "
                f"| {ratio} | {middle(took, 'cpu')} | {middle(took, 'postgres_cpu')} | {middle(took, 'kafka_cpu')} "
                f"| {middle(took, 'other_cpu')} | {max(run['peak_mb'] for run in took):.0f} |"
            )
    disturbed = [run for run in runs if run["other_cpu"] > 0.15 * CORES * run["seconds"]]
    if disturbed:
        print(f"\nIn {len(disturbed)} of {len(runs)} runs others took over 15 % of the machine: these figures are provisional.")
    if case == "c":
        print("\n`psql | kcat` has one COPY for all devices here, ordered by device and time: the fastest way, and without their own log lines.")
    return goals(case, rows, by, results) if "ours" in by else []


def goals(case: str, rows: int, by: dict[str, list[dict[str, Any]]], results: dict[str, Any]) -> list[Goal]:
    found: list[Goal] = []
    if case in AGAINST_KCAT and "equal" in by:
        ratio = statistics.median(ratios(by, "equal"))
        found.append((f"({case}) ≥ {AGAINST_KCAT[case]} × psql \\| kcat", f"{ratio:.2f} ×", ratio >= AGAINST_KCAT[case]))
    if "script" in by:
        ratio = statistics.median(ratios(by, "script"))
        found.append((f"({case}) ≥ {AGAINST_SCRIPT:.0f} × Python", f"{ratio:.2f} ×", ratio >= AGAINST_SCRIPT))
    if case == "c":
        a = results.get("a", {})
        of_a = [a["rows"] / run["seconds"] for run in a.get("runs", []) if run["contender"] == "ours"]
        if of_a:
            share = statistics.median(rows / run["seconds"] for run in by["ours"]) / statistics.median(of_a)
            found.append(("(c) ≥ 0.5 × rows/s of ours in (a)", f"{share:.2f} ×", share >= 0.5))
        else:
            found.append(("(c) ≥ 0.5 × rows/s of ours in (a)", "(a) was not run", None))
    peak = max(run["peak_mb"] for run in by["ours"])
    found.append((f"({case}) peak memory < {MEMORY_MB} MB", f"{peak:.0f} MB", peak < MEMORY_MB))
    return found


def latency(result: dict[str, Any]) -> list[Goal]:
    print(f"\n### (d) {result['name']}: milliseconds from the submit, on one connection\n")
    print("| devices | rows | submits | `task created.` p50 | finished p50 | finished p99 | min–max | peak MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    found: list[Goal] = []
    for kind in ("two", "seven"):
        took = result[kind]
        finished, created = took["finished_ms"], took["created_ms"]
        print(
            f"| {took['devices']} | {took['rows']:,} | {len(finished)} | {at(created, 50):.1f} | {at(finished, 50):.1f} | {at(finished, 99):.1f} "
            f"| {min(finished):.1f}–{max(finished):.1f} | {took['peak_mb']:.0f} |"
        )
        found.append((f"(d) {took['devices']} devices: p50 < 30 ms", f"{at(finished, 50):.1f} ms", at(finished, 50) < 30))
    return found


def watchers(result: dict[str, Any]) -> list[Goal]:
    count, memory = result["watchers"], result["memory_mb"]
    print(f"\n### (e) {result['name']} on one task: milliseconds until the last of them had a line\n")
    print("| from … to … | p50 | p99 | max |")
    print("| --- | ---: | ---: | ---: |")
    for name, key in (
        ("written → arrived at the last watcher", "written_to_last_ms"),
        ("first watcher → last watcher", "first_to_last_ms"),
        ("written → arrived at the first watcher", "written_to_first_ms"),
        ("written → read by the last watcher, a busy client's own lateness included", "written_to_last_read_ms"),
    ):
        values = result[key]
        print(f"| {name} | {at(values, 50):.1f} | {at(values, 99):.1f} | {max(values):.1f} |")
    lag, seconds, cpu = result["client"]["lag_ms"], result["seconds"], result["service_cpu"]
    print(f"| the client's own lateness, each read | {lag['p50']:.1f} | {lag['p99']:.1f} | {lag['max']:.1f} |")
    peak = 1000 * (memory["peak of the task watched"] - memory["peak of the task alone"]) / count
    median = 1000 * (memory["median of the task watched"] - memory["median of the task alone"]) / count
    quiet = 1000 * (memory["idle, all connected"] - memory["idle after a task, no connection"]) / count
    print(
        f"\n{result['lines']:,} lines, {result['lines_per_second']:.1f} a second ({result['lines_before']:,} before them not counted: not all had "
        f"attached), {result['lines_per_second'] * count:,.0f} frames a second. The task took {seconds['watched']:.2f} s and {cpu['watched']:.2f} s of CPU, "
        f"without watchers {seconds['alone']:.2f} s and {cpu['alone']:.2f} s. The watching process took {100 * result['client']['cpu_share']:.0f} % of a core.\n"
    )
    settled = 1000 * (memory["idle after the watched task, all connected"] - memory["idle after a task, no connection"]) / count
    print(
        f"Memory a watcher: {peak:.1f} KB by the peaks of the task with and without watchers, {median:.1f} KB by the medians; "
        f"{quiet:.1f} KB connected and idle, {settled:.1f} KB when the watched task is over."
    )
    late = at(result["written_to_last_ms"], 99)
    return [
        (f"(e) p99 to the last of {count:,} watchers < 250 ms", f"{late:.1f} ms", late < 250),
        (f"(e) < 20 KB a watcher, of {count:,}", f"{peak:.1f} KB", peak < 20),
    ]


def all_goals(found: list[Goal]) -> None:
    if not found:
        return
    print("\n### Goals\n\n| goal | found | |\n| --- | ---: | --- |")
    for what, figure, reached in found:
        print(f"| {what} | {figure} | {'?' if reached is None else 'reached' if reached else '**not reached**'} |")


def ratios(by: dict[str, list[dict[str, Any]]], key: str) -> list[float]:
    """Round by round, since the machine is not the same all the time."""
    ours = {run["round"]: run["seconds"] for run in by["ours"]}
    return [run["seconds"] / ours[run["round"]] for run in by[key]]


def spread(values: list[float], digits: int, unit: str = "") -> str:
    text = f"{statistics.median(values):,.{digits}f}{unit}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def middle(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs if run[key] is not None]
    return f"{statistics.median(values):.2f}" if values else "–"


def at(values: list[float], percent: int) -> float:
    """The value that so many percent are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
