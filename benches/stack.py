"""What is measured, started for real: sshd, the emulator of EC2 Instance Connect in front of it, Adit before that."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sqlite3
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import Failed, Processes, output_of

# One cold exec each.
COLD_INSTANCES = 24
# One crowd of callers each.
CROWD_INSTANCES = 3
# The first is for the warm measurements.
INSTANCES = 1 + COLD_INSTANCES + CROWD_INSTANCES
# Describing ten thousand supervisors takes well below a second.
ADMIN_SECONDS = 30


@dataclass(frozen=True)
class Sshd:
    """An OpenSSH server on loopback, and how peers log in to it."""

    port: int
    login: str
    keys: Path
    identity: Path
    known_hosts: Path


def start_sshd(processes: Processes, directory: Path, login: str) -> Sshd:
    """A stock server but for where keys come from: pushed keys from one directory, the peers' key from another."""
    program = shutil.which("sshd")
    if program is None:
        raise Failed("sshd is not installed")
    # sshd reads authorized keys as the user who logs in.
    keys, static_keys = directory / "pushed-keys", directory / "static-keys"
    for path in (directory, keys, static_keys):
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)
    host_key, identity = directory / "host-key", directory / "identity"
    for path in (host_key, identity):
        output_of(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "adit-bench", "-f", str(path)])
    authorized = static_keys / login
    authorized.write_bytes(identity.with_suffix(".pub").read_bytes())
    authorized.chmod(0o644)
    port = free_port()
    known_hosts = directory / "known-hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {host_key.with_suffix('.pub').read_text()}")
    configuration = directory / "sshd-config"
    configuration.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host_key}\n"
        f"AuthorizedKeysFile {keys}/%u {static_keys}/%u\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PidFile none\nUseDNS no\n"
    )
    # -e: it logs to standard error, which is a file here.
    processes.start("sshd", [program, "-D", "-e", "-f", str(configuration)], r"Server listening on")
    return Sshd(port, login, keys, identity, known_hosts)


@dataclass(frozen=True)
class Emulator:
    """The emulator of EC2 Instance Connect: the instances behind it, and who may use it."""

    key_push: str
    open_tunnel: str
    endpoint_id: str
    instances: dict[str, str]
    environment: dict[str, str]


def start_emulator(processes: Processes, adit: Path, sshd: Sshd) -> Emulator:
    """`adit emulator`, whose instances are all the one sshd."""
    command = [str(adit), "emulator", "--listen", "127.0.0.1:0", "--max-connections", str(INSTANCES + 20)]
    command += ["--authorized-keys-dir", str(sshd.keys)]
    for number in range(INSTANCES):
        command += ["--instance", f"i-{number:017x}=127.0.0.1:{sshd.port}"]
    return started_emulator(processes, "emulator", command, INSTANCES)


def start_instances(processes: Processes, program: Path, instances: int) -> Emulator:
    """benches/programs/instances.rs: the emulator with many instances that are its own."""
    return started_emulator(processes, "instances", [str(program), "in-process", str(instances)], instances)


def start_distant(processes: Processes, program: Path, sshd: Sshd, round_trip_ms: int) -> Emulator:
    """The same program with one instance, the sshd, at the end of a long link."""
    command = [str(program), "distant", f"127.0.0.1:{sshd.port}", str(sshd.keys), str(round_trip_ms)]
    return started_emulator(processes, "distant", command, 1)


