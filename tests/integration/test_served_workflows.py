"""A run of a workflow that no worker serves is accepted, and everybody is told that it waits."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from runengine_client import RunEngineClient
from runengine_server.database.database import Database
from runengine_server.repositories.workflow_repository import WorkflowRepository
from runengine_server.rpc import served_workflows
from runengine_server.rpc.served_workflows import ServedWorkflows

from tests.support.own_worker import Engine, Ran, chain, serving, until
from tests.support.stack import Stack, environment

SECONDS = 30
COMING = {"WORKFLOWS": "tests.support.graphs:COMING", "LEASE_SECONDS": "1"}
NO_WORKER = (("runengine-workers", "0"),)


async def is_served(rest: httpx.AsyncClient, workflow: str, key: str | None = None) -> bool:
    """As a caller is told who triggers a run."""
    headers = {} if key is None else {"idempotency-key": key}
    response = await rest.post("/runs", json={"workflowName": workflow}, headers=headers)
    assert response.status_code == 201
    assert response.headers.get("runengine-workers") in (None, "0")
    return "runengine-workers" not in response.headers


async def until_served(rest: httpx.AsyncClient, workflow: str, served: bool) -> None:
    async with asyncio.timeout(SECONDS):
        while await is_served(rest, workflow) is not served:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_trigger_says_whether_a_worker_is_there(stack: Stack, rest: httpx.AsyncClient) -> None:
    (first,) = await stack.start("worker", **COMING)
    await until_served(rest, "comes-and-goes", True)
    await first.stop()
    await until_served(rest, "comes-and-goes", False)
    (second,) = await stack.start("worker", **COMING)
    await until_served(rest, "comes-and-goes", True)
    second.kill()
    await until_served(rest, "comes-and-goes", False)


async def test_a_worker_that_stopped_is_gone_at_once_and_a_killed_one_when_it_has_expired(
    stack: Stack, database: asyncpg.Connection
) -> None:
    async def there() -> list[asyncpg.Record]:
        return await database.fetch(
            "SELECT * FROM workflow_workers WHERE workflow_name = 'comes-and-goes'"
            " AND expires_at > statement_timestamp()"
        )

    (stopped, killed) = await stack.start("worker", "worker", **{**COMING, "LEASE_SECONDS": "3600"})
    assert len(await there()) == 2
    await stopped.stop()
    left = await there()
    assert [each["worker"].rpartition(":")[2] for each in left] == [str(killed.pid)]
    killed.kill()
    assert await there() == left
    # Two hours later, by the database's clock.
    await database.execute("UPDATE workflow_workers SET expires_at = expires_at - interval '2 hours'")
    assert await there() == []


async def test_a_workflow_without_a_worker_is_named_on_a_trigger_its_replay_and_a_retry(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    await until_served(rest, "unserved", False)
    told: list[str] = []
    for _ in range(2):
        run = await client.trigger_run(
            "unserved", idempotency_key="k", on_no_worker=lambda: told.append("trigger")
        )
    assert told == ["trigger"] * 2
    assert not await is_served(rest, "unserved", key="rest")
    replayed = await rest.post(
        "/runs", json={"workflowName": "unserved"}, headers={"idempotency-key": "rest"}
    )
    assert replayed.headers["idempotency-replayed"] == "true"
    assert replayed.headers["runengine-workers"] == "0"
    await client.cancel_run(run.id)
    retried = await rest.post(f"/runs/{run.id}/retry")
    assert retried.headers["runengine-workers"] == "0"


async def test_a_misspelt_workflow_is_answered_with_the_ones_that_there_are(rest: httpx.AsyncClient) -> None:
    await until_served(rest, "unserved", False)
    response = await rest.post("/runs", json={"workflowName": "unservd"})
    (violation,) = response.json()["violations"]
    assert (response.status_code, violation["field"]) == (400, "workflowName")
    assert " closest are unserved, " in violation["description"]


async def test_the_command_says_it_in_one_line_and_goes_on(
    stack: Stack, token: str, rest: httpx.AsyncClient
) -> None:
    await until_served(rest, "unserved", False)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runengine_client", "--json", "trigger", "unserved",
        env={**environment(TOKEN=token, GRPC_ADDRESS=stack.grpc_address), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0
    assert json.loads(out)["status"] == "queued"
    assert err.decode() == "no worker serves unserved at the moment: the run waits for one\n"


@asynccontextmanager
async def watched(engine: Engine) -> AsyncIterator[ServedWorkflows]:
    """What a `serve` knows, which has looked once."""
    served = ServedWorkflows(WorkflowRepository(engine.database))
    await served.refresh()
    yield served


def lines(capfd: pytest.CaptureFixture[str], workflow: str) -> list[tuple[str, str]]:
    """(level, event) of what was logged of the workflow since the last time."""
    from runengine_server import logs

    logs.flush()
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    return [(each["level"], each["event"]) for each in found if each.get("workflow") == workflow]


WAITS = ("warning", "runs wait for a worker: none serves their workflow")
AGAIN = ("info", "a worker serves the workflow again")


async def test_the_log_names_queued_runs_without_a_worker_once_a_change(
    database_url: str, database: asyncpg.Connection, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(served_workflows, "REFRESH_QUEUED_SECONDS", 0)
    async with serving(database_url, chain(one=Ran().node("one"))) as engine, watched(engine) as served:
        await engine.trigger()
        await served.refresh()
        assert served.metadata_for(engine.workflow) == ()
        assert lines(capfd, engine.workflow) == []
        for _ in range(2):
            await database.execute(
                "UPDATE workflow_workers SET expires_at = '2000-01-01' WHERE workflow_name = $1",
                engine.workflow,
            )
            await served.refresh()
            await served.refresh()
            assert lines(capfd, engine.workflow) == [WAITS]
            assert served.metadata_for(engine.workflow) == NO_WORKER
            await engine.queue.register_workflows()
            await served.refresh()
            await served.refresh()
            assert lines(capfd, engine.workflow) == [AGAIN]
            assert served.metadata_for(engine.workflow) == ()


async def test_the_log_names_triggers_without_a_worker_once_in_a_while(
    database_url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.queue.withdraw_workflows()
        async with watched(engine) as served:
            for _ in range(3):
                assert served.metadata_for(engine.workflow) == NO_WORKER
            assert lines(capfd, engine.workflow) == [WAITS]
            monkeypatch.setattr(served_workflows, "WARNING_SECONDS", 0)
            served.metadata_for(engine.workflow)
            assert lines(capfd, engine.workflow) == [WAITS]


async def test_no_workflow_is_called_unserved_before_it_is_known(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.queue.withdraw_workflows()
        served = ServedWorkflows(WorkflowRepository(engine.database))
        assert served.metadata_for(engine.workflow) == ()
        away = Database(database_url, 1)
        await away.open()
        await away.close()
        blind = ServedWorkflows(WorkflowRepository(away))
        await blind.refresh()
        assert blind.metadata_for(engine.workflow) == ()


async def test_a_stopping_worker_serves_nothing_any_more_before_its_runs_have_stopped(
    database_url: str,
) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def held(state: object) -> dict[str, object]:
        entered.set()
        await go.wait()
        return {}

    async with serving(database_url, chain(held=held)) as engine:
        workflows = WorkflowRepository(engine.database)

        async def workers() -> int:
            return next(
                each.workers for each in await workflows.served(False) if each.name == engine.workflow
            )

        async with engine.working(drain_seconds=SECONDS) as worker:
            await engine.trigger()
            await entered.wait()
            assert await workers() == 1
            worker.stop()
            await until(workers, lambda workers: workers == 0)
            go.set()


async def test_the_list_of_workflows_counts_workers_and_queued_runs(
    database_url: str, state_dir: Path, stack: Stack
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        for _ in range(3):
            await engine.trigger()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runengine_server", "workflows",
            env=environment(**stack.settings), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        rows = [line.split() for line in out.decode().splitlines()]
        assert rows[0] == ["workflow", "workers", "queued"]
        assert [engine.workflow, "1", "3"] in rows
        (unserved,) = [row for row in rows if row[0] == "unserved"]
        assert unserved[1] == "0"


async def test_workers_that_went_away_without_a_word_are_forgotten(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        gone = uuid4()
        await WorkflowRepository(engine.database).register(gone, "worker:gone", [engine.workflow], 0)
        await engine.queue.purge_expired()
        left = await database.fetch(
            "SELECT worker FROM workflow_workers WHERE workflow_name = $1", engine.workflow
        )
        assert [row["worker"] for row in left] == ["worker:test"]


async def test_a_worker_that_renews_its_registration_while_others_purge_keeps_it(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        late = uuid4()
        await WorkflowRepository(engine.database).register(late, "worker:late", [engine.workflow], 0)
        there = "SELECT count(*) FROM workflow_workers WHERE worker_id = $1"
        async with database.transaction(), asyncio.timeout(SECONDS):
            await database.execute(
                "UPDATE workflow_workers SET expires_at = now() + interval '1 hour' WHERE worker_id = $1",
                late,
            )
            await engine.queue.purge_expired()
        assert await database.fetchval(there, late) == 1
