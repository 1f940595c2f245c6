"""A command that prints ten gigabytes beside nine callers of `/bin/true` on the same instance, and the nine alone."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
from processes import Failed
from stack import Adit

CALLERS = 9
ROUND_SECONDS = 3.0
# Before the flood and again after it, so that what else the machine does falls on both sides.
ROUNDS_ALONE = 5
# The most that an exec may have.
TIMEOUT_SECONDS = 120
# And Adit's own part of it: to kill, to drain, to commit.
ANSWER_SECONDS = TIMEOUT_SECONDS + 60


def measure(adit: Adit, process_id: int, printed: int, load: Callable[[float], dict[str, Any]]) -> str:
    """`load` runs the callers for so many seconds. The process is Adit's, and has done nothing before."""
    load(1)
    alone = [load(ROUND_SECONDS) for _ in range(ROUNDS_ALONE)]
    before = peak_kib(process_id)
    flood = Flood(adit, printed)
    beside = []
    while True:
        taken = load(ROUND_SECONDS)
        if flood.has_ended():
            # Some of this round was alone.
            break
        beside.append(taken)
    after = peak_kib(process_id)
    alone += [load(ROUND_SECONDS) for _ in range(ROUNDS_ALONE)]
    ended = flood.ended()
    if not beside:
        raise Failed(f"{printed} bytes were printed within a round: measure with more")
    told = run(adit, f"{program(printed)} | sha256sum")["stdout"].split()[0]
    return table(ended, alone, beside, before, after, told)


def program(printed: int) -> str:
    return f"yes 'as much as anybody would ever print' | head -c {printed}"


def run(adit: Adit, line: str) -> dict[str, Any]:
    """One exec by a shell, in the JSON form."""
    connection = http.client.HTTPConnection(*adit.address, timeout=ANSWER_SECONDS)
    headers = {
        "Authorization": f"Bearer {adit.token}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    body = json.dumps({"cmd": ["sh", "-c", line], "timeout_s": TIMEOUT_SECONDS})
    try:
        connection.request("POST", f"/workspaces/{adit.workspaces[0]}/exec", body, headers)
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if answer.get("exit_code") != 0:
        raise Failed(f"`{line}` did not exit with 0: {answer.get('code') or answer.get('outcome')}")
    return answer


class Flood:
    """The command, under way on a thread of its own."""

    def __init__(self, adit: Adit, printed: int) -> None:
        self._answer: dict[str, Any] | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(adit, printed), daemon=True)
        self._thread.start()

    def _run(self, adit: Adit, printed: int) -> None:
        start = time.perf_counter()
        try:
            self._answer = run(adit, program(printed))
            self._answer["seconds"] = time.perf_counter() - start
        except (Failed, OSError, http.client.HTTPException, ValueError) as error:
            self._failure = error

    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def ended(self) -> dict[str, Any]:
        self._thread.join()
        if self._answer is None:
            raise Failed(f"the flood failed: {self._failure}")
        return self._answer


def peak_kib(process_id: int) -> int:
    """The most memory that the process has ever held."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise Failed(f"process {process_id} has no VmHWM")


def table(
    ended: dict[str, Any], alone: list[dict[str, Any]], beside: list[dict[str, Any]], before: int, after: int, told: str
) -> str:
    stdout = ended["streams"]["stdout"]
    lone, accompanied = took(alone), took(beside)
    failures = sum(sum(one["failures"].values()) for one in [*alone, *beside])
    rows = [
        ["p50 of the nine, ms", report.milliseconds(report.p50(lone)), report.milliseconds(report.p50(accompanied))],
        ["p99 of the nine, ms", *(report.milliseconds(report.percentile(all_of, 0.99)) for all_of in (lone, accompanied))],
        ["execs of the nine", str(len(lone)), str(len(accompanied))],
        ["Adit's peak memory, MiB", f"{before / 1024:.0f}", f"{after / 1024:.0f}"],
    ]
    is_true = "the same as" if stdout["sha256"] == told else "NOT that of"
    return (
        report.table(["what", "alone", "beside the flood"], rows)
        + f"\np50 beside / alone: **{report.p50(accompanied) / report.p50(lone):.2f}**; {failures} failed.\n"
        + f"\n{stdout['bytes']:,} bytes in {ended['seconds']:.0f} s "
        + f"({stdout['bytes'] / ended['seconds'] / 1e6:.0f} MB/s), {stdout['sent']:,} of them kept. "
        + f"Their digest is {is_true} sha256sum's on the instance.\n"
    )


def took(rounds: list[dict[str, Any]]) -> list[float]:
    return report.flat([one["took_ms"] for one in rounds])
