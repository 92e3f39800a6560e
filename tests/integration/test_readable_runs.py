"""The view readable_runs shows people what is stored encoded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import orjson
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runengine_server.domain.encoded_run import encode_error
from runengine_server.domain.run import Failure

from tests.support.own_worker import Engine, chain, serving

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
    | words,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(words, each, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(words, values, max_size=5))
async def test_a_struct_is_decoded_as_protobuf_decodes_it(
    database: asyncpg.Connection, value: dict[str, object]
) -> None:
    struct = ParseDict(value, Struct())
    decoded = await database.fetchval("SELECT public.decoded_struct($1)::text", struct.SerializeToString())
    # JSON's numbers are decimal; what is no integer to JSON may be one to Python.
    assert json.loads(decoded, parse_int=float) == MessageToDict(struct)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chain(one=lambda state: {})) as engine:
        yield engine


async def test_the_campaign_of_a_run_is_found_as_the_contract_words_it(
    engine: Engine, database: asyncpg.Connection
) -> None:
    campaign_id = uuid4()
    run_id = await engine.trigger({"brief": {"n": 3}}, campaign_id, {"by": "naïve"})
    bare = await engine.trigger()
    row = await database.fetchrow(
        "SELECT * FROM readable_runs WHERE context->>'campaignId' = $1", str(campaign_id)
    )
    assert row is not None
    assert (row["id"], row["tenant_id"], row["status"]) == (run_id, engine.tenant_id, "queued")
    assert orjson.loads(row["trigger_payload"]) == {"brief": {"n": 3}}
    assert orjson.loads(row["context"]) == {"campaignId": str(campaign_id), "by": "naïve"}
    row = await database.fetchrow("SELECT * FROM readable_runs WHERE id = $1", bare)
    assert row is not None
    assert (row["trigger_payload"], row["context"], row["error"], row["duration_ms"]) == (None,) * 4


async def test_an_error_is_shown_with_the_keys_of_rest(database: asyncpg.Connection) -> None:
    error = Failure("STEP_FAILED", "ValueError: naïve", None, 300, True)
    decoded = await database.fetchval("SELECT public.decoded_error($1)::text", encode_error(error))
    assert orjson.loads(decoded) == {
        "code": "STEP_FAILED",
        "message": "ValueError: naïve",
        "stepId": None,
        "attempt": 300,
        "retryable": True,
    }


async def test_a_tenant_sees_its_own_runs_alone_and_the_owner_all_when_it_asks(
    engine: Engine, database_url: str
) -> None:
    run_id = await engine.trigger()
    count = f"SELECT count(*) AS n FROM readable_runs WHERE id = '{run_id}'"

    async def seen_by(role: str, setting: str) -> int:
        connection = await asyncpg.connect(database_url.replace("runengine_app@", f"{role}@"))
        try:
            await connection.execute(f"SET {setting}")
            return int(await connection.fetchval(count))
        finally:
            await connection.close()

    assert await seen_by("runengine_app", f"runengine.tenant = '{engine.tenant_id}'") == 1
    assert await seen_by("runengine_app", "runengine.tenant = 'org_other'") == 0
    assert await seen_by("runengine_app", "runengine.all_tenants = 'on'") == 0
    assert await seen_by("runengine_owner", "runengine.all_tenants = 'off'") == 0
    assert await seen_by("runengine_owner", "runengine.all_tenants = 'on'") == 1
