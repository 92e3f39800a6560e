"""Stories of calls that end in the middle: by a deadline, by a client that vanishes, by too many others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid

import httpx
from runengine_client import DeadlineExceeded, Overloaded, RunEngineClient

from tests.faults.leak_load import Load


async def tiny_deadlines(load: Load) -> None:
    seconds = load.random.choice([0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
    async with RunEngineClient(load.stack.grpc_address, load.token, timeout_seconds=seconds) as client:
        calls = [
            client.list_campaign_runs(load.campaign, limit=100),
            client.trigger_run("leaks-bundling", idempotency_key=str(uuid.uuid4())),
            client.get_campaign(load.campaign),
            client.trigger_run("leaks-bundling"),
            client.download_artifact(load.large),
        ]
        for each in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(each, DeadlineExceeded):
                load.hit("deadline exceeded")
            elif isinstance(each, BaseException) and not isinstance(each, Overloaded):
                raise each


async def clients_vanish(load: Load) -> None:
    client = load.stack.client(load.token)
    calls = [
        asyncio.create_task(call)
        for call in (
            client.trigger_run("leaks-bundling", idempotency_key=str(uuid.uuid4())),
            client.list_campaign_runs(load.campaign, limit=100),
            client.download_artifact(load.large),
            client.cancel_run(uuid.uuid4()),
        )
    ]
    await asyncio.wait(calls, timeout=load.random.uniform(0, 0.02))
    if load.random.random() < 0.5:
        for call in calls:
            call.cancel()
    await client.close()
    await asyncio.gather(*calls, return_exceptions=True)


async def clients_vanish_over_rest(load: Load) -> None:
    body = json.dumps({"workflowName": "leaks-bundling"}).encode()
    post = load.head("POST", "/runs", len(body)) + body
    gets = load.head("GET", f"/campaigns/{load.campaign}/runs?limit=100")
    for sent in (b"", post[:20], post[:-5], post, gets, gets * 5):
        for how in ("abort", "close"):
            _, writer = await load.connect()
            writer.write(sent)
            await writer.drain()
            if load.random.random() < 0.5:
                await asyncio.sleep(0.002)
            if how == "abort":
                writer.transport.abort()
            else:
                writer.close()


async def cut_off_in_a_statement(load: Load) -> None:
    token = load.token
    async with load.watched.locked("campaigns"):
        async with (
            load.stack.client(token) as client,
            RunEngineClient(load.stack.grpc_address, token, timeout_seconds=0.1) as hasty,
        ):
            calls = [
                asyncio.create_task(each.get_campaign(load.campaign))
                for each in (client, client, client, hasty, hasty)
            ]
            _, writer = await load.connect()
            writer.write(load.head("GET", f"/campaigns/{load.campaign}"))
            with contextlib.suppress(TimeoutError):
                await load.watched.until_waiting("serve", 2)
            await asyncio.wait(calls[3:])
            writer.transport.abort()
            calls[0].cancel()
        for each in await asyncio.gather(*calls, return_exceptions=True):
            load.hit(f"cut off in a statement: {type(each).__name__}")
    await asyncio.sleep(0.2)


async def too_many_at_once(load: Load) -> None:
    async with load.stack.client(load.token) as client:
        async with load.watched.locked("campaigns"):
            calls = [
                *(asyncio.create_task(client.get_campaign(load.campaign)) for _ in range(280)),
                *(asyncio.create_task(load.rest.get(f"/campaigns/{load.campaign}")) for _ in range(20)),
            ]
            # None of those that were admitted can end.
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for each in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(each, Overloaded):
                load.hit("overloaded")
            elif isinstance(each, httpx.Response):
                assert each.status_code in (200, 429), each.text
            elif isinstance(each, BaseException):
                raise each
    await asyncio.sleep(0.5)
