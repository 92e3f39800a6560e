"""A log that cannot be written changes nothing of what the processes do."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from runengine.v1.run_pb2 import RunStatus

from tests.faults.proxy import Proxy
from tests.support.patience import SECONDS
from tests.support.stack import Stack


@asynccontextmanager
async def logging_into_pipe(stack: Stack) -> AsyncIterator[int]:
    """serve, gateway and worker, whose stderr is a pipe of 4 KiB; the end to read it from."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))  # full
    before = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        await stack.start("serve", "gateway", "worker", LEASE_SECONDS="1")
    finally:
        os.dup2(before, 2)
        os.close(before)
    yield reader
    await stack.stop()


async def becomes(stack: Stack, token: str, status: int) -> None:
    async with stack.rest(token) as rest, asyncio.timeout(SECONDS):
        while (await rest.get("/readyz")).status_code != status:
            pass


async def run_completes(stack: Stack, token: str) -> None:
    async with stack.client(token) as client:
        run = await client.trigger_run("campaign-bundle", trigger_payload={})
        ended = await client.wait(run.id, timeout_seconds=SECONDS)
        assert ended.status in (RunStatus.RUN_STATUS_COMPLETED, RunStatus.RUN_STATUS_FAILED)


@pytest.mark.parametrize("reader_is", ["gone", "asleep"])
async def test_a_blip_of_the_database_passes_although_nobody_reads_the_log(
    database_url: str, state_dir: Path, token: str, reader_is: str
) -> None:
    async with Proxy(database_url) as proxy:
        stack = Stack(proxy.url, state_dir)
        async with logging_into_pipe(stack) as reader:
            if reader_is == "gone":
                os.close(reader)
            for _ in range(2):
                proxy.refuse()
                await becomes(stack, token, 503)
                proxy.heal()
                await becomes(stack, token, 200)
            await run_completes(stack, token)
        if reader_is == "asleep":
            os.close(reader)
