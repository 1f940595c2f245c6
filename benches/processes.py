"""Child processes of one run: started with a log file each, and ended by their own ids, the last one first."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

# Everything here answers within a second on an idle machine; a shared one may be far slower.
READY_SECONDS = 30
# Adit lets tunnels close and flushes its audit; nothing runs any more when it is told to stop.
END_SECONDS = 15


class Failed(Exception):
    """A run can't go on. Its text is for whoever started the run."""


class Processes:
    """Owns every process that it has started. A context manager: leaving it ends them all."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._running:
            name, process = self._running.pop()
            end(name, process)
        if isinstance(error, Exception):
            print(f"logs are in {self._logs}", file=sys.stderr)

    def start(
        self, name: str, command: list[str], ready: str, environment: dict[str, str] | None = None
    ) -> re.Match[str]:
        """Starts `command` and waits until its output or its log matches the pattern `ready`; gives the match."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            # A session of its own: Ctrl-C at the terminal must not end it before what uses it.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._running.append((name, process))
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if match := re.search(ready, log.read_text(errors="replace")):
                return match
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode} before it was ready")
            time.sleep(0.02)
        raise Failed(f"{name} was not ready after {READY_SECONDS} s")

    def process_id(self, name: str) -> int:
        """The id of a process that runs."""
        for candidate, process in self._running:
            if candidate == name:
                return process.pid
        raise Failed(f"{name} does not run")


def end(name: str, process: subprocess.Popen[bytes]) -> None:
    """Asks it to end, and kills it when it doesn't."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{name} did not end after SIGTERM, killing it", file=sys.stderr)
        process.kill()
        process.wait(END_SECONDS)


def output_of(command: list[str], environment: dict[str, str] | None = None, timeout: float = READY_SECONDS) -> str:
    """Runs a short command to its end and gives its standard output, without the space around it."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"`{command[0]}` did not end in {timeout} s") from error
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command[:3])}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()
