"""Messages of callers without a token, or beyond the limit, are not even received."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
from runengine.v1.run_service_pb2 import ListRunEventsRequest
from runengine_server.processes.children import Child

from tests.support.patience import SECONDS
from tests.support.stack import Stack

MESSAGES = 400
MESSAGE_BYTES = 2 * 1024 * 1024 - 4096
# What rpc/interceptor.py lets be under way, of messages of 2 MiB.
CALLS = 3000


def peak_bytes(process: Child) -> int:
    """The most memory that the process has had so far."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


LIST, CHECK = "/runengine.v1.RunService/ListRunEvents", "/grpc.health.v1.Health/Check"


async def code_of(channel: grpc.aio.Channel, data: bytes, metadata: Any, method: str = LIST) -> str:
    call: Any = channel.unary_unary(method)
    try:
        await call(data, metadata=metadata, timeout=SECONDS)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_large_messages_without_a_good_token_take_no_memory(database_url: str, state_dir: Path) -> None:
    stack = Stack(database_url, state_dir)
    (serve,) = await stack.start("serve")
    data = bytes(MESSAGE_BYTES)
    bad = stack.token("org_unread")[:-4] + "AAAA"
    try:
        async with grpc.aio.insecure_channel(stack.grpc_address) as channel:
            for metadata in ((), (("authorization", f"Bearer {bad}"),)):
                await code_of(channel, b"", metadata)
                before = peak_bytes(serve)
                codes = await asyncio.gather(*(code_of(channel, data, metadata) for _ in range(MESSAGES)))
                assert set(codes) == {"UNAUTHENTICATED"}
                # All of them together were 800 MiB, and twice that once they were parsed.
                assert peak_bytes(serve) - before < 200 * 1024 * 1024
            before = peak_bytes(serve)
            await asyncio.gather(*(code_of(channel, data, (), CHECK) for _ in range(MESSAGES)))
            assert peak_bytes(serve) - before < 200 * 1024 * 1024
            assert await code_of(channel, b"", (), CHECK) == "OK"
    finally:
        await stack.stop()


async def test_each_of_thousands_of_calls_at_once_gets_a_typed_response(
    stack: Stack, token: str, organisation: str
) -> None:
    metadata = (("authorization", f"Bearer {token}"),)
    data = ListRunEventsRequest(run_id="01a21d1e-ac7e-748f-a16e-7dc40d43c457").SerializeToString()
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(stack.grpc_address, own) as channel:
        codes = Counter(await asyncio.gather(*(code_of(channel, data, metadata) for _ in range(CALLS))))
    assert codes.keys() <= {"NOT_FOUND", "RESOURCE_EXHAUSTED"}, codes
