"""The tables of a case, and whether it reaches its goals."""

from __future__ import annotations

import statistics

from contenders import Took

# Cases of readings in OpenSearch.
ELASTIC = "ghijk"
NAMES = {
    "ours": "data-patch",
    "before": "data-patch, the other build",
    "equal": "psql \\| kcat, acks=all, idempotent, lz4, linger 50 ms",
    "plain": "psql \\| kcat as they come",
    "script": "Python script",
    "ours-a": "data-patch on the rows of (a)",
    "ours-g": "data-patch on the rows of (g)",
}
OF_ELASTIC = {
    "equal": "curl \\| kcat, acks=all, idempotent, lz4, linger 50 ms",
    "plain": "curl \\| kcat as they come",
    "elasticdump": "elasticdump \\| kcat, acks=all, idempotent, lz4, linger 50 ms",
    "scroll": "curl alone, to /dev/null",
}
# The minimum ratio to the rows per second of each contender.
GOALS = {
    "a": {"equal": 1.3, "script": 5.0},
    "b": {"equal": 1.0, "script": 5.0},
    "f": {"equal": 1.0, "script": 5.0},
    "c": {"ours-a": 0.5, "script": 5.0},
    "g": {"equal": 1.5, "elasticdump": 1.5, "script": 1.5},
    "h": {"ours-g": 0.5},
    "k": {"equal": 1.5, "elasticdump": 1.5, "script": 1.5},
    "i": {"equal": 1.0, "elasticdump": 1.0, "script": 1.0},
}


def show(case: str, name: str, rows: dict[str, int], found: dict[str, list[Took]]) -> None:
    is_elastic = case in ELASTIC
    names, store = (NAMES | OF_ELASTIC, "OpenSearch") if is_elastic else (NAMES, "PostgreSQL")
    print(f"\n({case}) {name}, {len(next(iter(found.values())))} rounds, median (min to max)\n")
    print(f"| | rows a second | against ours | CPU s a million rows | of {store} | of Kafka | peak memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    per = {contestant: [rows[contestant] / took.seconds for took in runs] for contestant, runs in found.items()}
    median = statistics.median
    for contestant, runs in found.items():
        speeds = per[contestant]
        # By round, since the speed of the machine changes.
        ratios = [ours / theirs for ours, theirs in zip(per.get("ours", []), speeds)]
        ratio = f"{median(ratios):.2f} ×" if contestant != "ours" and ratios else ""
        # For several processes the system only reports the largest.
        peak = f"{max(took.peak_mb for took in runs):.0f}" if contestant.startswith(("ours", "before")) else "–"
        cpu = [1e6 / rows[contestant] * median(getattr(took, of) for took in runs) for of in ("cpu", "source_cpu", "kafka_cpu")]
        print(
            f"| {names[contestant]} | {median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) | {ratio} "
            f"| {cpu[0]:.1f} | {cpu[1]:.1f} | {cpu[2]:.1f} | {peak} |"
        )
    if "ours" in found and case in GOALS:
        print()
        for other, least in GOALS[case].items():
            if other in per:
                ratio = median([ours / theirs for ours, theirs in zip(per["ours"], per[other])])
                print(f"{goal(f'at least {least} × {names[other]}', ratio >= least)} ({ratio:.2f} ×)  ")
    if {"ours", "scroll"} <= found.keys():
        ours, scroll = (1e6 / rows[of] * median(took.source_cpu for took in found[of]) for of in ("ours", "scroll"))
        print(f"{goal(f'CPU of {store} not above that for the scroll alone', ours <= scroll)} ({ours:.2f} and {scroll:.2f} s)  ")
    if "ours" in found:
        print(goal("peak memory under 100 MB", max(took.peak_mb for took in found["ours"]) < 100), flush=True)


def goal(what: str, reached: bool) -> str:
    return f"goal {what}: {'reached' if reached else 'NOT reached'}"
