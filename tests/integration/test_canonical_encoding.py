"""What is stored and returned is, byte for byte, what the canonical protobuf encoder writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runengine.v1.run_pb2 import Run, RunError, RunStatus
from runengine.v1.run_service_pb2 import GetRunResponse, ListCampaignRunsResponse, TriggerRunRequest
from runengine_server.domain.encoded_run import encode_error, encode_input
from runengine_server.domain.run import Failure, NewRun
from runengine_server.domain.run import RunStatus as Status

from tests.support.own_worker import State, chain, events_of, serving

EXAMPLES = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Whole milliseconds of the years 1970 to 9999, many of them where a varint gets longer.
_LAST_MS = 253402300799_999
_EDGES = [
    second * 1000 + ms
    for second in (0, 1, 127, 128, 2**14, 2**21, 2**28 - 1, 2**28, 2**35 - 1, 2**35, 253402300799)
    for ms in (0, 1, 2, 3, 268, 269, 999)
]
times = (
    st.sampled_from(_EDGES) | st.integers(0, _LAST_MS) | st.integers(1_700_000_000_000, 1_900_000_000_000)
).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))
attempts = st.integers(0, 300) | st.integers(1, 2**31 - 1)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=400)
errors = st.builds(
    Failure, words, words | st.just("x" * 20_000), st.none() | st.just("") | words, attempts, st.booleans()
)
# One member at most: the order of several is that of a hash table, and of no encoder's choice.
structs = st.dictionaries(
    words,
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | words,
        lambda each: st.lists(each, max_size=3) | st.dictionaries(words, each, max_size=1),
        max_leaves=6,
    ),
    max_size=1,
).map(lambda given: ParseDict(given, Struct()))


@EXAMPLES
@given(
    st.uuids(),
    st.builds(
        TriggerRunRequest,
        workflow_name=words.filter(bool) | st.sampled_from(["x" * 127, "x" * 128, "ä" * 64, "x" * 2_600]),
        trigger_payload=st.none() | structs | st.just(ParseDict({"large": "x" * 20_000}, Struct())),
        context=st.none() | structs,
        priority=st.just(0) | st.integers(-100, 100),
    ),
    st.sampled_from(Status),
    attempts,
    st.none() | errors,
    st.tuples(st.none() | times, st.none() | times, times, times),
)
async def test_a_stored_run_and_its_response_are_canonical(
    database: asyncpg.Connection,
    run_id: UUID,
    request: TriggerRunRequest,
    status: Status,
    attempt: int,
    error: Failure | None,
    at: tuple[datetime | None, datetime | None, datetime, datetime],
) -> None:
    encoded_input, encoded_error = encode_input(NewRun(run_id, request)), error and encode_error(error)
    row = await database.fetchrow(
        """SELECT public.encoded_response($1, state, $2::smallint), state,
            public.encoded_bytes('\\x0a', $1 || state)
        FROM public.encoded_run_state($3, $4, $5, $6, $7, $8, $9) AS state""",
        encoded_input, request.priority, status, attempt, encoded_error, *at,
    )  # fmt: skip

    assert row is not None
    response, state, wrapped = row
    run = GetRunResponse.FromString(response).run
    assert (
        run == Run.FromString(encoded_input + state) == expected(run_id, request, status, attempt, error, at)
    )
    assert response == GetRunResponse(run=run).SerializeToString()
    assert state == Run.FromString(state).SerializeToString()
    # What a server of the version before makes of the same row: its fields in two parts, all else canonical.
    assert len(wrapped) == len(response)
    assert GetRunResponse.FromString(wrapped).run == run


def timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    encoded = Timestamp()
    encoded.FromDatetime(at)
    return encoded


def expected(
    run_id: UUID,
    request: TriggerRunRequest,
    status: Status,
    attempt: int,
    error: Failure | None,
    at: tuple[datetime | None, ...],
) -> Run:
    """The run as protobuf's own types say it."""
    started, completed, created, updated = map(timestamp, at)
    run = Run(
        id=str(run_id), status=RunStatus.Value(f"RUN_STATUS_{status.name}"), attempt=attempt,
        **{field.name: value for field, value in request.ListFields()},
        created_at=created, updated_at=updated, started_at=started, completed_at=completed,
    )  # fmt: skip
    if at[0] and at[1]:
        run.duration_ms = (at[1] - at[0]) // timedelta(milliseconds=1)
    if error:
        run.error.CopyFrom(
            RunError(code=error.code, message=error.message, step_id=error.step_id, attempt=error.attempt,
                retryable=error.retryable)
        )  # fmt: skip
    return run


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**14, 2**21, 2**28, 2**35, 2**63 - 1, -1, -(2**63)])
async def test_a_number_of_any_size_is_the_shortest_varint(database: asyncpg.Connection, value: int) -> None:
    field = await database.fetchval("SELECT public.encoded_field(9, 0, $1)", value)
    assert field == Run(duration_ms=value).SerializeToString()


async def test_a_response_of_any_length_is_canonical(database: asyncpg.Connection) -> None:
    states = [
        await database.fetchval("SELECT public.encoded_run_state('queued', 1, NULL, NULL, NULL, $1, $1)", at)
        for at in (datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, 9, 30, 0, 269_000, tzinfo=UTC))
    ]
    lengths = [*range(1, 260), *range(2_020, 2_130), *range(2_250, 2_260)]
    payloads = [*range(1, 90), *range(1_950, 2_130), *range(16_200, 16_390)]
    news = [NewRun(uuid4(), TriggerRunRequest(workflow_name="x" * length)) for length in lengths]
    for length in payloads:
        payload = ParseDict({"": "x" * length}, Struct())
        news.append(NewRun(uuid4(), TriggerRunRequest(workflow_name="x", trigger_payload=payload)))
    rows = await database.fetch(
        """SELECT public.encoded_response(input, state, 0::smallint)
        FROM unnest($1::bytea[]) AS input, unnest($2::bytea[]) AS state""",
        [encode_input(new) for new in news], states,
    )  # fmt: skip
    assert len(rows) == len(news) * 2
    for (response,) in rows:
        assert response == GetRunResponse.FromString(response).SerializeToString()


async def test_a_page_and_the_errors_of_events_are_canonical(database_url: str) -> None:
    campaign_id = uuid4()

    async def work(state: State) -> State:
        if state.get("fail"):
            raise ValueError("naïve")
        return {}

    async with serving(database_url, chain(work=work)) as engine:
        for payload in ({"n": 0}, {"fail": True}):
            await engine.trigger(payload, campaign_id)
            await engine.process(await engine.claim())
        await engine.cancel(await engine.trigger({}, campaign_id))
        await engine.trigger({"seen": []}, campaign_id, priority=100)
        await engine.claim()
        await engine.trigger(None, campaign_id, priority=-100)
        page = await engine.runs.list_of_campaign(campaign_id, [], 20, 0, None)
        runs = ListCampaignRunsResponse.FromString(page.runs)
        assert {run.status for run in runs.runs} == {1, 2, 3, 4, 5}
        assert page.runs == runs.SerializeToString()
        events = [event for run in runs.runs for event in await events_of(engine.runs, UUID(run.id))]
        (error,) = (event.error for event in events if event.error is not None)
        assert error == RunError.FromString(error).SerializeToString()
