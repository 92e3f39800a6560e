"""`serve --processes`: several servers share the ports of gRPC and REST, and end together."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from runengine.v1 import run_service_pb2, run_service_pb2_grpc
from runengine_server.processes.children import Child, ChildFailed

from tests.support.patience import SECONDS
from tests.support.stack import Stack, free_address

PROCESSES = 2
CONNECTIONS = 40


@pytest.fixture
async def shared(database_url: str, state_dir: Path) -> AsyncIterator[Stack]:
    stack = Stack(database_url, state_dir)
    yield stack
    await stack.stop()


def children_of(process: Child) -> list[int]:
    """The processes that it has started."""
    found = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in found for pid in path.read_text().split()]


@asynccontextmanager
async def answered(stack: Stack, token: str) -> AsyncIterator[list[bool]]:
    """Whether each of many connections, open while the block runs, is answered."""

    async def ask(exit_: AsyncExitStack) -> bool:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = await exit_.enter_async_context(grpc.aio.insecure_channel(stack.grpc_address, options))
        stub = run_service_pb2_grpc.RunServiceStub(channel)
        try:
            await stub.GetRun(
                run_service_pb2.GetRunRequest(),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=SECONDS,
                wait_for_ready=True,
            )
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.INVALID_ARGUMENT
        raise AssertionError("a run without an id was found")

    async with AsyncExitStack() as exit_:
        yield await asyncio.gather(*(ask(exit_) for _ in range(CONNECTIONS)))


def connections_of(pid: int, address: str) -> int:
    """How many the process has accepted at that address, and has open."""
    port = int(address.rpartition(":")[2])
    # gRPC listens with sockets of IPv6, to which IPv4 is mapped, where there are any.
    lines = "".join(Path(f"/proc/net/{each}").read_text() for each in ("tcp", "tcp6")).splitlines()
    established = {
        f"socket:[{row[9]}]"
        for row in map(str.split, lines)
        if row[1].endswith(f":{port:04X}") and row[3] == "01"
    }
    return sum(os.readlink(each) in established for each in Path(f"/proc/{pid}/fd").iterdir())


@asynccontextmanager
async def answered_over_rest(stack: Stack, token: str) -> AsyncIterator[list[bool]]:
    """The same over REST."""
    async with AsyncExitStack() as exit_:
        clients = [await exit_.enter_async_context(stack.rest(token)) for _ in range(CONNECTIONS)]
        responses = await asyncio.gather(*(each.get("/runs/none") for each in clients))
        yield [each.status_code == 400 for each in responses]


async def test_each_process_gets_its_share_of_the_connections(shared: Stack, token: str) -> None:
    (parent,) = await shared.start(f"serve --processes {PROCESSES}", rest_by="serve")
    for ask, address in ((answered, shared.grpc_address), (answered_over_rest, shared.rest_address)):
        async with ask(shared, token) as answers:
            assert all(answers)
            shares = [connections_of(pid, address) for pid in children_of(parent)]
        # One in 2^39 times they would all have gone to the same.
        assert len(shares) == PROCESSES
        assert min(shares) > 0
        assert sum(shares) == CONNECTIONS


async def test_a_process_that_dies_is_started_again_and_all_end_with_the_first(
    shared: Stack, token: str
) -> None:
    (parent,) = await shared.start(f"serve --processes {PROCESSES}")
    first, second = children_of(parent)
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(SECONDS):
        while len(now := children_of(parent)) < PROCESSES or first in now:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert second in now
    async with answered(shared, token) as answers:
        assert all(answers)
    await parent.stop()
    for pid in now:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_port_that_is_taken_is_not_shared(shared: Stack, capfd: pytest.CaptureFixture[str]) -> None:
    await shared.start("serve", rest_by="serve")
    for port, settings in (("GRPC", {}), ("REST", {"GRPC_ADDRESS": free_address()})):
        with pytest.raises(ChildFailed):
            await shared.start(f"serve --processes {PROCESSES}", rest_by="serve", **settings)
        assert f"RUNENGINE_{port}_ADDRESS: " in capfd.readouterr().err


async def test_a_process_that_cannot_start_ends_them_all(shared: Stack) -> None:
    with pytest.raises(ChildFailed):
        await shared.start(
            f"serve --processes {PROCESSES}", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none"
        )
