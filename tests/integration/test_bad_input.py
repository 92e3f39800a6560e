"""Whatever comes in, the answer is a typed one, nothing is written, and the next good call is served."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Mapping

import asyncpg
import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from runengine.v1.run_pb2 import Run
from runengine_server.auth import development

from tests.support.bad_input import rows
from tests.support.bad_input.corpus import CATEGORIES
from tests.support.bad_input.exchanges import (
    GrpcAnswer,
    HttpAnswer,
    call,
    call_by_hand,
    exchange,
    told,
    until_closed,
)
from tests.support.bad_input.grpc_wire import NO_GRPC
from tests.support.bad_input.http_wire import HTTP_WIRE, Raw
from tests.support.bad_input.proto_wire import trigger
from tests.support.bad_input.rows import Grpc, Http, Row
from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.stack import Stack

_AT_ONCE = 8
_MAX_TRAILERS = 8 * 1024  # what every client of gRPC takes


class World:
    """A tenant with a run in each state, and what stands for its things in the corpus."""

    def __init__(self, stack: Stack, organisation: str, token: str, words: Mapping[str, str]) -> None:
        self.stack = stack
        self.organisation = organisation
        self.token = token
        self.campaign = words[rows.CAMPAIGN]
        self.runs = [words[word] for word in (rows.COMPLETED, rows.FAILED, rows.RUNNING)]
        self._words = {word.encode(): value.encode() for word, value in words.items()}

    def _real(self, raw: bytes) -> bytes:
        for word, value in self._words.items():
            raw = raw.replace(word, value)
        return raw

    async def ask_rest(self, given: Http) -> HttpAnswer:
        headers: list[tuple[str, str | bytes]] = [("host", "x"), ("connection", "close"), *given.headers]
        if ("x-no-token", "") not in headers:
            headers.append(("authorization", f"Bearer {self.token}"))
        if given.body or given.method == "POST":
            headers.append(("content-length", str(len(given.body))))
        lines = [f"{given.method} ".encode() + _escaped(given.target) + b" HTTP/1.1"]
        lines += [name.encode() + b": " + _bytes(value) for name, value in headers]
        [answer] = await self.exchange(b"\r\n".join([*lines, b"", given.body]))
        return answer

    async def exchange(self, sent: bytes) -> list[HttpAnswer]:
        return await exchange(self.stack.rest_address, self._real(sent))

    async def ask_grpc(self, channel: grpc.aio.Channel, given: Grpc) -> GrpcAnswer:
        metadata = [(name, value) for name, value in given.metadata]
        if given.token:
            metadata.append(("authorization", f"Bearer {self.token}"))
        real = [
            (name, self._real(value.encode()).decode() if isinstance(value, str) else value)
            for name, value in metadata
        ]
        return await call(channel, given.method, self._real(given.request), real, given.gzip)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _escaped(target: str) -> bytes:
    """What is not ASCII in a target, as a client sends it."""
    return b"".join(bytes([byte]) if byte < 128 else b"%%%02X" % byte for byte in target.encode())


@pytest.fixture(scope="module")
async def world(stack: Stack) -> AsyncIterator[World]:
    organisation = f"org_{uuid.uuid4().hex}"
    token = stack.token(organisation)
    async with (
        Gates() as gates,
        stack.client(token) as client,
        stack.client(stack.token(f"org_{uuid.uuid4().hex}")) as other,
    ):
        campaign = await client.create_campaign()
        completed = await client.trigger_run("two-artifacts", context={"campaignId": campaign.id})
        failed = await client.trigger_run("rejecting")
        foreign = await other.trigger_run("rejecting")
        running = await client.trigger_run("gated", trigger_payload={"gates": gates.path})
        gate = await gates.next()
        for ending in (completed, failed):
            await client.wait(ending.id, timeout_seconds=SECONDS)
        await other.wait(foreign.id, timeout_seconds=SECONDS)
        yield World(
            stack,
            organisation,
            token,
            {
                rows.COMPLETED: completed.id,
                rows.FAILED: failed.id,
                rows.FOREIGN: foreign.id,
                rows.RUNNING: running.id,
                rows.CAMPAIGN: campaign.id,
                "@TOKEN@": token,
                "@EXPIRED@": development.sign(stack.state_dir, organisation, "user_test", -3600),
                "@OTHER-KEY@": _signed(
                    rsa.generate_private_key(public_exponent=65537, key_size=2048), organisation
                ),
                "@NO-ORGANISATION@": _signed(development.private_key(stack.state_dir), None),
            },
        )
        gate.open()
        await client.wait(running.id, timeout_seconds=SECONDS)


def _signed(key: rsa.RSAPrivateKey, organisation: str | None) -> str:
    now = int(time.time())
    claims = {"iss": development.ISSUER, "sub": "user_test", "iat": now, "nbf": now, "exp": now + 600}
    if organisation is not None:
        claims["org_id"] = organisation
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "development"})


@pytest.fixture
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    """Takes trailers of any size, so that a test sees how large they are, and sends messages of any."""
    options = [
        ("grpc.max_metadata_size", 1024 * 1024),
        ("grpc.absolute_max_metadata_size", 1024 * 1024),
        ("grpc.max_send_message_length", -1),
    ]
    async with grpc.aio.insecure_channel(stack.grpc_address, options) as channel:
        yield channel


@contextlib.asynccontextmanager
async def nothing_changes(world: World, database: asyncpg.Connection) -> AsyncIterator[None]:
    """Checks that what happens in the block leaves no trace, and that good calls are served after it."""
    before = await _rows_of(world, database), await _runs_of(world)
    yield
    assert (await _rows_of(world, database), await _runs_of(world)) == before
    async with world.stack.rest(world.token) as rest:
        assert (await rest.get(f"/campaigns/{world.campaign}/runs")).json()["total"] == 1


async def _rows_of(world: World, database: asyncpg.Connection) -> dict[str, int]:
    """How many rows the tenant has in each table."""
    tables = await database.fetch(
        "SELECT table_name FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name)"
        " WHERE column_name = 'tenant_id' AND table_schema = 'public' AND table_type = 'BASE TABLE'"
    )
    assert {"runs", "campaigns", "run_steps", "run_events"} <= {table for (table,) in tables}
    return {
        table: await database.fetchval(
            f"SELECT count(*) FROM {table} WHERE tenant_id = $1", world.organisation
        )
        for (table,) in tables
    }


async def _runs_of(world: World) -> list[Run]:
    async with world.stack.client(world.token) as client:
        return [await client.get_run(run_id) for run_id in world.runs]


async def _judge(world: World, channel: grpc.aio.Channel, row: Row) -> list[str]:
    """What is wrong with the answers to a row."""
    wrong = []
    if row.rest is not None:
        answer = await world.ask_rest(row.rest)
        if told(answer) != (row.answer.status, row.answer.reason):
            wrong.append(f"{row.name}: REST answers {told(answer)} {answer.body[:300]!r}")
    if row.grpc is not None:
        ended = await world.ask_grpc(channel, row.grpc)
        expected = (row.answer.code, "" if row.answer.by_transport else row.answer.reason)
        if (ended.code, ended.reason) != expected:
            wrong.append(f"{row.name}: gRPC answers {ended.code} {ended.reason} {ended.text[:300]!r}")
        if ended.size > _MAX_TRAILERS:
            wrong.append(f"{row.name}: gRPC answers {ended.size} bytes of trailers")
    return wrong


async def _judge_raw(world: World, raw: Raw) -> list[str]:
    answers = await world.exchange(raw.sent)
    if [told(answer) for answer in answers] == raw.answers:
        return []
    return [f"{raw.name}: {[(*told(answer), answer.body[:200]) for answer in answers]}"]


@pytest.mark.parametrize("category", CATEGORIES)
async def test_bad_input_gets_the_same_typed_error_from_grpc_and_rest_and_changes_nothing(
    world: World, channel: grpc.aio.Channel, database: asyncpg.Connection, category: str
) -> None:
    async with nothing_changes(world, database):
        wrong = [text for row in CATEGORIES[category] for text in await _judge(world, channel, row)]
    assert wrong == [], "\n".join(wrong)


async def test_a_request_that_is_no_http_gets_a_problem_and_never_a_second_response(
    world: World, database: asyncpg.Connection
) -> None:
    async with nothing_changes(world, database):
        wrong = [text for raw in HTTP_WIRE for text in await _judge_raw(world, raw)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("sent", NO_GRPC.values(), ids=NO_GRPC)
async def test_a_message_that_is_no_grpc_ends_its_connection_and_no_other(
    world: World, database: asyncpg.Connection, sent: bytes
) -> None:
    async with nothing_changes(world, database):
        assert b"HTTP/1.1 2" not in await until_closed(world.stack.grpc_address, sent)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"snappy", b"\xff"])
async def test_a_message_that_cannot_be_decompressed_reaches_no_handler(
    world: World, database: asyncpg.Connection, encoding: bytes
) -> None:
    async with nothing_changes(world, database):
        given = world.stack.grpc_address, f"{rows.RUNS}TriggerRun", world.token, encoding
        answer = await call_by_hand(*given, trigger())
    # gRPC itself says so, before there is a call: 12 and 13 are the codes that its specification has for it.
    assert b"grpc-status\x0212" in answer or b"grpc-status\x0213" in answer
    assert b"runengine" not in answer


async def test_bad_input_all_at_once_gets_the_same_responses(
    world: World, channel: grpc.aio.Channel, database: asyncpg.Connection
) -> None:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def judge(row: Row) -> list[str]:
        async with turns:
            return await _judge(world, channel, row)

    async with nothing_changes(world, database):
        every = [row for category in CATEGORIES.values() for row in category]
        wrong = [text for found in await asyncio.gather(*map(judge, every)) for text in found]
    assert wrong == [], "\n".join(wrong)


def test_no_response_in_the_table_is_a_fault_of_the_server_and_no_name_is_given_twice() -> None:
    for category in CATEGORIES.values():
        assert len({row.name for row in category}) == len(category)
        for row in category:
            assert row.answer.code not in ("OK", "UNKNOWN", "INTERNAL")
            assert row.answer.status < 500
            assert row.rest or row.grpc
    for raw in HTTP_WIRE:
        assert all(400 <= status < 500 for status, _ in raw.answers)
