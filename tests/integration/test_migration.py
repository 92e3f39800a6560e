"""A database of an earlier version keeps what is in it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from runengine.v1.run_pb2 import RunError
from runengine_server.domain.run import Failure, RunStatus
from runengine_server.repositories.database import Database
from runengine_server.repositories.migrations.migrate import migrate
from runengine_server.repositories.run_repository import RunRepository

from tests.integration.harness import run_of

ERROR = {
    "code": "STEP_FAILED",
    "message": "ValueError: naïve",
    "step_id": None,
    "attempt": 2,
    "retryable": True,
}


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
        before.setattr("runengine_server.repositories.migrations.migrate.FUNCTIONS", ())
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
        events = await runs.list_events(run_id)
        assert events is not None
        assert [event.error and RunError.FromString(event.error).message for event in events] == [
            "ValueError: naïve" if status == "failed" else None
        ]
    page = await runs.list_of_campaign(campaign_id, [], 20, 0, None)
    assert len(page.runs) > 0
    await database.close()