def started_emulator(processes: Processes, name: str, command: list[str], instances: int) -> Emulator:
    """Starts it, with credentials that only this run knows."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        # Nothing may be asked of AWS or of the machine's metadata service.
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    # Lines come in this order, the last instance's last.
    last = rf"i-{instances - 1:017x} at \S+, "
    printed = processes.start(
        name,
        command,
        rf"(?s)key push:\s+(\S+)\n.*open tunnel:\s+(\S+)\nendpoint:\s+(\S+)\n(.*{last})",
        environment,
    )
    found = {}
    for line in printed[4].splitlines():
        words = line.replace(",", " ").split()
        found[words[1]] = words[3]
    return Emulator(printed[1], printed[2], printed[3], found, environment)


@dataclass(frozen=True)
class Adit:
    """`adit serve` with a store of its own."""

    address: tuple[str, int]
    token: str
    admin_token: str
    workspaces: list[str]
    store_url: str
    name: str

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://{host}:{port}"

    def exec_url(self, workspace: int) -> str:
        """Where execs of the workspace of this number are asked for."""
        return f"{self.url}/workspaces/{self.workspaces[workspace]}/exec"

    def tunnels(self) -> list[dict[str, Any]]:
        """What the service says of its instances."""
        request = urllib.request.Request(
            f"{self.url}/admin/tunnels", headers={"Authorization": f"Bearer {self.admin_token}"}
        )
        with urllib.request.urlopen(request, timeout=ADMIN_SECONDS) as answer:
            return json.load(answer)["data"]

    def audit_rows(self) -> dict[str, int]:
        """How many audit rows there are of each status."""
        query = "SELECT status, count(*) FROM activity_logs GROUP BY status"
        if self.store_url.startswith("postgres://"):
            lines = output_of(["psql", self.store_url, "-AtF", " ", "-c", query]).splitlines()
            return {status: int(count) for status, count in map(str.split, lines)}
        connection = sqlite3.connect(self.store_url.removeprefix("sqlite://"), timeout=10)
        try:
            return dict(connection.execute(query))
        finally:
            connection.close()


def start_adit(
    processes: Processes, adit: Path, name: str, directory: Path, store_url: str, emulator: Emulator, login: str,
    settings: str = "",
) -> Adit:
    """Migrates, adds a workspace for each instance and an org token that opens them all, and serves.

    Everything is as shipped but for `settings` and the limits on execs in flight: as many callers as one token may have
    must not collide with the limit, as an answer's last bytes and its permit are not given back in one instant.
    """
    admin_token = secrets.token_hex(20)
    configuration = directory / f"{name}.toml"
    configuration.touch(mode=0o600)
    configuration.write_text(
        '[http]\nlisten = "127.0.0.1:0"\n'
        f'[admin]\ntokens = ["{admin_token}"]\n'
        f'[store]\nurl = "{store_url}"\n'
        f'[aws]\nos_user = "{login}"\n'
        f'endpoint_id = "{emulator.endpoint_id}"\nendpoint_dns_name = "{emulator.endpoint_id}.invalid"\n'
        f'key_push_endpoint_override = "{emulator.key_push}"\n'
        f'tunnel_endpoint_override = "{emulator.open_tunnel}"\n'
        f"[limits]\nexecs_per_token = 1024\nexecs_per_org = 1024\n{settings}"
    )
    options = ["--config", str(configuration)]

    def run(*words: str) -> str:
        return output_of([str(adit), *words, *options], emulator.environment)

    run("migrate")
    workspaces: list[str] = []
    instances = list(emulator.instances.items())
    for instance, address in instances[:2]:
        org = ["--org", workspaces[0]] if workspaces else ["--root"]
        words = ["workspace", "add", instance, *org, "--tier", "3", "--instance", instance, "--address", address]
        workspaces.append(run(*words))
    if len(instances) > 2:
        store = Path(store_url.removeprefix("sqlite://"))
        workspaces += copy_workspace(store, workspaces[1], instances[2:])
    token = run("token", "issue", "--org", workspaces[0], "--name", "bench")
    printed = processes.start(
        name,
        [str(adit), "serve", *options],
        r"listening on http://([\d.]+):(\d+)",
        emulator.environment,
    )
    return Adit((printed[1], int(printed[2])), token, admin_token, workspaces, store_url, name)


def copy_workspace(store: Path, workspace: str, instances: list[tuple[str, str]]) -> list[str]:
    """As `adit workspace add` would, but for a thousand instances without a thousand processes."""
    connection = sqlite3.connect(store, timeout=10)
    try:
        connection.row_factory = sqlite3.Row
        original = dict(connection.execute("SELECT * FROM workspaces WHERE id = ?", (workspace,)).fetchone())
        names = ", ".join(original)
        marks = ", ".join(f":{name}" for name in original)
        copies = [
            {**original, "id": str(uuid.uuid4()), "name": instance, "instance_id": instance, "adit_address": address}
            for instance, address in instances
        ]
        with connection:
            connection.executemany(f"INSERT INTO workspaces ({names}) VALUES ({marks})", copies)
    finally:
        connection.close()
    return [copy["id"] for copy in copies]


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server on loopback."""

    port: int

    def database(self, name: str) -> str:
        """Makes an empty database and gives its URL."""
        output_of(["psql", self._url("postgres"), "-qc", f"CREATE DATABASE {name}"])
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"


def start_postgres(processes: Processes, directory: Path) -> Postgres:
    """The newest server that there is, as shipped: a commit waits for the disk that `directory` is on."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if not versions:
        raise Failed("PostgreSQL is not installed; scripts/test installs it")
    server = versions[-1]
    # It refuses to run as root.
    shutil.chown(directory, "postgres")
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    data = directory / "data"
    initdb = [str(server.with_name("initdb")), "-D", str(data), "--username=postgres", "--auth=trust", "--encoding=UTF8"]
    output_of([*as_postgres, *initdb, "--locale=C"])
    port = free_port()
    command = [str(server), "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    command += ["-c", "unix_socket_directories="]
    processes.start("postgres", [*as_postgres, *command], r"ready to accept connections")
    return Postgres(port)


def free_port() -> int:
    """A port that was free a moment ago, for servers that can't choose one and tell."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
