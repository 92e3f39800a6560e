"""What clients go through, again and again, while it is measured what the processes keep of it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
from runengine.v1.run_pb2 import RunStatus
from runengine_client import (
    ArtifactNotFound,
    CampaignNotFound,
    IdempotencyKeyReused,
    InvalidArgument,
    RunActive,
    RunNotFound,
    RunNotRetryable,
    RunNotWaiting,
    RunTerminal,
    Unauthenticated,
)
from runengine_server.auth import development

from tests.faults.cut_off_calls import (
    clients_vanish,
    clients_vanish_over_rest,
    cut_off_in_a_statement,
    tiny_deadlines,
    too_many_at_once,
)
from tests.faults.leak_graphs import LARGE
from tests.faults.leak_load import Load, Patient, bearer, refused, refused_or_not
from tests.faults.leak_watches import runs_are_watched, watches_are_abandoned
from tests.faults.pools import wide_payload


async def runs_complete(load: Load) -> None:
    campaign = await load.client.create_campaign()
    for name in ("everything", "two-artifacts", "bundling", "context", "cached"):
        key, number = str(uuid.uuid4()), next(load.number)
        given = {"trigger_payload": {"count": number % 7}, "campaign_id": campaign.id}
        run = await load.client.trigger_run(f"leaks-{name}", idempotency_key=key, **given)
        again = await load.client.trigger_run(f"leaks-{name}", idempotency_key=key, **given)
        assert again.id == run.id
        with refused(IdempotencyKeyReused):
            await load.client.trigger_run("leaks-bundling", idempotency_key=key)
        with refused_or_not(RunActive, RunNotRetryable):
            await load.client.retry_run(run.id)
        run = await load.ended(run.id)
        assert run.status == RunStatus.RUN_STATUS_COMPLETED, run
        assert await load.client.list_run_steps(run.id)
        assert await load.client.list_run_events(run.id)
        with refused(RunTerminal):
            await load.client.cancel_run(run.id)
    assert (await load.client.get_campaign(campaign.id)).bundle_url


async def runs_complete_over_rest(load: Load) -> None:
    campaign = (await load.ask("POST", "/campaigns", 201, json={}))["id"]
    context = {"campaignId": campaign}
    for name in ("everything", "bundling"):
        given = {
            "json": {"workflowName": f"leaks-{name}", "context": context},
            "headers": {"idempotency-key": str(uuid.uuid4())},
        }
        run = (await load.ask("POST", "/runs", 201, **given))["id"]
        assert (await load.ask("POST", "/runs", 201, **given))["id"] == run
        await load.ended(run)
        assert (await load.ask("GET", f"/runs/{run}", 200))["status"] == "completed"
        for part in ("steps", "events"):
            assert (await load.ask("GET", f"/runs/{run}/{part}", 200))[part]
        await load.ask("DELETE", f"/runs/{run}", 409)
    await load.ask("GET", f"/campaigns/{campaign}", 200)


async def runs_fail(load: Load) -> None:
    for name in ("rejecting", "bad-edge", "false-bundle"):
        run = await load.client.trigger_run(f"leaks-{name}", campaign_id=load.campaign)
        for _ in range(2):
            ended = await load.ended(run.id)
            assert ended.status == RunStatus.RUN_STATUS_FAILED, ended
            await load.ask("POST", f"/runs/{run.id}/retry", 200)
        await load.ended(run.id)


async def runs_wait(load: Load) -> None:
    for name, questions in (("asking-twice", 2), ("stopping", 1)):
        triggered = await load.client.trigger_run(f"leaks-{name}", campaign_id=load.campaign)
        run = await load.waiting(triggered.id)
        assert len(run.waiting_for) == questions
        with refused(InvalidArgument):
            await load.client.resume_run(run.id, values={"f" * 32: True})
        if questions == 2:
            await load.client.resume_run(run.id, values={run.waiting_for[0].id: None})
            await load.waiting(run.id)
        await load.ask("POST", f"/runs/{run.id}/resume", 200, json={"value": [1, None]})
        run = await load.ended(run.id)
        assert run.status == RunStatus.RUN_STATUS_COMPLETED, run
        with refused(RunNotWaiting):
            await load.client.resume_run(run.id, True)
    run = await load.waiting((await load.client.trigger_run("leaks-asking")).id)
    await load.client.cancel_run(run.id)
    await load.ask("POST", f"/runs/{run.id}/resume", 409, json={"value": None})


async def runs_time_out(load: Load) -> None:
    for name in ("slow-step", "slow-thread", "slow-run"):
        payload = {"gates": load.arrivals.path}
        run = await load.client.trigger_run(f"leaks-{name}", trigger_payload=payload)
        run = await load.ended(run.id)
        load.free.add(run.id)
        assert run.status == RunStatus.RUN_STATUS_FAILED, run
        load.hit(f"{run.error.code} in {name}")


async def queued_runs_are_cancelled(load: Load) -> None:
    run = await load.client.trigger_run("leaks-unserved", campaign_id=load.campaign)
    for _ in range(2):
        await load.client.cancel_run(run.id)
        await load.client.cancel_run(run.id, idempotency_key=str(uuid.uuid4()))
        await load.client.retry_run(run.id)
    assert (await load.ask("DELETE", f"/runs/{run.id}", 200))["status"] == "cancelled"


async def running_runs_are_cancelled(load: Load) -> None:
    for retry in (True, False):
        payload = wide_payload(load.arrivals)
        run = await load.client.trigger_run("leaks-wide", trigger_payload=payload)
        await load.arrived(run.id)
        await load.client.cancel_run(run.id)
        load.free.add(run.id)
        if retry:
            await load.client.retry_run(run.id)
            ended = await load.ended(run.id)
            assert ended.status == RunStatus.RUN_STATUS_COMPLETED, ended


async def deaf_runs_are_cancelled(load: Load) -> None:
    payload = {"gates": load.arrivals.path}
    run = await load.client.trigger_run("leaks-deaf", trigger_payload=payload)
    await load.arrived(run.id)
    await load.client.cancel_run(run.id)
    # Longer than the worker waits for it, so that it is left behind.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(load.over.wait(), 4)
    load.free.add(run.id)


async def lists(load: Load) -> None:
    path = f"/campaigns/{load.campaign}/runs"
    for status in ((), ("failed",), ("failed", "cancelled")):
        seen = [each.id async for each in pages(load, status)]
        assert len(seen) == len(set(seen))
    for offset in range(0, 60, 20):
        await load.client.list_campaign_runs(load.campaign, limit=20, offset=offset)
        page = await load.ask("GET", f"{path}?limit=20&offset={offset}&status=failed", 200)
    if page["nextPageToken"] is not None:
        await load.ask("GET", path, 200, params={"status": "failed", "pageToken": page["nextPageToken"]})
    await load.client.get_campaign(load.campaign)
    for each in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        await load.rest.get(each)


async def pages(load: Load, status: tuple[str, ...]) -> AsyncIterator[Any]:
    token = None
    while True:
        page = await load.client.list_campaign_runs(load.campaign, status=status, limit=50, page_token=token)
        for run in page.runs:
            yield run
        if not page.HasField("next_page_token"):
            return
        token = page.next_page_token


async def downloads(load: Load) -> None:
    assert len((await load.client.download_artifact(load.large)).data) == LARGE
    answer = await load.rest.get(f"/artifacts/{load.large}")
    assert (answer.status_code, len(answer.content)) in ((200, LARGE), (429, len(answer.content)))
    await load.rest.head(f"/artifacts/{load.large}")


async def downloads_are_abandoned(load: Load) -> None:
    for way in ("cancelled", "forgotten", "channel closed"):
        async with grpc.aio.insecure_channel(load.stack.grpc_address) as channel:
            call = load.download(channel, load.large, load.token)
            for _ in range(3):
                await call.read()
            if way == "cancelled":
                call.cancel()
            elif way == "forgotten":
                del call


async def downloads_are_abandoned_over_rest(load: Load) -> None:
    async with load.rest.stream("GET", f"/artifacts/{load.large}") as answer:
        parts = answer.aiter_raw()
        await anext(parts)
        await parts.aclose()  # type: ignore[attr-defined]
    for how in ("at once", "after some", "frozen"):
        reader, writer = await load.connect()
        writer.write(load.head("GET", f"/artifacts/{load.large}"))
        if how != "at once":
            await reader.readexactly(4096)
        if how == "frozen":
            await asyncio.sleep(0.5)
        writer.transport.abort()


async def too_many_downloads(load: Load) -> None:
    async with grpc.aio.insecure_channel(load.stack.grpc_address) as channel:
        calls = [load.download(channel, load.greedy_large, load.greedy_token) for _ in range(20)]
        for each in await asyncio.gather(*(call.read() for call in calls), return_exceptions=True):
            if isinstance(each, grpc.aio.AioRpcError):
                assert each.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, each
                load.hit("too many downloads refused")


async def wrong_input(load: Load) -> None:
    for call in (
        load.client.get_run("nonsense"),
        load.client.list_campaign_runs(load.campaign, limit=0),
        load.client.list_campaign_runs(load.campaign, page_token="nonsense"),
        load.client.trigger_run("no such workflow"),
        load.client.trigger_run("leaks-bundling", context={"campaignId": 5}),
        load.client.download_artifact("nonsense"),
    ):
        with refused(InvalidArgument):
            await call
    with refused(RunNotFound):
        await load.client.get_run(uuid.uuid4())
    with refused(ArtifactNotFound):
        await load.client.download_artifact(uuid.uuid4())
    async with grpc.aio.insecure_channel(load.stack.grpc_address) as channel:
        garbage: Any = channel.unary_unary("/runengine.v1.RunService/GetRun")
        nowhere: Any = channel.unary_unary("/runengine.v1.RunService/None")
        for token in (load.token, "nonsense"):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await garbage(b"\xff\xff\xff", metadata=bearer(token))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await nowhere(b"", metadata=bearer(load.token))


async def wrong_input_over_rest(load: Load) -> None:
    runs = f"/campaigns/{load.campaign}/runs"
    for method, path, status, body in (
        ("POST", "/runs", 400, b"{"),
        ("POST", "/runs", 400, b'{"workflowName": "leaks-bundling", "unknown": 1}'),
        ("POST", "/runs", 400, b'{"workflowName": "leaks-bundling", "triggerPayload": {"a": NaN}}'),
        ("POST", "/runs", 413, b'{"workflowName": "' + bytes(300_000).replace(b"\0", b"x") + b'"}'),
        ("GET", "/runs/nonsense", 400, b""),
        ("GET", f"/runs/{uuid.uuid4()}", 404, b""),
        ("GET", f"{runs}?limit=101", 400, b""),
        ("GET", f"{runs}?status=odd", 400, b""),
        ("GET", f"{runs}?pageToken=nonsense", 400, b""),
        ("GET", "/nowhere", 404, b""),
        ("PUT", "/runs", 405, b""),
    ):
        headers = {"content-type": "application/json"} if body else None
        await load.ask(method, path, status, content=body, headers=headers)
    reader, writer = await load.connect()
    writer.write(b"This is not HTTP\r\n\r\n")
    await reader.read()
    writer.close()


async def ids_of_other_tenants(load: Load) -> None:
    run = await load.client.trigger_run("leaks-unserved")
    for name in ("get_run", "list_run_steps", "list_run_events", "cancel_run", "retry_run"):
        with refused(RunNotFound):
            await getattr(load.other, name)(run.id)
    with refused(CampaignNotFound):
        await load.other.get_campaign(load.campaign)
    with refused(ArtifactNotFound):
        await load.other.download_artifact(load.large)
    assert (await load.other.list_campaign_runs(load.campaign)).total == 0
    async with load.stack.rest(load.others_token) as rest:
        for path in (f"/runs/{run.id}", f"/campaigns/{load.campaign}", f"/artifacts/{load.large}"):
            assert (await rest.get(path)).status_code in (404, 429)
    await load.client.cancel_run(run.id)


async def bad_tokens(load: Load) -> None:
    expired = development.sign(load.stack.state_dir, load.organisation, "user_test", ttl_seconds=-60)
    for token in (expired, "nonsense", load.token + "x"):
        async with load.stack.client(token) as client:
            for call in (
                Patient(client, load).get_run(uuid.uuid4()),
                client.download_artifact(load.large),
            ):
                with refused(Unauthenticated):
                    await call
        headers = {"authorization": f"Bearer {token}"}
        await load.ask("GET", f"/runs/{uuid.uuid4()}", 401, headers=headers)
        await load.ask("GET", f"/artifacts/{load.large}", 401, headers=headers)
        await load.ask("POST", "/runs", 401, headers=headers, content=b"{")


STORIES = (
    runs_complete,
    runs_complete_over_rest,
    runs_fail,
    runs_wait,
    runs_time_out,
    queued_runs_are_cancelled,
    running_runs_are_cancelled,
    deaf_runs_are_cancelled,
    lists,
    downloads,
    downloads_are_abandoned,
    downloads_are_abandoned_over_rest,
    too_many_downloads,
    runs_are_watched,
    watches_are_abandoned,
    wrong_input,
    wrong_input_over_rest,
    ids_of_other_tenants,
    bad_tokens,
    tiny_deadlines,
    clients_vanish,
    clients_vanish_over_rest,
    cut_off_in_a_statement,
    too_many_at_once,
)
