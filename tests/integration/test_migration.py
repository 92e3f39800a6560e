"""A database of an earlier version keeps what is in it."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest
from alembic import command
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from runengine.v1.run_pb2 import Run, RunError
from runengine.v1.run_service_pb2 import GetRunResponse, TriggerRunRequest
from runengine_server.database import functions
from runengine_server.database.database import Database
from runengine_server.database.migrations.migrate import migrate
from runengine_server.domain.encoded_run import encode_input
from runengine_server.domain.run import Failure, NewRun, RunStatus
from runengine_server.repositories.run_repository import IdempotencyKey, Outcome, RunRepository

from tests.support.own_worker import ACTOR, events_of, run_of, until

ERROR = {
    "code": "STEP_FAILED",
    "message": "ValueError: naïve",
    "step_id": None,
    "attempt": 2,
    "retryable": True,
}


async def nothing(*_: object) -> None:
    """In place of what today's migrate does after the migrations."""


@pytest.fixture
async def urls() -> AsyncIterator[tuple[str, str]]:
    """The owner's and the application's of an empty database."""
    name, host = f"old_{uuid4().hex}", os.environ["RUNENGINE_TEST_POSTGRES"]
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} OWNER runengine_owner")
    at = f"/{name}?host={quote(host, safe='%')}"
    yield f"postgresql://runengine_owner@{at}", f"postgresql://runengine_app@{at}"
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_runs_stored_before_they_were_kept_encoded_are_seen_as_they_were(
    urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_url, url = urls
    upgrade = command.upgrade
    with monkeypatch.context() as before:
        before.setattr(command, "upgrade", lambda config, _: upgrade(config, "0002"))
        before.setattr(functions, "install", nothing)
        await migrate(owner_url, url)
    payload, campaign_id = ParseDict({"brief": {"n": 3}}, Struct()), uuid4()
    ids = {status: uuid4() for status in ("queued", "failed", "completed")}
    admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
    for status, run_id in ids.items():
        await admin.execute(
            """INSERT INTO runs (tenant_id, id, workflow_name, status, attempt, trigger_payload, context,
                campaign_id, error, started_at, completed_at, created_at, updated_at)
            VALUES ('org_old', $1, 'old', $2, 2, $3, NULL, $4, $5, '2026-01-31T09:30:00.123Z',
                CASE $2 WHEN 'queued' THEN NULL ELSE '2026-01-31T09:31:00.124Z'::timestamptz END,
                '2026-01-31T09:29:59.999Z', '2026-01-31T09:31:00.124Z')""",
            run_id, status, payload.SerializeToString(), campaign_id,
            json.dumps(ERROR) if status == "failed" else None,
        )  # fmt: skip
        await admin.execute(
            """INSERT INTO run_events (tenant_id, run_id, at, to_status, attempt, actor, reason, error)
            VALUES ('org_old', $1, now(), $2, 2, 'worker:old', 'OLD', $3)""",
            run_id, status, json.dumps(ERROR) if status == "failed" else None,
        )  # fmt: skip
    await admin.close()

    await migrate(owner_url, url)

    database = Database(url, 2)
    await database.open()
    assert await database.check() is None
    runs = RunRepository(database.tenant("org_old"))
    for status, run_id in ids.items():
        run = run_of(await runs.get(run_id) or b"")
        assert (run.id, run.status, run.attempt, run.priority) == (run_id, RunStatus(status), 2, 0)
        assert (run.trigger_payload, run.context) == ({"brief": {"n": 3}}, None)
        assert run.error == (Failure(**ERROR) if status == "failed" else None)  # type: ignore[arg-type]
        assert run.started_at is not None
        assert run.started_at.isoformat() == "2026-01-31T09:30:00.123000+00:00"
        assert run.created_at.isoformat() == "2026-01-31T09:29:59.999000+00:00"
        events = await events_of(runs, run_id)
        assert [event.error and RunError.FromString(event.error).message for event in events] == [
            "ValueError: naïve" if status == "failed" else None
        ]
    page = await runs.list_of_campaign(campaign_id, [], 20, 0, None)
    assert len(page.runs) > 0
    await database.close()


# What the server of schema 0004 asks for a run, as of a caller who gets it.
_BEFORE = r"""
CREATE FUNCTION get_run_before(text, uuid) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('runengine.tenant', $1, true);
    RETURN (SELECT encoded_bytes('\x0a', encoded_input || encoded_state) FROM runs
        WHERE tenant_id = $1 AND id = $2);
END $$;
CREATE FUNCTION trigger_run_before(text, uuid, text, bytea, int) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE answer bytea;
BEGIN
    PERFORM set_config('runengine.tenant', $1, true);
    WITH run AS (
        INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, priority) VALUES ($1, $2, $3, $4, $5)
        RETURNING encoded_input, encoded_state
    ) SELECT encoded_bytes('\x0a', encoded_input || encoded_state) INTO answer FROM run;
    INSERT INTO idempotency_keys (tenant_id, key, fingerprint, response) VALUES ($1, $2::text, '', answer);
    RETURN answer;
END $$
"""
# One member in each object, because the order of several is that of a hash table.
PAYLOAD: dict[str, Any] = {"brief": {"list": [None, 0, "", {}]}}
_PRIORITIES = (-100, -1, 0, 1, 100)


async def test_runs_stored_with_longer_varints_are_encoded_again_while_servers_go_on(
    urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_url, url = urls
    upgrade = command.upgrade

    async def migrate_to(revision: str) -> None:
        with monkeypatch.context() as before:
            before.setattr(command, "upgrade", lambda config, _: upgrade(config, revision))
            before.setattr(functions, "install", nothing)
            await migrate(owner_url, url)

    payload = ParseDict(PAYLOAD, Struct())
    await migrate_to("0003")
    admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
    await admin.execute(
        """INSERT INTO runs (tenant_id, id, workflow_name, status, attempt, priority, trigger_payload,
            context, error, started_at, completed_at, lease_expires_at)
        SELECT 'org_old', gen_random_uuid(), repeat('ä', 1 + n % 200), status, 1 + n % 300,
            ($1::int[])[1 + n % 5], $2, CASE WHEN n % 2 = 0 THEN ''::bytea END,
            CASE status WHEN 'failed' THEN $3::jsonb || jsonb_build_object('retryable', n % 2 = 0,
                'step_id', CASE WHEN n % 4 < 2 THEN '' END, 'attempt', n % 3) END,
            CASE WHEN status <> 'queued' THEN now_ms() END,
            CASE WHEN status NOT IN ('queued', 'running') THEN now_ms() + n * interval '17 minutes' END,
            CASE status WHEN 'running' THEN now() END
        FROM generate_series(1, 1500) AS n, LATERAL (SELECT ($4::text[])[1 + n / 5 % 5] AS status) AS each""",
        _PRIORITIES, payload.SerializeToString(), json.dumps(ERROR), list(RunStatus),
    )  # fmt: skip
    await admin.execute(
        """INSERT INTO run_events (tenant_id, run_id, at, to_status, attempt, actor, reason, error)
        SELECT tenant_id, id, now(), status, attempt, 'worker:old', 'OLD', error FROM runs"""
    )
    await migrate_to("0004")
    await admin.execute(_BEFORE)
    application = await asyncpg.connect(url)

    async def trigger(priority: int) -> UUID:
        run_id = uuid4()
        request = TriggerRunRequest(workflow_name="old", trigger_payload=payload, priority=priority)
        response = await application.fetchval(
            "SELECT trigger_run_before('org_old', $1, 'old', $2, $3)",
            run_id,
            encode_input(NewRun(run_id, request)),
            priority,
        )
        assert run_of(response).id == run_id
        return run_id

    old = [await trigger(priority) for priority in _PRIORITIES]
    # A transaction of a server of that version is open while the functions are replaced.
    transaction = application.transaction()
    await transaction.start()
    old.append(await trigger(7))
    migrating = asyncio.create_task(migrate(owner_url, url))
    while not await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'runs'::regclass)"
    ):
        assert not migrating.done()
    await transaction.commit()
    await migrating
    # And it goes on afterwards.
    new = [await trigger(priority) for priority in _PRIORITIES]

    rows = await admin.fetch("SELECT id, encoded_input, encoded_state, error FROM runs")
    assert len(rows) == 1500 + len(old) + len(new)
    for row in rows:
        for encoded in (row["encoded_input"], row["encoded_state"]):
            assert encoded == _again(Run, encoded)
        assert row["error"] is None or row["error"] == _again(RunError, row["error"])
    for (error,) in await admin.fetch("SELECT error FROM run_events WHERE error IS NOT NULL"):
        assert error == _again(RunError, error)
    database = Database(url, 2)
    await database.open()
    runs, priorities = RunRepository(database.tenant("org_old")), Counter[int]()
    for row in rows:
        response = await runs.get(row["id"]) or b""
        assert response == _again(GetRunResponse, response)
        before = await application.fetchval("SELECT get_run_before('org_old', $1)", row["id"])
        assert run_of(before) == run_of(response)
        assert run_of(response).trigger_payload == PAYLOAD
        priorities[run_of(response).priority] += 1
    assert priorities == {**dict.fromkeys(_PRIORITIES, 302), 7: 1}
    # A key that the other server stored an answer under.
    for run_id in old + new:
        key = IdempotencyKey(str(run_id), b"")
        replayed = await runs.cancel(run_id, ACTOR, key)
        assert replayed.outcome is Outcome.REPLAYED
        assert replayed.response == _again(GetRunResponse, replayed.response)
        assert run_of(replayed.response).status is RunStatus.QUEUED
    await database.close()
    await application.close()
    await admin.close()


