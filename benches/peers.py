"""The peers of the one-at-a-time measurements. Each runs a command, checks that it ran, and says how long it took."""

from __future__ import annotations

import asyncio
import http.client
import json
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import asyncssh

from command_line import command_line
from processes import Failed, Processes
from stack import Adit, Sshd

TRUE = ["/bin/true"]
# Of one exec or connection; nothing comes near it unless something is broken.
STEP_SECONDS = 60


class Peer(Protocol):
    """Something that can run `/bin/true`."""

    def sample(self) -> float:
        """Runs it once; milliseconds from the call to the result."""


def milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


class AditPeer:
    """Adit by HTTP on one kept connection."""

    def __init__(self, adit: Adit, workspace: int = 0, tunnel: str = "warm") -> None:
        self._connection = http.client.HTTPConnection(*adit.address, timeout=STEP_SECONDS)
        self._connection.connect()
        self._path = f"/workspaces/{adit.workspaces[workspace]}/exec"
        self._headers = {"Authorization": f"Bearer {adit.token}", "Content-Type": "application/json"}
        self._body = json.dumps({"cmd": TRUE}).encode()
        self._tunnel = tunnel
        self.execs: list[dict[str, Any]] = []

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[float, int, bytes]:
        # Nothing is asked, so what can be read is the end: the server closes connections that others' turns kept idle.
        if select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()
            self._connection.connect()
        start = time.perf_counter()
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        return milliseconds_since(start), answer.status, content

    def sample(self) -> float:
        took, status, content = self._ask("POST", self._path, self._body)
        frames = [json.loads(line) for line in content.splitlines()]
        exec_frame = frames[-1] if frames else {}
        seen = (status, exec_frame.get("exit_code"), exec_frame.get("tunnel"), exec_frame.get("audit", {}).get("committed"))
        if seen != (200, 0, self._tunnel, True):
            raise Failed(f"Adit's answer may not count (status, exit code, tunnel, committed): {seen}")
        self.execs.append(exec_frame)
        return took

    def health(self) -> float:
        """A request that does nothing: the price of HTTP, this client's included."""
        took, status, _ = self._ask("GET", "/healthz", None)
        if status != 200:
            raise Failed(f"/healthz answered {status}")
        return took

    def refused(self) -> float:
        """A request that is authenticated, read and refused: the price of all that comes before an exec."""
        took, status, _ = self._ask("POST", self._path, b'{"cmd":"x"}')
        if status != 400:
            raise Failed(f"a bad body was answered with {status}")
        return took

    def close(self) -> None:
        self._connection.close()


class AsyncsshPeer:
    """asyncssh on one kept connection, straight to sshd."""

    def __init__(self, sshd: Sshd) -> None:
        self._sshd = sshd
        self._loop = asyncio.new_event_loop()
        self._connection = self._loop.run_until_complete(self._connect())

    async def _connect(self) -> asyncssh.SSHClientConnection:
        sshd = self._sshd
        return await asyncssh.connect(
            "127.0.0.1",
            sshd.port,
            username=sshd.login,
            client_keys=[str(sshd.identity)],
            known_hosts=str(sshd.known_hosts),
            agent_path=None,
            config=None,
        )

    def sample(self) -> float:
        return self._loop.run_until_complete(asyncio.wait_for(self._run(self._connection), STEP_SECONDS))

    def cold(self) -> float:
        """The same with a connection of its own."""
        return self._loop.run_until_complete(asyncio.wait_for(self._run(None), STEP_SECONDS))

    async def _run(self, kept: asyncssh.SSHClientConnection | None) -> float:
        line, mark = command_line(TRUE)
        start = time.perf_counter()
        connection = kept or await self._connect()
        result = await connection.run(line)
        took = milliseconds_since(start)
        if kept is None:
            connection.close()
            await connection.wait_closed()
        check_ran("asyncssh", result.exit_status, str(result.stderr), mark)
        return took

    def close(self) -> None:
        self._connection.close()
        self._loop.run_until_complete(self._connection.wait_closed())
        self._loop.close()


class OpensshPeer:
    """The OpenSSH client: over a ControlMaster, and with a login of its own."""

    def __init__(self, sshd: Sshd) -> None:
        self._options = ["-F", "none", "-T", "-p", str(sshd.port), "-l", sshd.login, "-i", str(sshd.identity)]
        self._options += ["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        self._options += ["-o", f"UserKnownHostsFile={sshd.known_hosts}", "-o", "StrictHostKeyChecking=yes"]
        self._shared: list[str] = []

    def start_master(
        self,
        processes: Processes,
        socket: Path,
        proxy_command: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Opens the connection that `sample` shares, straight or through what the command leads to."""
        self._shared = ["-o", "ControlMaster=no", "-S", str(socket)]
        # -N without ControlPersist stays in the foreground: it is ended by its id like the others. The local command runs
        # when it is logged in and listens; -v would tell too, and go on to log every session.
        local = ["-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo listening"]
        proxy = ["-o", f"ProxyCommand={proxy_command}"] if proxy_command else []
        master = ["ssh", *self._options, *proxy, *local, "-M", "-S", str(socket), "-N", "127.0.0.1"]
        processes.start(socket.name, master, r"listening", environment)

    def sample(self) -> float:
        return self._run(self._shared)

    def cold(self) -> float:
        """The same with a login of its own."""
        return self._run(["-S", "none"])

    def _run(self, options: list[str]) -> float:
        line, mark = command_line(TRUE)
        command = ["ssh", *self._options, *options, "127.0.0.1", line]
        start = time.perf_counter()
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=STEP_SECONDS,
        )
        took = milliseconds_since(start)
        check_ran("ssh", done.returncode, done.stderr.decode(errors="replace"), mark)
        return took


def check_ran(name: str, exit_status: int | None, stderr: str, mark: str) -> None:
    """A peer that was refused is quick, and must not count."""
    if exit_status != 0 or mark not in stderr:
        raise Failed(f"{name} did not run the command: {exit_status}, {stderr.strip()!r}")


def interleave(
    samplers: dict[str, Callable[[], float]], rounds: int, each: int, warm_up: int
) -> dict[str, list[list[float]]]:
    """Samples of each by round. The peers take turns, and each round begins with another one, so that whatever else
    the machine does falls on all of them alike."""
    names = list(samplers)
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    for name in names:
        for _ in range(warm_up):
            samplers[name]()
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name].append([samplers[name]() for _ in range(each)])
    return taken
