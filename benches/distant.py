"""Adit and the OpenSSH client at the end of one and the same long link: what round trips cost."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import report
from peers import AditPeer, OpensshPeer, interleave
from processes import Processes
from stack import Adit, Emulator, Sshd

ROUND_TRIP_MS = 50
# Two round trips: whatever either side prepares for the next exec is ready. The same for both.
PAUSE_SECONDS = 2 * ROUND_TRIP_MS / 1000
SAMPLES_A_ROUND = 10
ROUNDS = 5
WARM_UP = 3


def measure(processes: Processes, adit: Adit, emulator: Emulator, sshd: Sshd, control: Path) -> list[tuple[str, str]]:
    """One table with a pause before each exec, one without."""
    cold = AditPeer(adit, tunnel="cold")
    cold.sample()
    cold.close()
    own = AditPeer(adit)
    openssh = OpensshPeer(sshd)
    openssh.start_master(processes, control, proxy_command(emulator), emulator.environment)
    samplers = {
        "adit": own.sample,
        "openssh": openssh.sample,
        "adit, rested": rested(own.sample),
        "openssh, rested": rested(openssh.sample),
    }
    try:
        taken = interleave(samplers, ROUNDS, SAMPLES_A_ROUND, WARM_UP)
    finally:
        own.close()
    name = "OpenSSH client over a ControlMaster through the same endpoint (no auth, no audit)"
    title = f"Warm `/bin/true` over {ROUND_TRIP_MS} ms of round trip"
    return [
        (
            f"{title}, {PAUSE_SECONDS * 1000:.0f} ms between execs",
            report.latency_table(taken["adit, rested"], {name: taken["openssh, rested"]}),
        ),
        (f"{title}, one right after the other", report.latency_table(taken["adit"], {name: taken["openssh"]})),
    ]


def rested(sample: Callable[[], float]) -> Callable[[], float]:
    def sample_after_pause() -> float:
        time.sleep(PAUSE_SECONDS)
        return sample()

    return sample_after_pause


def proxy_command(emulator: Emulator) -> str:
    """Has ssh go through the emulated endpoint, and so over the link that Adit goes over."""
    (address,) = emulator.instances.values()
    words = [sys.executable, str(Path(__file__).with_name("open_tunnel.py")), "--url", emulator.open_tunnel]
    return shlex.join([*words, "--endpoint-id", emulator.endpoint_id, "--address", address])
