"""The pool's answer time, by benches/programs/pool: what an ask costs when ten thousand instances are known."""

from __future__ import annotations

import json
from pathlib import Path

import report
from processes import output_of

INSTANCES = 10_000
ROUNDS = 8
# Half a minute on an idle machine.
SECONDS = 600
ROWS = {
    "refusal_one": "refused by the back-off, one instance again and again; its exec's actor and rows included",
    "refusal_spread": "the same, over all instances in turn",
    "warm": "`timing_ms.queued` of an exec on a ready tunnel",
    "list": "all supervisors described, as `GET /admin/tunnels` writes them",
}


def measure(program: Path) -> str:
    measured = json.loads(output_of([str(program), str(INSTANCES), str(ROUNDS)], timeout=SECONDS))
    samples = measured["microseconds"]
    rows = []
    for name, what in ROWS.items():
        few, many = samples[f"{name}_few"], samples[f"{name}_many"]
        by_round = [report.p50(theirs) / report.p50(ours) for ours, theirs in zip(few, many, strict=True)]
        rows.append(
            [
                what,
                f"**{report.p50(report.flat(many)) / report.p50(report.flat(few)):.2f}**",
                f"{report.percentile(by_round, 0.25):.2f} to {report.percentile(by_round, 0.75):.2f}",
                *(
                    f"{report.percentile(report.flat(rounds), share):.0f}"
                    for rounds in (few, many)
                    for share in (0.5, 0.99)
                ),
            ]
        )
    headings = ["what", f"{INSTANCES:,} known / 1, p50", "rounds (middle half)"]
    headings += [f"{share} µs at {count:,}" for count in (1, INSTANCES) for share in ("p50", "p99")]
    each = (measured["kib_after"] - measured["kib_before"]) / INSTANCES
    return report.table(headings, rows) + f"\nMemory for each instance that is known and has no tunnel: {each:.1f} KiB\n"
