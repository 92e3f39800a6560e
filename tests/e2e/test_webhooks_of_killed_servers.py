"""Webhooks that servers were sending when they were killed."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import asyncpg
from standardwebhooks import Webhook

from tests.support.own_worker import until
from tests.support.stack import Stack
from tests.support.webhook_receiver import NEVER, OK, receiving

RUNS = 40
DUE = (
    "UPDATE webhook_deliveries SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL AND attempts > 0"
)
LEFT = "SELECT count(*) FROM webhook_deliveries WHERE status <> 'delivered'"


async def test_none_is_lost_of_what_two_killed_servers_were_sending(tmp_path: Path) -> None:
    host = os.environ["RUNENGINE_TEST_POSTGRES"]
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE runengine")
    superuser = await asyncpg.connect(f"postgresql://postgres@/{name}?host={host}")
    await superuser.execute("INSERT INTO workflows (name) VALUES ('unserved')")
    stack = Stack(f"postgresql://runengine_app@/{name}?host={quote(host, safe='%')}", tmp_path)
    allowed = {"WEBHOOK_ALLOW_HTTP": "true", "WEBHOOK_ALLOW_PRIVATE": "true"}
    first, second = await stack.start("serve --shares-port", "serve --shares-port", **allowed)
    async with receiving() as receiver, stack.client(stack.token("org")) as client:
        endpoint = await client.create_webhook_endpoint(receiver.url(), events=["run.queued"])
        # Some have a response, and the servers are killed while they wait for those of the others.
        receiver.respond = lambda request: OK if len(receiver.received) < RUNS // 2 else NEVER
        runs = [await client.trigger_run("unserved") for _ in range(RUNS)]
        await receiver.until_received(RUNS // 2 + 3)
        for each in (first, second):
            os.kill(each.pid, signal.SIGKILL)
        receiver.respond = lambda request: OK
        await stack.start("serve", **allowed)
        # The claims of those that were killed, as if they had ended by now.
        await superuser.execute(DUE)
        await receiver.until(lambda: len({each.id for each in receiver.received}) == RUNS)
        await until(partial(superuser.fetchval, LEFT), lambda left: left == 0)
        found = [each async for each in client.iterate_webhook_deliveries(endpoint.id, status="delivered")]
    await stack.stop()
    webhook = Webhook(endpoint.secret)
    sent = {each.id: webhook.verify(each.body, each.headers)["data"]["runId"] for each in receiver.received}
    assert sorted(sent.values()) == sorted(run.id for run in runs)
    assert {each.id: each.run_id for each in found} == sent
    await superuser.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
