"""The load generator, a process of its own and the same for every peer: so many callers, each with one request at a time.

Prints one JSON object. A request counts as done only when the command ran and exited with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter

import aiohttp


class Load:
    """Counts of one run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._url = arguments.url
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        # By the environment: the arguments of a process are for everyone to see.
        if token := os.environ.get("BENCH_TOKEN"):
            self._headers["Authorization"] = f"Bearer {token}"
        self._body = json.dumps({"cmd": ["/bin/true"]}).encode()
        self._left = arguments.requests
        self._until = time.monotonic() + arguments.seconds
        self.took: list[float] = []
        self.failures: Counter[str] = Counter()

    async def caller(self, session: aiohttp.ClientSession) -> None:
        while self._left > 0 and time.monotonic() < self._until:
            self._left -= 1
            start = time.perf_counter()
            failure = await self._one(session)
            if failure is None:
                self.took.append((time.perf_counter() - start) * 1000)
            else:
                self.failures[failure] += 1

    async def _one(self, session: aiohttp.ClientSession) -> str | None:
        try:
            async with session.post(self._url, data=self._body, headers=self._headers) as answer:
                content = await answer.json(content_type=None)
                if answer.status == 200 and content.get("exit_code") == 0:
                    return None
                return f"{answer.status} {content.get('code') or content.get('error') or content.get('exit_code')}"
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            return type(error).__name__


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    connector = aiohttp.TCPConnector(limit=arguments.callers)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        load = Load(arguments)
        start = time.perf_counter()
        await asyncio.gather(*(load.caller(session) for _ in range(arguments.callers)))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "took_ms": load.took, "failures": load.failures}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--requests", type=int, required=True)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
