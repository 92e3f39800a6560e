"""A large state on the way to a database that is there, behind a link that is slow."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

import asyncpg
import pytest
from runengine_server.database import connections, deadline_extender
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import SECONDS, State, chain, serving
from tests.support.postgresql_servers import Server

BYTES_A_SECOND = 512 * 1024
CHUNK = 16 * 1024

# How long a statement may take in which nothing moves: a fraction of what the state takes.
STATEMENT_SECONDS = 4.0
STATE = random.Random(1).randbytes(3 * 512 * 1024)


class SlowLink:
    """What all connections share, to a server's port; nothing passes it once it is `cut` off in silence."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._passed = 0
        self._moves = asyncio.Condition()
        self.is_open = asyncio.Event()
        self.is_open.set()
        self._free = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> SlowLink:
        listening = socket.create_server(("127.0.0.1", 0))
        # Else this end's kernel would take all at once, which no link does.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=CHUNK)
        self.port: int = listening.getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def has_passed(self, size: int) -> None:
        """Returns once so many bytes have."""
        async with self._moves:
            await self._moves.wait_for(lambda: self._passed >= size)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to, limit=CHUNK)
        self._writers.append(far_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, far_writer):
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self.is_open.wait()
                async with self._free:
                    await asyncio.sleep(len(data) / BYTES_A_SECOND)
                    self._passed += len(data)
                async with self._moves:
                    self._moves.notify_all()
                writer.write(data)
                await writer.drain()


@pytest.fixture
async def link(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowLink]:
    monkeypatch.setattr(connections, "TRANSACTION_SECONDS", STATEMENT_SECONDS)
    monkeypatch.setattr(deadline_extender, "CHECK_SECONDS", STATEMENT_SECONDS / 4)
    async with SlowLink(server.port) as link:
        yield link


def through(link: SlowLink) -> str:
    return f"postgresql://app@127.0.0.1:{link.port}/runengine"


@pytest.mark.timeout(6 * SECONDS)
async def test_a_large_state_is_stored_and_read_again_however_slow_the_link_is(
    server: Server, link: SlowLink
) -> None:
    executed: list[str] = []

    async def large(state: State) -> State:
        executed.append("large")
        return {"seen": [STATE.hex()]}

    async def last(state: State) -> State:
        executed.append("last")
        # To go on then, a worker has to read the state.
        if executed.count("last") == 1:
            raise ConnectionError
        return {"seen": [str(len(state["seen"][0]))]}

    async with serving(through(link), chain(large=large, last=last), lease_seconds=12) as engine:
        run_id = await engine.trigger()
        async with asyncio.timeout(4 * SECONDS), server.superuser("runengine") as there:
            async with engine.working():
                await ended(there, run_id)
            assert executed == ["large", "last"]
            await engine.retry(run_id)
            async with engine.working():
                await ended(there, run_id)
        assert (await engine.get(run_id)).status is RunStatus.COMPLETED
        assert executed == ["large", "last", "last"]


async def ended(there: asyncpg.Connection, run_id: UUID) -> None:
    """Returns once the run has, if it was neither lost nor handed back until then. Past the link, which a
    look of its own would have to wait for too.
    """
    look = "SELECT completed_at IS NOT NULL, losses, hand_backs FROM runs WHERE id = $1"
    while (row := tuple(await there.fetchrow(look, run_id) or ())) != (True, 0, 0):
        assert row == (False, 0, 0)
        await asyncio.sleep(0.05)


async def test_a_link_that_goes_silent_in_the_midst_of_a_large_statement_is_given_up(link: SlowLink) -> None:
    there = Database(through(link), 1)
    await there.open()
    dispatch = there.dispatch()
    storing = asyncio.create_task(dispatch.fetch("SELECT length($1::bytea)", STATE))
    async with asyncio.timeout(SECONDS):
        await link.has_passed(len(STATE) // 2)
        link.is_open.clear()
        with pytest.raises(Unavailable):
            await storing
    link.is_open.set()
    await there.close()
