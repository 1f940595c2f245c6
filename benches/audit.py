"""What recording costs: execs a second that PostgreSQL takes from Adit, and what a warm exec waits for its two rows."""

from __future__ import annotations

import json
from pathlib import Path

import report
from peers import AditPeer, interleave
from processes import output_of
from stack import Adit

# Turns of each peer, and the length of one.
ROUNDS = 5
TURN_SECONDS = 3
SECONDS = 300


def rates(program: Path, url: str) -> str:
    """benches/programs/audit: Adit's group commit beside rows that are committed one by one."""
    measured = json.loads(output_of([str(program), url, str(ROUNDS), str(TURN_SECONDS)], timeout=SECONDS))
    group = measured["group_commit"]
    rows = [["Adit's audit: a batch is one statement", "1", "", f"{report.p50(group):.0f}"]]
    for peer in measured["single_rows"]:
        single = peer["rates"]
        by_round = [ours / theirs for ours, theirs in zip(group, single, strict=True)]
        connections = peer["connections"]
        rows.append(
            [
                f"a statement and a commit for each row, {connections} connection{'s' if connections > 1 else ''}",
                f"**{report.p50(group) / report.p50(single):.1f}**",
                f"{min(by_round):.1f} to {max(by_round):.1f}",
                f"{report.p50(single):.0f}",
            ]
        )
    headings = [f"who, {measured['callers']} callers", "Adit / this, execs/s", "rounds", "execs/s here, two commits each"]
    return report.table(headings, rows)


def added_latency(postgres: Adit, in_memory: Adit, rounds: int, samples: int, warm_up: int) -> str:
    """The same warm exec with its rows in PostgreSQL, and in a store that costs next to nothing."""
    for adit in (postgres, in_memory):
        first = AditPeer(adit, tunnel="cold")
        first.sample()
        first.close()
    peers = {"postgres": AditPeer(postgres), "memory": AditPeer(in_memory)}
    try:
        taken = interleave({name: peer.sample for name, peer in peers.items()}, rounds, samples, warm_up)
    finally:
        for peer in peers.values():
            peer.close()
    text = report.latency_table(taken["postgres"], {"the same with its store in memory (SQLite)": taken["memory"]})
    by_round = [report.p50(one) - report.p50(other) for one, other in zip(taken["postgres"], taken["memory"], strict=True)]
    low, middle, high = (report.milliseconds(report.percentile(by_round, share)) for share in (0.25, 0.5, 0.75))
    return text + f"\nBegin and finish add {middle} ms to a warm exec (middle half of the rounds: {low} to {high}).\n"