def _again(message: type[Message], encoded: bytes) -> bytes:
    """What protobuf's encoder makes of what its decoder reads."""
    return message.FromString(encoded).SerializeToString()


async def test_functions_of_a_version_are_pruned_a_day_after_a_server_last_used_them(
    urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = []
    for change in ("", "-- Another.\n", "-- One more.\n"):
        monkeypatch.setitem(functions.FILES, "runs.sql", functions.FILES["runs.sql"] + change)
        functions.schema.cache_clear()
        assert await migrate(*urls) == []
        versions.append(functions.schema())
    old, young, current = versions
    owner = await asyncpg.connect(urls[0])
    age = "UPDATE public.function_schemas SET used_at = now() - $1::text::interval WHERE name = $2"
    await owner.execute(age, "25 hours", old)
    await owner.execute(age, "23 hours", young)
    await owner.execute(age, "25 hours", current)
    assert await migrate(*urls, prune=True) == [old]
    left = await owner.fetch("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'runengine_%'")
    assert {row["nspname"] for row in left} == {young, current}
    await owner.close()
    monkeypatch.undo()
    functions.schema.cache_clear()


@pytest.mark.parametrize(
    "tables",
    [("runs", "run_events"), ("run_events", "runs")],
    ids=["in the order of writes", "the other way round"],
)
async def test_the_drop_of_a_foreign_key_deadlocks_with_nobody(
    urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tables: tuple[str, str]
) -> None:
    owner_url, url = urls
    upgrade = command.upgrade
    with monkeypatch.context() as before:
        before.setattr(command, "upgrade", lambda config, _: upgrade(config, "0025"))
        before.setattr(functions, "install", nothing)
        await migrate(owner_url, url)
    other, admin = [await asyncpg.connect(url.replace("runengine_app@", "postgres@")) for _ in range(2)]
    waiting = """SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
        WHERE datname = current_database() AND NOT granted"""
    async with other.transaction():
        await other.execute(f"LOCK TABLE {tables[0]} IN ROW EXCLUSIVE MODE")
        migrating = asyncio.create_task(migrate(owner_url, url))
        await until(lambda: admin.fetchval(waiting), lambda count: count > 0)
        await other.execute(f"LOCK TABLE {tables[1]} IN ROW EXCLUSIVE MODE")
    await migrating
    assert not await admin.fetch(
        "SELECT FROM pg_constraint WHERE conrelid = 'run_events'::regclass AND contype = 'f'"
    )
    await other.close()
    await admin.close()
