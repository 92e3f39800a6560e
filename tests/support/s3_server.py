"""A server that speaks S3's protocol: moto's, in a process of its own, out of .venv-moto."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from tests.support.stack import ROOT

PYTHON = ROOT / ".venv-moto" / "bin" / "python"

# At the port that the system gives, which moto's own command does not print.
_SERVE = """
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
import sys
sys.stdin.read()
"""


# What a client of it has, beside its URL, as AWS names it.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_ALLOW_HTTP": "true",
    "AWS_REGION": "eu-central-1",
}


@dataclass(frozen=True)
class S3Server:
    """`url` is for AWS_ENDPOINT_URL."""

    url: str
    bucket: str

    async def keys(self, prefix: str) -> set[str]:
        """Of all objects below that."""
        async with httpx.AsyncClient() as client:
            listed = (await client.get(f"{self.url}/{self.bucket}?list-type=2&prefix={prefix}")).text
        return set(re.findall("<Key>(.*?)</Key>", listed))


@asynccontextmanager
async def s3_server() -> AsyncIterator[S3Server]:
    """One with an empty bucket."""
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-c", _SERVE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        server = S3Server(f"http://127.0.0.1:{port}", "artifacts-of-tests")
        async with httpx.AsyncClient() as client:
            (await client.put(f"{server.url}/{server.bucket}")).raise_for_status()
        yield server
    finally:
        process.stdin.close()
        await process.wait()
