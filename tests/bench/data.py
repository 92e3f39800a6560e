"""What is listed, triggered and claimed: the same payload and context everywhere, and rows by SQL in bulk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from string import ascii_letters
from typing import Any
from uuid import UUID

import asyncpg
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from runengine.v1.run_service_pb2 import TriggerRunRequest

# What those runs are of that `queue_runs` stores.
QUEUED = "queued"

PAYLOAD_BYTES, CONTEXT_BYTES = 350, 120

PAYLOAD: dict[str, Any] = {
    "product": {"name": "Solar Kettle", "description": "Boils a litre in nine minutes, far from any socket."},
    "audience": "campers and van dwellers",
    "channels": ["email", "instagram", "linkedin"],
    "tone": "friendly",
    "offer": "20 % off until Sunday",
    "locale": "en",
    "brand": {"primary": "#0f766e", "accent": "#f59e0b"},
    "budget": 1250,
    "approved": True,
}
PAYLOAD["note"] = "x" * (PAYLOAD_BYTES - len(json.dumps(PAYLOAD | {"note": ""})))


def context(campaign_id: UUID) -> dict[str, Any]:
    """The context of a run of the campaign."""
    given = {"campaignId": str(campaign_id), "source": "bench", "requestedBy": ""}
    return given | {"requestedBy": "u" * (CONTEXT_BYTES - len(json.dumps(given)))}


# The same with a large value in the state, which hardly compresses.
STATE_BYTES = 14 * 1024
LARGE_PAYLOAD = PAYLOAD | {"product": "".join(Random(0).choices(ascii_letters, k=STATE_BYTES))}


def trigger_request(workflow: str, campaign_id: UUID, payload: dict[str, Any] = PAYLOAD) -> bytes:
    """An encoded TriggerRunRequest."""
    return TriggerRunRequest(
        workflow_name=workflow,
        trigger_payload=ParseDict(payload, Struct()),
        context=ParseDict(context(campaign_id), Struct()),
    ).SerializeToString()


async def run_columns(database: asyncpg.Connection) -> list[str]:
    """The columns of `runs` that are stored as they are given."""
    rows = await database.fetch(
        """SELECT attname FROM pg_attribute
        WHERE attrelid = 'runs'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"""
    )
    return [row["attname"] for row in rows]


async def _copy(database: asyncpg.Connection, run_id: UUID, count: int, **columns: str) -> None:
    """Rows like that of the run, except for `columns`, which are SQL over the number n from 1.

    Whatever else the table has is copied, so that the schema may change; what a column encodes of the
    run's id stays that run's. They have no history: nothing that is measured on these rows reads it.
    """
    names = await run_columns(database)
    values = [columns.get(name, f"run.{name}") for name in names]
    await database.execute(
        f"""INSERT INTO runs ({", ".join(names)})
        SELECT {", ".join(values)} FROM runs AS run, generate_series(1, {count}) AS n
        WHERE run.id = '{run_id}'"""
    )


async def fill_campaign(database: asyncpg.Connection, run_id: UUID, campaign_id: UUID, count: int) -> None:
    """Copies of a completed run in a campaign, a millisecond apart, the newest first, and their counts."""
    at = "date_trunc('milliseconds', run.created_at) - n * interval '1 millisecond'"
    await _copy(
        database, run_id, count, id="uuidv7(- n * interval '1 millisecond')",
        campaign_id=f"'{campaign_id}'::uuid", created_at=at, queued_at=at, updated_at=at, started_at=at,
        completed_at=at,
    )  # fmt: skip
    await database.execute(
        """INSERT INTO campaign_run_counts (tenant_id, campaign_id, slot, completed)
        SELECT tenant_id, campaign_id, get_byte(uuid_send(id), 15) % 16 AS slot, count(*) FROM runs
        WHERE campaign_id = $1 GROUP BY tenant_id, campaign_id, slot""",
        campaign_id,
    )
    await settle(database)


async def queue_runs(database: asyncpg.Connection, run_id: UUID, tenants: Sequence[str]) -> None:
    """A run of the workflow QUEUED for each of the tenants, else like the given one."""
    await _copy(
        database,
        run_id,
        len(tenants),
        id="uuidv7()",
        workflow_name=f"'{QUEUED}'",
        tenant_id=f"('{{{','.join(tenants)}}}'::text[])[n]",
        created_at="now_ms()",
        queued_at="now_ms()",
        updated_at="now_ms()",
    )


async def settle(database: asyncpg.Connection) -> None:
    """Leaves nothing to be done later by PostgreSQL, in the middle of a measurement."""
    await database.execute("VACUUM ANALYZE")
    await database.execute("CHECKPOINT")
