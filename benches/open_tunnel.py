"""One tunnel through an EC2 Instance Connect Endpoint on standard input and output: a ProxyCommand for ssh.

What `aws ec2-instance-connect open-tunnel` does, without the CLI's start-up and for an endpoint at any URL. Credentials come
from the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import os
import sys
import time
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

SERVICE = "ec2-instance-connect"
READ = 65_000


def signed(url: str, parameters: dict[str, str], region: str) -> str:
    """SigV4 in the query, as the AWS CLI signs openTunnel: the host is the only signed header, the payload is empty."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"{now[:8]}/{region}/{SERVICE}/aws4_request"
    parameters = {
        **parameters,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}",
        "X-Amz-Date": now,
        "X-Amz-Expires": "60",
        "X-Amz-SignedHeaders": "host",
    }
    query = urlencode(sorted(parameters.items()), quote_via=quote, safe="")
    host, path = url.split("://")[1].split("/", 1)
    canonical = f"GET\n/{path}\n{query}\nhost:{host}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{os.environ['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return f"{url}?{query}&X-Amz-Signature={key.hex()}"


async def run(arguments: argparse.Namespace) -> None:
    parameters = {
        "instanceConnectEndpointId": arguments.endpoint_id,
        "remotePort": "22",
        "privateIpAddress": arguments.address,
    }
    url = URL(signed(arguments.url, parameters, arguments.region), encoded=True)
    async with aiohttp.ClientSession() as session:
        # No pings and no compression: the CLI has neither.
        async with session.ws_connect(url, compress=0, max_msg_size=0) as websocket:
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

            async def upwards() -> None:
                while data := await reader.read(READ):
                    await websocket.send_bytes(data)
                await websocket.close()

            sending = asyncio.create_task(upwards())
            async for message in websocket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                # ssh always reads; what it has not taken yet may wait here.
                sys.stdout.buffer.write(message.data)
                sys.stdout.buffer.flush()
            sending.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True, help="of openTunnel, without the query")
    parser.add_argument("--endpoint-id", required=True)
    parser.add_argument("--address", required=True, help="private address of the instance")
    parser.add_argument("--region", default="us-east-2")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
