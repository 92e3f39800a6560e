"""Four times as many calls at once as one server takes: what is refused is refused at once, and is not there;
what is acknowledged is there once; and then it is as if nothing had been.

No call ends by chance: all that are admitted wait for a lock that the test holds.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from runengine.v1.run_pb2 import Run
from runengine_client import Overloaded, RunEngineClient

from tests.support.own_worker import until
from tests.support.patience import SECONDS
from tests.support.stack import UNDER_TEST, Stack

# What rpc/interceptor.py lets be under way.
ADMITTED = 256
OVER_GRPC = 7 * ADMITTED // 2
OVER_REST = ADMITTED // 2

Answer = Run | httpx.Response | BaseException


@pytest.fixture(scope="module")
async def stack(database_url: str, state_dir: Path, stack: Stack) -> AsyncIterator[Stack]:
    """serve and gateway on the same database, which wait for a lock for as long as it takes."""
    own = Stack(database_url, state_dir)
    await own.start("serve", "gateway", module=UNDER_TEST, PATIENT="1")
    yield own
    await own.stop()


@pytest.fixture
async def wide_rest(stack: Stack, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """A REST client that does not wait for a connection, or repeat itself."""
    async with httpx.AsyncClient(
        base_url=f"http://{stack.rest_address}",
        headers={"authorization": f"Bearer {token}"},
        limits=httpx.Limits(max_connections=None),
        timeout=SECONDS,
    ) as rest:
        yield rest


@asynccontextmanager
async def runs_locked(database_url: str) -> AsyncIterator[None]:
    """Nothing reads or writes a run until the end of the block."""
    connection = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    try:
        await connection.execute("BEGIN; LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        await connection.close()


async def storm(
    database_url: str,
    keys: Iterable[str],
    call: Callable[[str], Coroutine[Any, Any, Run | httpx.Response]],
    late: Iterable[str] = (),
) -> tuple[dict[str, Answer], dict[str, Answer]]:
    """What was refused while all that were admitted waited, and what the others answered; by their keys.

    Those of `late` come once nobody is admitted any more.
    """
    async with runs_locked(database_url):
        calls = {key: asyncio.create_task(call(key), name=key) for key in keys}
        async with asyncio.timeout(SECONDS):
            pending = set(calls.values())
            while len(pending) > ADMITTED:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            surplus = {key: asyncio.create_task(call(key), name=key) for key in late}
            if surplus:
                await asyncio.wait(surplus.values())
            calls |= surplus
    answers = await asyncio.gather(*calls.values(), return_exceptions=True)
    waited = {each.get_name() for each in pending}
    both = dict(zip(calls, answers, strict=True))
    return (
        {key: answer for key, answer in both.items() if key not in waited},
        {key: answer for key, answer in both.items() if key in waited},
    )


def is_refused(answer: Answer) -> bool:
    """Whether it says so as the contract does, and when to come again."""
    if isinstance(answer, httpx.Response):
        return (
            answer.status_code == 429
            and answer.json()["reason"] == "OVERLOADED"
            and answer.headers["retry-after"] == "1"
        )
    return isinstance(answer, Overloaded) and answer.retry_after_seconds == 1


def id_of(answer: Answer) -> str:
    """The run that was acknowledged."""
    if isinstance(answer, httpx.Response):
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])
    assert isinstance(answer, Run), answer
    return answer.id


async def test_the_surplus_is_refused_at_once_and_leaves_nothing_and_the_rest_is_done_once(
    database_url: str,
    database: asyncpg.Connection,
    client: RunEngineClient,
    wide_rest: httpx.AsyncClient,
    organisation: str,
) -> None:
    async def trigger(key: str) -> Run:
        return await client.trigger_run("unserved", idempotency_key=key)

    async def post(key: str) -> httpx.Response:
        headers = {"idempotency-key": key}
        return await wide_rest.post("/runs", json={"workflowName": "unserved"}, headers=headers)

    async def ids() -> list[str]:
        rows = await database.fetch("SELECT id FROM runs WHERE tenant_id = $1", organisation)
        return sorted(str(row["id"]) for row in rows)

    of_grpc, of_rest = ([str(uuid.uuid4()) for _ in range(count)] for count in (OVER_GRPC, OVER_REST))
    refused, admitted = await storm(
        database_url,
        # By turns, and of both one that is refused whoever came first.
        [key for some in zip(of_rest, *[iter(of_grpc)] * 7, strict=True) for key in some][8:],
        lambda key: post(key) if key in of_rest else trigger(key),
        late=(of_rest[0], *of_grpc[:7]),
    )

    assert len(admitted) == ADMITTED
    assert all(map(is_refused, refused.values()))
    assert {type(answer) for answer in refused.values()} == {httpx.Response, Overloaded}
    acknowledged = {key: id_of(answer) for key, answer in admitted.items()}
    assert await ids() == sorted(acknowledged.values())

    # The same keys again, as the refused were told to: what was refused is done, and nothing twice.
    for start in range(0, OVER_GRPC, ADMITTED // 2):
        some = of_grpc[start : start + ADMITTED // 2]
        for key, run in zip(some, await asyncio.gather(*map(trigger, some)), strict=True):
            assert acknowledged.setdefault(key, run.id) == run.id
    for start in range(0, OVER_REST, ADMITTED // 2):
        some = of_rest[start : start + ADMITTED // 2]
        for key, answer in zip(some, await asyncio.gather(*map(post, some)), strict=True):
            assert acknowledged.setdefault(key, id_of(answer)) == id_of(answer)
    assert await ids() == sorted(acknowledged.values())
    assert len(acknowledged) == OVER_GRPC + OVER_REST


async def test_as_many_calls_are_admitted_after_a_storm_as_before(
    database_url: str, client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await client.trigger_run("unserved")
    for _ in range(3):
        refused, admitted = await storm(
            database_url, map(str, range(2 * ADMITTED)), lambda _: client.get_run(run.id)
        )
        assert all(map(is_refused, refused.values()))
        assert [id_of(answer) for answer in admitted.values()] == [run.id] * ADMITTED
    answer = await rest.get(f"/runs/{run.id}")
    assert (answer.status_code, answer.json()["id"]) == (200, run.id)
    await until(lambda: rest.get("/readyz"), lambda answer: answer.status_code == 200)
