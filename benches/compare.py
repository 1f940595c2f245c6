"""Measures Adit side by side with what one would run instead, in one run on one machine. README.md says what and why."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pwd
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import audit
import crowd
import distant
import flood
import idle_tunnels
import pool
import report
from peers import AditPeer, AsyncsshPeer, OpensshPeer, interleave, milliseconds_since
from processes import Failed, Processes, output_of
from stack import (
    COLD_INSTANCES,
    CROWD_INSTANCES,
    Adit,
    Emulator,
    Sshd,
    start_adit,
    start_distant,
    start_emulator,
    start_postgres,
    start_sshd,
)

SAMPLES_A_ROUND = 20
WARM_UP = 20
CALLERS = 32
# Bounds a round's memory and time should a peer answer at once, as one that refuses everything does.
REQUESTS_A_ROUND = 50_000
# A whole run takes five to ten minutes.
RUN_SECONDS = 1_800
# In the order in which they are measured. The last two log in with keys of their own, which replace that of the instance
# that the others use.
TABLES = ["warm", "callers", "distant", "idle", "pool", "audit", "flood", "crowd", "cold"]


def main() -> int:
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"not done after {RUN_SECONDS} s"))
    signal.alarm(RUN_SECONDS)
    try:
        # sshd's files lie where every login can read them, the store on a disk, its twin in memory.
        with (
            tempfile.TemporaryDirectory(prefix="adit-bench-") as shared,
            tempfile.TemporaryDirectory(prefix="run-", dir=arguments.directory) as disk,
            tempfile.TemporaryDirectory(prefix="adit-bench-", dir="/dev/shm") as memory,
            # On a disk too, and where PostgreSQL's user may enter.
            tempfile.TemporaryDirectory(prefix="adit-bench-", dir="/var/tmp") as postgres,
            Processes(fresh(arguments.directory / "logs")) as processes,
        ):
            Run(arguments, processes, Path(shared), Path(disk), Path(memory), Path(postgres)).all()
    except Failed as error:
        print(f"benches/compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benches/compare: interrupted", file=sys.stderr)
        return 130
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__)
    parser.add_argument("--adit", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--built", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, help="tables to make (default all)")
    parser.add_argument("--samples", type=int, default=400, help="execs of each peer, one at a time (default 400)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of load for each peer (default 4)")
    parser.add_argument("--seconds", type=float, default=6, help="length of a round of load (default 6)")
    parser.add_argument("--cold", type=int, default=12, help=f"cold execs, at most {COLD_INSTANCES} (default 12)")
    parser.add_argument(
        "--flood-gigabytes", type=float, default=10, help="what one command prints beside others (default 10)"
    )
    parser.add_argument(
        "--login", default="adit-dash", help="whom peers log in as (default adit-dash, which scripts/test creates)"
    )
    arguments = parser.parse_args()
    if arguments.samples < SAMPLES_A_ROUND or not 1 <= arguments.cold <= COLD_INSTANCES or arguments.rounds < 1:
        parser.error(f"at least {SAMPLES_A_ROUND} samples, one round, and 1 to {COLD_INSTANCES} cold execs")
    arguments.adit = arguments.adit.resolve()
    arguments.directory = arguments.directory.resolve()
    return arguments


class Run:
    """One run: starts everything once and measures one table after the other."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        processes: Processes,
        shared: Path,
        disk: Path,
        memory: Path,
        postgres: Path,
    ) -> None:
        self._arguments = arguments
        self._processes = processes
        self._shared = shared
        self._disk = disk
        self._memory = memory
        self._postgres = postgres
        try:
            self._shell = pwd.getpwnam(arguments.login).pw_shell
        except KeyError as error:
            raise Failed(f"there is no login `{arguments.login}`; scripts/test creates those of the tests") from error
        self._sshd: Sshd = start_sshd(processes, shared, arguments.login)
        self._emulator: Emulator = start_emulator(processes, arguments.adit, self._sshd)
        self._services: list[Adit] = []
        self._adit = self._start_adit("adit", f"sqlite://{disk / 'adit.db'}", self._emulator)
        self._in_memory = self._start_adit("adit-in-memory", f"sqlite://{memory / 'adit.db'}", self._emulator)

    def _start_adit(self, name: str, store_url: str, emulator: Emulator) -> Adit:
        arguments = self._arguments
        adit = start_adit(
            self._processes, arguments.adit, name, self._disk, store_url, emulator, arguments.login
        )
        self._services.append(adit)
        return adit

    def all(self) -> None:
        arguments = self._arguments
        print(f"## Adit side by side, {time.strftime('%Y-%m-%d')}\n")
        print(report.environment(arguments.adit, self._disk, self._shell))
        before = report.load_average()
        measurements = {
            "warm": self._one_at_a_time,
            "callers": self._callers,
            "distant": self._distant,
            "idle": self._idle,
            "pool": self._pool,
            "crowd": self._crowd,
            "audit": self._audit,
            "flood": self._flood,
            "cold": self._cold,
        }
        for name in TABLES:
            if name in arguments.only:
                note(name)
                # At once: what is measured is not lost when a later table fails.
                for title, text in measurements[name]():
                    print(f"### {title}\n\n{text}", flush=True)
        self._check_rows()
        print(f"Load average {before} before, {report.load_average()} after (this run's own load included).")

    def _distant(self) -> list[tuple[str, str]]:
        emulator = start_distant(self._processes, self._program("instances"), self._sshd, distant.ROUND_TRIP_MS)
        adit = self._start_adit("adit-distant", f"sqlite://{self._disk / 'adit-distant.db'}", emulator)
        return distant.measure(self._processes, adit, emulator, self._sshd, self._shared / "control-distant")

    def _idle(self) -> list[tuple[str, str]]:
        text = idle_tunnels.measure(self._processes, self._arguments.adit, self._program("instances"), self._disk)
        return [("Memory of an idle tunnel", text)]

    def _pool(self) -> list[tuple[str, str]]:
        return [("The pool's answer time", pool.measure(self._program("pool")))]

    def _crowd(self) -> list[tuple[str, str]]:
        first = 1 + COLD_INSTANCES
        instances = list(self._emulator.instances)
        logs = self._arguments.directory / "logs"

        def load(instance: str) -> dict[str, Any]:
            return self._load(self._adit.exec_url(instances.index(instance)), crowd.CALLERS, 60, crowd.CALLERS)

        text = crowd.measure(
            instances[first : first + CROWD_INSTANCES], load, logs / "emulator.log", logs / "sshd.log"
        )
        return [(f"{crowd.CALLERS:,} callers on one cold instance", text)]

    def _audit(self) -> list[tuple[str, str]]:
        postgres = start_postgres(self._processes, self._postgres)
        rates = audit.rates(self._program("audit"), postgres.database("rates"))
        one_instance = dict(list(self._emulator.instances.items())[:1])
        emulator = dataclasses.replace(self._emulator, instances=one_instance)
        recorded = self._start_adit("adit-postgres", postgres.database("adit"), emulator)
        in_memory = self._start_adit("adit-audit", f"sqlite://{self._memory / 'audit.db'}", emulator)
        rounds = -(-self._arguments.samples // SAMPLES_A_ROUND)
        latency = audit.added_latency(recorded, in_memory, rounds, SAMPLES_A_ROUND, WARM_UP)
        return [
            ("Execs a second that can be recorded in PostgreSQL", rates),
            ("What the audit adds to a warm exec with PostgreSQL", latency),
        ]

    def _flood(self) -> list[tuple[str, str]]:
        one_instance = dict(list(self._emulator.instances.items())[:1])
        emulator = dataclasses.replace(self._emulator, instances=one_instance)
        adit = self._start_adit("adit-flood", f"sqlite://{self._disk / 'adit-flood.db'}", emulator)
        printed = int(self._arguments.flood_gigabytes * 10**9)

        def load(seconds: float) -> dict[str, Any]:
            return self._load(adit.exec_url(0), flood.CALLERS, seconds, token=adit.token)

        text = flood.measure(adit, self._processes.process_id(adit.name), printed, load)
        title = f"A command that prints {self._arguments.flood_gigabytes:g} GB beside nine `/bin/true`s"
        return [(title, text)]

    def _program(self, name: str) -> Path:
        """One of benches/programs, as cargo built it."""
        try:
            lines = self._arguments.built.read_text().splitlines()
        except FileNotFoundError as error:
            raise Failed(f"`{name}` is not built: run once without ADIT_BINARY, or choose tables by --only") from error
        for message in map(json.loads, lines):
            if message["reason"] == "compiler-artifact" and message["target"]["name"] == name and message["executable"]:
                return Path(message["executable"])
        raise Failed(f"cargo built no `{name}`")

    def _one_at_a_time(self) -> list[tuple[str, str]]:
        adit, in_memory = AditPeer(self._adit, tunnel="cold"), AditPeer(self._in_memory, tunnel="cold")
        for peer in (adit, in_memory):
            peer.sample()
            peer.close()
        adit, in_memory = AditPeer(self._adit), AditPeer(self._in_memory)
        asyncssh = AsyncsshPeer(self._sshd)
        openssh = OpensshPeer(self._sshd)
        openssh.start_master(self._processes, self._shared / "control")
        commits = Commits(self._disk / "commits.db")
        samplers = {
            "adit": adit.sample,
            "asyncssh": asyncssh.sample,
            "openssh": openssh.sample,
            "memory": in_memory.sample,
            "health": adit.health,
            "refused": adit.refused,
            "commit": commits.sample,
        }
        rounds = -(-self._arguments.samples // SAMPLES_A_ROUND)
        try:
            taken = interleave(samplers, rounds, SAMPLES_A_ROUND, WARM_UP)
        finally:
            commits.close()
            asyncssh.close()
            in_memory.close()
            adit.close()
        peers = {
            "asyncssh, one kept connection (no auth, no audit)": taken["asyncssh"],
            "OpenSSH client over a ControlMaster (no auth, no audit)": taken["openssh"],
        }
        return [
            ("Warm `/bin/true`, one at a time", report.latency_table(taken["adit"], peers)),
            ("Where Adit's time goes", report.breakdown_table(taken, adit.execs)),
        ]

    def _callers(self) -> list[tuple[str, str]]:
        sshd = self._sshd
        service = [sys.executable, str(Path(__file__).with_name("service.py")), "--port", str(sshd.port)]
        service += ["--login", sshd.login, "--identity", str(sshd.identity), "--known-hosts", str(sshd.known_hosts)]
        address = self._processes.start("service", service, r"listening on (http://\S+)")[1]
        urls = {"adit": self._adit.exec_url(0), "service": f"{address}/exec"}
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in urls}
        for name, url in urls.items():
            self._load(url, CALLERS, 1)
        for number in range(self._arguments.rounds):
            for name, url in urls.items() if number % 2 == 0 else reversed(urls.items()):
                note(f"{CALLERS} callers, round {number + 1}: {name}")
                rounds[name].append(self._load(url, CALLERS, self._arguments.seconds))
        text = report.load_table(
            report.LoadResult("Adit", rounds["adit"]),
            report.LoadResult("aiohttp + asyncssh service (no auth, no audit)", rounds["service"]),
        )
        return [(f"{CALLERS} callers on one instance", text)]

    def _load(
        self, url: str, callers: int, seconds: float, requests: int = REQUESTS_A_ROUND, token: str | None = None
    ) -> dict[str, Any]:
        command = [sys.executable, str(Path(__file__).with_name("load.py")), "--url", url]
        command += ["--callers", str(callers), "--seconds", str(seconds), "--requests", str(requests)]
        # Both get it, so that their requests are of one size.
        environment = {**os.environ, "BENCH_TOKEN": token or self._adit.token}
        return json.loads(output_of(command, environment, timeout=seconds + 120))

    def _cold(self) -> list[tuple[str, str]]:
        asyncssh = AsyncsshPeer(self._sshd)
        openssh = OpensshPeer(self._sshd)
        workspaces = iter(range(1, 1 + self._arguments.cold))

        def adit() -> float:
            peer = AditPeer(self._adit, workspace=next(workspaces), tunnel="cold")
            try:
                return peer.sample()
            finally:
                peer.close()

        samplers = {"adit": adit, "asyncssh": asyncssh.cold, "openssh": openssh.cold}
        try:
            taken = interleave(samplers, self._arguments.cold, 1, 0)
        finally:
            asyncssh.close()
        peers = {
            "asyncssh, connect and run (key known before)": taken["asyncssh"],
            "ssh, a login for each (key known before)": taken["openssh"],
        }
        return [("Cold: key push, tunnel, login, `/bin/true`", report.latency_table(taken["adit"], peers))]

    def _check_rows(self) -> None:
        """Everything was on: the execs left rows, and all of them are final."""
        for adit in self._services:
            rows = adit.audit_rows()
            note(f"audit rows of {adit.name}: {rows}")
            # Which of them were used is up to the tables that were asked for.
            if rows and (not rows.get("ok") or rows.get("running")):
                raise Failed(f"the audit rows of {adit.name} are {rows}")


class Commits:
    """Commits of a row like Adit's by SQLite, in this process: what two of them cost an exec at least."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = wal")
        self._connection.execute("PRAGMA synchronous = full")
        self._connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body TEXT)")
        self._body = "x" * 1_500

    def sample(self) -> float:
        start = time.perf_counter()
        self._connection.execute("INSERT INTO rows (body) VALUES (?)", (self._body,))
        return milliseconds_since(start)

    def close(self) -> None:
        self._connection.close()


def fresh(logs: Path) -> Path:
    """The directory, empty: the logs of a run stay until the next one."""
    logs.mkdir(exist_ok=True)
    for log in logs.glob("*.log"):
        log.unlink()
    return logs


def note(text: str) -> None:
    print(f"benches/compare: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
