"""REST of `serve` answers as a gateway does, to the byte; its calls end as calls over the network do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from runengine_client import RunEngineClient
from runengine_server.auth import development

from tests.support.own_worker import until
from tests.support.patience import SECONDS
from tests.support.stack import Stack
from tests.support.token_forge import MISSING, Forge
from tests.support.watching import watching

JSON = {"content-type": "application/json"}


@dataclass
class Sent:
    """A request; its path may name what World.names has."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""


# What the server answers, what it refuses, and what the gateway refuses once the server knows the token.
TABLE = {
    "list": Sent("GET", "/campaigns/{campaign_id}/runs", 200),
    "run": Sent("GET", "/runs/{run_id}", 200),
    "head": Sent("HEAD", "/runs/{run_id}", 200),
    "steps": Sent("GET", "/runs/{run_id}/steps", 200),
    "readiness": Sent("GET", "/readyz", 200),
    "replay": Sent(
        "POST", "/runs", 201, {**JSON, "idempotency-key": "a key"}, b'{"workflowName": "unserved"}'
    ),
    "key of another": Sent(
        "POST", "/runs", 409, {**JSON, "idempotency-key": "a key"}, b'{"workflowName": "chain"}'
    ),
    "long key": Sent(
        "POST", "/runs", 400, {**JSON, "idempotency-key": "x" * 256}, b'{"workflowName": "unserved"}'
    ),
    "state": Sent("DELETE", "/runs/{run_id}", 409),
    "violations": Sent("GET", "/campaigns/x/runs?limit=0&offset=-1", 400),
    "many violations": Sent("GET", "/campaigns/x/runs?" + "status=y&" * 100, 400),
    "unknown workflow": Sent("POST", "/runs", 400, JSON, b'{"workflowName": "unheard of"}'),
    "malformed": Sent("POST", "/runs", 400, JSON, b'{"workflowName": 1, "priority": "x"}'),
    "no token": Sent("GET", "/runs/{run_id}", 401, {"authorization": ""}),
    "bad token": Sent("GET", "/runs/{run_id}", 401, {"authorization": "Bearer x"}),
    "bad token of a large body": Sent(
        "POST", "/runs", 401, {**JSON, "authorization": "Bearer x"}, b" " * 100_000
    ),
    "no organisation": Sent("GET", "/runs/{run_id}", 403, {"authorization": "{alone}"}),
    "absent": Sent("GET", "/runs/{absent}", 404),
    "no path": Sent("GET", "/nowhere", 404),
    "method": Sent("PUT", "/runs", 405),
    "media type": Sent("POST", "/runs", 415, {"content-type": "text/plain"}, b"{}"),
    "large body": Sent("POST", "/runs", 413, JSON, b" " * 2_000_000),
    "artifact": Sent("GET", "/artifacts/{artifact_id}", 200),
    "range of an artifact": Sent("GET", "/artifacts/{artifact_id}", 200, {"range": "bytes=1-2"}),
    "head of an artifact": Sent("HEAD", "/artifacts/{artifact_id}", 200),
    "absent artifact": Sent("GET", "/artifacts/{absent}", 404),
    "stream": Sent("GET", "/runs/{run_id}/watch", 200),
    "stream to its end": Sent("GET", "/runs/{run_id}/watch", 204, {"last-event-id": "{token}"}),
    "stream of another run": Sent("GET", "/runs/{absent}/watch", 400, {"last-event-id": "{token}"}),
    "absent stream": Sent("GET", "/runs/{absent}/watch", 404),
}


@pytest.fixture
async def both(stack: Stack, token: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with stack.rest(token) as serve, stack.rest(token, stack.gateway_address) as gateway:
        yield [serve, gateway]


async def answer(rest: httpx.AsyncClient, sent: Sent, names: dict[str, str]) -> tuple[Any, ...]:
    headers = {name: value.format(**names) for name, value in sent.headers.items()}
    response = await rest.request(
        sent.method, sent.path.format(**names), headers=headers, content=sent.content or None
    )
    body: Any = response.content
    if response.headers.get("content-type") == "application/problem+json":
        body = response.json()  # a process has an order of its own for the members of a map
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        body = re.sub(rb"(?m)^id: .*$", b"id", body)  # a position in the database, which goes on
    return response.status_code, sorted(response.headers.items()), body


async def test_an_answer_of_serve_is_that_of_a_gateway(
    client: RunEngineClient, both: list[httpx.AsyncClient], state_dir: Path
) -> None:
    campaign = await client.create_campaign()
    run = await client.wait((await client.trigger_run("two-artifacts", campaign_id=campaign.id)).id)
    (step,) = await client.list_run_steps(run.id)
    watched = await both[0].get(f"/runs/{run.id}/watch")
    names = {
        "campaign_id": campaign.id,
        "run_id": run.id,
        "artifact_id": step.output_artifact_ids[0],
        "absent": str(uuid4()),
        "token": watched.text.rpartition("\nid: ")[2].partition("\n")[0],
        "alone": f"Bearer {Forge(development.private_key(state_dir)).token(o=MISSING)}",
    }
    replayed = TABLE["replay"]
    assert (await answer(both[0], replayed, names))[0] == 201
    statuses = {}
    for name, sent in TABLE.items():
        of_serve, of_gateway = [await answer(rest, sent, names) for rest in both]
        assert of_serve == of_gateway, name
        statuses[name] = of_serve[0]
    assert statuses == {name: sent.status for name, sent in TABLE.items()}


async def test_streams_are_counted_together_however_they_come(
    stack: Stack, client: RunEngineClient, both: list[httpx.AsyncClient], organisation: str
) -> None:
    run_id = (await client.trigger_run("unserved")).id
    path = f"/runs/{run_id}/watch"
    async with AsyncExitStack() as exits:
        for number in range(16):
            if number % 2:
                response = await exits.enter_async_context(both[0].stream("GET", path))
                assert response.status_code == 200
            else:
                stream = watching(stack, organisation, UUID(run_id))
                await (await exits.enter_async_context(stream)).until("snapshot_end")
        refused = [(await answer(rest, Sent("GET", path, 429), {})) for rest in both]
    assert refused[0] == refused[1]
    assert refused[0][0] == 429

    async def begins() -> bool:
        async with both[0].stream("GET", path) as response:
            return response.status_code == 200

    # The handlers of those who have gone away have ended.
    assert await until(begins, bool)


async def test_a_request_under_way_is_served_while_the_server_stops(
    token: str, client: RunEngineClient, database_url: str, state_dir: Path
) -> None:
    own = Stack(database_url, state_dir)
    await own.start("serve", rest_by="serve")
    host, _, port = own.rest_address.rpartition(":")
    body = b'{"workflowName": "unserved"}'
    head = [
        "POST /runs HTTP/1.1",
        "host: x",
        f"authorization: Bearer {token}",
        f"content-length: {len(body)}",
        "content-type: application/json",
        "expect: 100-continue",
    ]
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write("\r\n".join([*head, "", ""]).encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        stopping = asyncio.create_task(own.stop())
        await until_refused(host, int(port))
        writer.write(body)
        response = await reader.read()
        writer.close()
        await stopping
    assert response.startswith(b"HTTP/1.1 201 ")
    run = json.loads(response.partition(b"\r\n\r\n")[2])
    assert (await client.get_run(run["id"])).workflow_name == "unserved"


async def until_refused(host: str, port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionError:
            return
        writer.close()
