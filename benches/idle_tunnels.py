"""What an idle tunnel takes of Adit's memory: a thousand instances, a tunnel to each, then nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

import report
from peers import TRUE
from processes import Failed, Processes, output_of
from stack import Adit, start_adit, start_instances

# The most that `tunnel.endpoint_connections` takes: what fifty endpoints of AWS's carry.
TUNNELS = 1_000
# The difference between the two is what counts: what the process takes once is in both.
COUNTS = (100, TUNNELS)
# Logins under way at a time: each has buffers that it gives back.
AT_A_TIME = 8
# Three keepalives on each tunnel, and less than the idle timeout.
IDLE_SECONDS = 31
SETTINGS = f"[tunnel]\nendpoint_connections = {TUNNELS}\nendpoint_reserve = 0\nidle_timeout_s = 3600\n"


@dataclass(frozen=True)
class Look:
    """The process's memory at one moment."""

    what: str
    tunnels: int
    resident_kib: int
    anonymous_kib: int


def measure(processes: Processes, adit: Path, program: Path, directory: Path) -> str:
    """Opens the tunnels and looks at the process's memory before, between and after."""
    emulator = start_instances(processes, program, TUNNELS)
    # In-process instances run everything as whoever started them, and let in any name.
    store = f"sqlite://{directory / 'adit-idle.db'}"
    service = start_adit(processes, adit, "adit-idle", directory, store, emulator, "root", SETTINGS)
    process_id = processes.process_id(service.name)
    looks: list[Look] = []

    def look(what: str) -> None:
        looks.append(Look(what, count_tunnels(service), *resident_kib(process_id)))

    look("before the first")
    for last in COUNTS:
        run(service, list(range(looks[-1].tunnels, last)))
        # Not the first use only: what HTTP, store and audit take once must not be counted to the tunnels that follow.
        run(service, list(range(last)) * 2)
        look("just used")
        time.sleep(IDLE_SECONDS)
        look(f"idle for {IDLE_SECONDS} s")
        if trim(process_id):
            look("the same after `malloc_trim`")
        if looks[-1].tunnels != last:
            raise Failed(f"not every tunnel stayed open: {looks}")
    return table(looks)


def table(looks: list[Look]) -> str:
    """Each look, and what a tunnel took since the same look at the fewer tunnels."""
    rows = []
    for look in looks:
        earlier = [one for one in looks if one.what == look.what and one.tunnels < look.tunnels]
        each = [""]
        if earlier:
            each = [f"**{(look.resident_kib - earlier[-1].resident_kib) / (look.tunnels - earlier[-1].tunnels):.1f}**"]
        rows.append([str(look.tunnels), look.what, f"{look.resident_kib:,}", f"{look.anonymous_kib:,}", *each])
    return report.table(["tunnels", "when", "resident KiB", "of it anonymous", "KiB for each tunnel more"], rows)


def run(adit: Adit, workspaces: list[int]) -> None:
    """An exec in each."""
    asyncio.run(run_all(adit, workspaces))


async def run_all(adit: Adit, workspaces: list[int]) -> None:
    headers = {"Authorization": f"Bearer {adit.token}", "Accept": "application/json"}
    waiting = iter(workspaces)

    async def caller(session: aiohttp.ClientSession) -> None:
        for workspace in waiting:
            async with session.post(adit.exec_url(workspace), json={"cmd": TRUE}) as answer:
                content = await answer.json(content_type=None)
            if answer.status != 200 or content.get("exit_code") != 0:
                raise Failed(f"an exec was answered {answer.status}: {json.dumps(content)}")

    async with aiohttp.ClientSession(headers=headers) as session:
        await asyncio.gather(*(caller(session) for _ in range(AT_A_TIME)))


def count_tunnels(adit: Adit) -> int:
    """Those that are ready, by Adit's own word."""
    return sum(tunnel["state"] == "ready" for instance in adit.tunnels() for tunnel in instance["tunnels"])


def resident_kib(process_id: int) -> tuple[int, int]:
    """All resident memory, and what of it is no file's."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process_id}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]), int(fields["RssAnon"].split()[0])


def trim(process_id: int) -> bool:
    """Has the allocator give back what it keeps for later; only a debugger can make it. False where there is none."""
    if shutil.which("gdb") is None:
        return False
    output_of(["gdb", "-batch", "-nx", "-p", str(process_id), "-ex", "call (int) malloc_trim(0)"])
    return True
