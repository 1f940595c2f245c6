"""What one would write in an afternoon instead of Adit: HTTP in front of one kept SSH connection.

No authentication, no audit, no kill. It holds itself to 9 channels, one less than sshd allows a connection.
"""

from __future__ import annotations

import argparse
import asyncio

import asyncssh
from aiohttp import web

from command_line import command_line

CHANNELS = 9


class ExecService:
    """One SSH connection and the handler that runs commands over it."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection
        self._channels = asyncio.Semaphore(CHANNELS)

    async def exec(self, request: web.Request) -> web.Response:
        words = (await request.json())["cmd"]
        line, _ = command_line(words)
        try:
            async with self._channels:
                result = await self._connection.run(line)
        except asyncssh.Error as error:
            return web.json_response({"error": f"{type(error).__name__}: {error.reason}"}, status=502)
        return web.json_response(
            {"exit_code": result.exit_status, "stdout": result.stdout, "stderr": result.stderr}
        )


async def serve(arguments: argparse.Namespace) -> None:
    connection = await asyncssh.connect(
        "127.0.0.1",
        arguments.port,
        username=arguments.login,
        client_keys=[arguments.identity],
        known_hosts=arguments.known_hosts,
        agent_path=None,
        config=None,
    )
    application = web.Application()
    application.router.add_post("/exec", ExecService(connection).exec)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"listening on http://{host}:{port}", flush=True)
    await connection.wait_closed()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--login", required=True)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--known-hosts", required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
