"""A thousand callers at once on an instance that no tunnel leads to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report

CALLERS = 1_000


@dataclass(frozen=True)
class Crowd:
    """One crowd, and what it cost."""

    key_pushes: int
    tunnels: int
    refused_channels: int
    load: dict[str, Any]


def measure(instances: list[str], load: Callable[[str], dict[str, Any]], emulator: Path, sshd: Path) -> str:
    """A crowd for each instance, one after the other; `emulator` and `sshd` are logs, which tell what was asked of them."""
    crowds = []
    for instance in instances:
        refused = lines(sshd, "no more sessions")
        result = load(instance)
        crowds.append(
            Crowd(
                lines(emulator, "a key was pushed", f'"{instance}"'),
                lines(emulator, "a tunnel was opened", f'"{instance}"'),
                lines(sshd, "no more sessions") - refused,
                result,
            )
        )
    return table(crowds)


def lines(log: Path, *words: str) -> int:
    return sum(all(word in line for word in words) for line in log.read_text(errors="replace").splitlines())


def table(crowds: list[Crowd]) -> str:
    rows = []
    for number, crowd in enumerate(crowds, 1):
        took, failures = crowd.load["took_ms"], crowd.load["failures"]
        failed = ", ".join(f"{count} x {reason}" for reason, count in sorted(failures.items()))
        rows.append(
            [
                str(number),
                str(len(took)),
                failed or "0",
                str(crowd.key_pushes),
                str(crowd.tunnels),
                str(crowd.refused_channels),
                f"{crowd.load['seconds']:.2f}",
                *(report.milliseconds(report.percentile(took, share)) if took else "-" for share in (0.5, 0.99, 1)),
            ]
        )
    headings = ["crowd", "done", "failed", "key pushes", "tunnels", "channels that sshd refused", "seconds in all"]
    return report.table([*headings, "p50 ms", "p99 ms", "longest ms"], rows)
