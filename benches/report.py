"""What was measured as Markdown: ratios first, milliseconds of this one machine beside them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from processes import Failed, output_of


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them lie, between neighbours by proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def p50(values: Iterable[float]) -> float:
    return percentile(values, 0.5)


def p90(values: Iterable[float]) -> float:
    return percentile(values, 0.9)


def flat(rounds: list[list[float]]) -> list[float]:
    return [value for values in rounds for value in values]


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in ([headings, ["---"] * len(headings)] + rows)]
    return "\n".join(lines) + "\n"


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def latency_table(adit: list[list[float]], peers: dict[str, list[list[float]]]) -> str:
    """Adit against each peer: the ratio over all samples, and the middle half of the ratios of single rounds, which says
    how far the machine's noise moves it."""
    own = flat(adit)
    rows = [["Adit", "1", "", milliseconds(p50(own)), milliseconds(p90(own)), str(len(own))]]
    for name, rounds in peers.items():
        samples = flat(rounds)
        by_round = [p50(mine) / p50(theirs) for mine, theirs in zip(adit, rounds, strict=True)]
        rows.append(
            [
                name,
                f"**{p50(own) / p50(samples):.2f}**",
                f"{percentile(by_round, 0.25):.2f} to {percentile(by_round, 0.75):.2f}",
                milliseconds(p50(samples)),
                milliseconds(p90(samples)),
                str(len(samples)),
            ]
        )
    headings = ["who", "Adit / this, p50", "rounds (middle half)", "p50 ms here", "p90 ms here", "samples"]
    return table(headings, rows)


@dataclass(frozen=True)
class LoadResult:
    """One peer under load, all rounds together."""

    name: str
    rounds: list[dict[str, Any]]

    def rate(self) -> float:
        return sum(len(one["took_ms"]) for one in self.rounds) / sum(one["seconds"] for one in self.rounds)

    def rates(self) -> list[float]:
        return [len(one["took_ms"]) / one["seconds"] for one in self.rounds]

    def done(self) -> int:
        return sum(len(one["took_ms"]) for one in self.rounds)

    def failures(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for one in self.rounds:
            for reason, count in one["failures"].items():
                counts[reason] = counts.get(reason, 0) + count
        return counts


def load_table(adit: LoadResult, service: LoadResult) -> str:
    rows = []
    for result in (adit, service):
        failed = sum(result.failures().values())
        share = failed / max(1, failed + result.done())
        took = flat([one["took_ms"] for one in result.rounds])
        ratio = "1" if result is adit else f"**{adit.rate() / result.rate():.2f}**"
        by_round = [mine / theirs for mine, theirs in zip(adit.rates(), result.rates(), strict=True)]
        spread = "" if result is adit else f"{min(by_round):.2f} to {max(by_round):.2f}"
        rows.append(
            [
                result.name,
                ratio,
                spread,
                f"{result.rate():.0f}",
                f"{failed} ({share:.1%})",
                milliseconds(p50(took)) if took else "-",
                milliseconds(p90(took)) if took else "-",
            ]
        )
    headings = ["who", "Adit / this, execs/s", "rounds", "execs/s here", "failed", "p50 ms here", "p90 ms here"]
    text = table(headings, rows)
    for result in (adit, service):
        for reason, count in sorted(result.failures().items()):
            text += f"\n{result.name}, failed {count} times: `{reason}`\n"
    return text


def breakdown_table(taken: dict[str, list[list[float]]], execs: list[dict[str, Any]]) -> str:
    """Where an exec's time goes, from requests that stop earlier and from a store that needs no disk."""
    middle = {name: p50(flat(rounds)) for name, rounds in taken.items()}
    total = middle["adit"]

    def timing(field: str) -> float:
        values = [one["timing_ms"][field] for one in execs if one["timing_ms"].get(field) is not None]
        return statistics.median(values) if values else float("nan")

    beyond = middle["memory"] - middle["refused"]
    rows = [
        ("a whole exec, as its caller sees it", total),
        ("HTTP and this client: `GET /healthz`", middle["health"]),
        ("token, workspace and body: a refused request less the line above", middle["refused"] - middle["health"]),
        ("waiting for the disk in two commits: less the same exec with its store in memory", total - middle["memory"]),
        ("one commit of one such row by SQLite alone, to the same disk", middle["commit"]),
        ("`timing_ms.queued`: asking for a channel", timing("queued")),
        ("`timing_ms.run`: from sshd's yes to the program's end", timing("run")),
        ("the rest, with the store in memory: SSH, the shell, the emulated endpoint, actors", beyond),
        ("for comparison, asyncssh's whole exec: SSH with one round trip more, the shell", middle["asyncssh"]),
        (
            "the rest less asyncssh's exec: what endpoint and actors add, less the saved round trip",
            beyond - middle["asyncssh"],
        ),
    ]
    return table(
        ["part", "p50 ms here", "share of the exec"],
        [[name, f"{value:.3f}", f"{value / total:.0%}"] for name, value in rows],
    )


def environment(adit: Path, directory: Path, shell: str) -> str:
    """What the figures belong to."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    file_system = output_of(["df", "--output=fstype", str(directory)]).split()[-1]
    rows = [
        ["processor", f"{os.cpu_count()} x {model}"],
        ["system", f"{platform.system()} {platform.release()}"],
        ["Adit", f"{output_of([str(adit), '--version'])}, commit {commit()}"],
        ["sshd", openssh_version()],
        ["login shell", shell],
        ["store", f"SQLite on {file_system}, WAL, synchronous FULL"],
        ["peers", f"Python {platform.python_version()}, asyncssh {version('asyncssh')}, aiohttp {version('aiohttp')}"],
    ]
    return table(["what", "here"], rows)


def openssh_version() -> str:
    """The client's, which comes from the same source as the server's. It prints it to standard error."""
    return output_of(["sh", "-c", "ssh -V 2>&1"]).split(",")[0]


def commit() -> str:
    try:
        return output_of(["git", "rev-parse", "--short", "HEAD"])
    except Failed:
        return "unknown"


def load_average() -> str:
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])
