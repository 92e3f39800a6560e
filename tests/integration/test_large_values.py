"""A large value of a run is stored once, whatever has it, and nothing shows that."""

from __future__ import annotations

import asyncio
import json
import operator
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy
from pydantic import BaseModel
from runengine.context import RunContext
from runengine.v1.run_service_pb2 import GetRunStepDataResponse
from runengine_server.domain.errors import StatementRefused
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.write_behind import (
    CutBytes,
    PendingWrites,
    StoredCheckpoint,
    WriteBehind,
)
from runengine_server.rpc.messages import step_data_response
from runengine_server.worker.graph import superseded
from runengine_server.worker.graph.large_values import LARGE_BYTES, LargeValues, least_size
from runengine_server.worker.graph.output import to_json
from runengine_server.worker.graph.stored_values import SERIALISER

from tests.support.chains import chain_of
from tests.support.own_worker import Engine, Graph, fork, happened, locked, serving, until
from tests.support.saver import METADATA, config_of, saver_of

ROUNDS = 6
WAITING = "SELECT count(*) FROM pg_locks WHERE pg_backend_pid() <> pid AND NOT granted"
# Which cannot be compressed much.
BRIEF = "".join(map(chr, Random(0).choices(range(33, 127), k=2 * LARGE_BYTES)))
HASH = bytes(16)
# One byte is before it.
REFS = bytes((0, 0, 0, 1)) + HASH


class State(TypedDict, total=False):
    brief: Any
    draft: Any
    rounds: Annotated[int, operator.add]


class Model(BaseModel):
    brief: str
    rounds: Annotated[int, operator.add] = 0


@dataclass
class Draft:
    before: Draft | None


def encode(value: Any) -> bytes:
    return SERIALISER.dumps_typed(value)[1]


def whole(cut: CutBytes, values: dict[bytes, bytes]) -> bytes:
    """What with_values of values.sql makes of it."""
    made, done = b"", 0
    for at in range(0, len(cut.refs or b""), 20):
        assert cut.refs is not None
        place = int.from_bytes(cut.refs[at : at + 4], "big")
        made += cut.rest[done:place] + values[cut.refs[at + 4 : at + 20]]
        done = place
    return made + cut.rest[done:]


def looping(node: Any, schema: type[Any] = State) -> Graph:
    graph: Graph = StateGraph(schema)
    graph.add_node("round", node)
    graph.add_edge(START, "round")
    graph.add_conditional_edges("round", lambda state: END if rounds_of(state) == ROUNDS else "round")
    return graph


def rounds_of(state: Any) -> int:
    return int(state.rounds if isinstance(state, Model) else state["rounds"])


async def sizes(database: asyncpg.Connection, run_id: UUID) -> tuple[int, int, int]:
    """Bytes of the values of a run: of its checkpoints, and of its steps; and of the rest of these inputs."""
    row = await database.fetchrow(
        """SELECT coalesce(sum(length(value)) FILTER (WHERE NOT of_steps), 0),
            coalesce(sum(length(value)) FILTER (WHERE of_steps), 0),
            (SELECT coalesce(sum(length(encoded_input)), 0) FROM run_steps WHERE run_id = $1)
        FROM run_values WHERE run_id = $1""",
        run_id,
    )
    assert row is not None
    return tuple(row)


async def inputs(engine: Engine, run_id: UUID) -> list[Any]:
    """What the run's steps were called with, in order."""
    found = []
    for step in await engine.runs.list_steps(run_id, None) or ():
        data = await engine.runs.get_step_data(run_id, step.id, None)
        assert data is not None
        found.append(json.loads(GetRunStepDataResponse.FromString(step_data_response(data)).input))
    return found


@pytest.mark.parametrize("schema", [State, Model])
async def test_a_value_that_stays_is_stored_once_and_every_step_shows_it(
    database_url: str, database: asyncpg.Connection, schema: type[Any]
) -> None:
    """Through a failure and a retry."""
    fails = [ROUNDS // 2]
    found: list[tuple[int, int, int]] = []

    async def node(state: Any, runtime: Runtime[RunContext]) -> dict[str, Any]:
        assert (state.brief if isinstance(state, Model) else state["brief"]) == BRIEF
        found.append(await sizes(database, runtime.context.run_id))
        if rounds_of(state) in fails:
            fails.clear()
            raise RuntimeError("Once.")
        return {"rounds": 1}

    async with serving(database_url, looping(node, schema)) as engine:
        run = await engine.execute({"brief": BRIEF, "rounds": 0})
        assert run.status is RunStatus.FAILED
        assert (await sizes(database, run.id))[0] == len(encode(BRIEF))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        of_checkpoints, of_steps, rest = await sizes(database, run.id)
        assert (of_checkpoints, of_steps) == (0, len(json.dumps(BRIEF)))
        assert rest < of_steps
        assert await inputs(engine, run.id) == [{"brief": BRIEF, "rounds": each} for each in range(ROUNDS)]
    assert {each[0] for each in found[2:]} == {len(encode(BRIEF))}


async def test_a_value_that_changes_is_deleted_with_the_last_checkpoint_that_has_it(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that goes back to what it was is stored again."""
    monkeypatch.setattr(superseded, "MIN_BYTES", 0)
    drafts = [[f"{BRIEF}{number}"] for number in (0, 1, 0)]
    found: list[int] = []
    fails = [3 * 4 - 1]

    async def node(state: State, runtime: Runtime[RunContext]) -> State:
        round_ = state["rounds"]
        assert state.get("draft") == (drafts[(round_ - 1) // 4] if round_ else None)
        found.append((await sizes(database, runtime.context.run_id))[0])
        if round_ in fails:
            fails.clear()
            raise RuntimeError("Once.")
        return {"draft": drafts[round_ // 4], "rounds": 1} if round_ % 4 == 0 else {"rounds": 1}

    graph: Graph = StateGraph(State)
    graph.add_node("round", node)
    graph.add_edge(START, "round")
    graph.add_conditional_edges("round", lambda state: END if state["rounds"] == 3 * 4 else "round")
    async with serving(database_url, graph) as engine:
        run = await engine.execute({"rounds": 0})
        assert run.status is RunStatus.FAILED
        assert (await sizes(database, run.id))[0] == len(encode(drafts[2]))
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert max(found) == len(encode(drafts[0]))


async def test_the_next_run_of_a_thread_begins_with_the_values_of_the_one_before(
    database_url: str, database: asyncpg.Connection
) -> None:
    async def node(state: State) -> State:
        assert state["brief"] == BRIEF
        return {"rounds": 1}

    async with serving(database_url, chain_of(State, one=node, two=node, three=node)) as engine:
        for payload in ({"brief": BRIEF}, {}, {}):
            run_id = await engine.trigger(payload, context={"threadId": "t"})
            assert (await engine.process(await engine.claim())).status is RunStatus.COMPLETED
            rows = await database.fetch(
                "SELECT run_id FROM run_values WHERE tenant_id = $1 AND NOT of_steps", engine.tenant_id
            )
            assert [row["run_id"] for row in rows] == [run_id]


async def test_a_value_is_stored_even_when_the_step_that_brought_it_is_given_up(
    database_url: str, database: asyncpg.Connection
) -> None:
    """Its node's time was over before the begin was recorded; the next step refers to the value."""
    async with serving(database_url, looping(lambda _: {"rounds": 1})) as engine:
        run_id, step = await engine.trigger({}), uuid4()
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        async with locked(database_url, run_id):
            under_way = asyncio.create_task(held.begin_step(uuid4(), "one", "one", False))
            await until(lambda: database.fetchval(WAITING), bool)
            cut = CutBytes(b"ad", REFS, {HASH: b"bc"})
            given_up = asyncio.create_task(held.begin_step(uuid4(), "late", "late", False, cut))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait([given_up])
        await under_way
        await held.begin_step(step, "two", "two", False, CutBytes(b"ad", REFS))
        assert (await sizes(database, run_id))[1] == 2
        data = await engine.runs.get_step_data(run_id, step, None)
        assert data is not None
        assert data.encoded_input == b"abcd"


async def test_a_checkpoint_of_which_a_value_is_missing_is_refused(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(database_url, looping(lambda _: {"rounds": 1})) as engine:
        await engine.trigger({})
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        checkpoint = StoredCheckpoint("", "1", None, "null", b"ad", b"", REFS)
        await held.save_checkpoint(checkpoint)
        with pytest.raises(StatementRefused):
            await held.get_checkpoint("", None)
        await held.save_checkpoint(checkpoint, {HASH: b"bc"})
        stored = await held.get_checkpoint("", None)
        assert stored is not None
        assert stored.checkpoint == b"abcd"
        # Not referred to yet, but will be.
        swept = replace(
            checkpoint, checkpoint_id="2", value_refs=None, kept_values=HASH, oldest_needed={"": "2"}
        )
        await held.save_checkpoint(swept)
        assert (await sizes(database, held.run.id))[0] == 2
        await held.save_checkpoint(replace(swept, kept_values=b""))
        assert (await sizes(database, held.run.id))[0] == 0


async def test_a_value_of_a_checkpoint_that_is_refused_is_stored_for_those_after_it(
    database_url: str,
) -> None:
    async with serving(database_url, looping(lambda _: {"rounds": 1})) as engine:
        await engine.trigger({})
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        outcomes = await asyncio.gather(
            held.save_checkpoint(
                StoredCheckpoint("no \0", "1", None, "null", b"ad", b"", REFS), {HASH: b"bc"}
            ),
            held.save_checkpoint(StoredCheckpoint("", "1", None, "null", b"ad", b"", REFS)),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [StatementRefused, type(None)]
        stored = await held.get_checkpoint("", None)
        assert stored is not None
        assert stored.checkpoint == b"abcd"


async def test_a_step_has_its_input_while_the_one_beside_it_looks_into_the_cache(
    database_url: str, database: asyncpg.Connection
) -> None:
    """The one that comes first, and would store what both have, may be stopped there."""
    graph = fork(cached=lambda _: None, other=lambda _: None)
    graph.nodes["cached"].cache_policy = CachePolicy()
    async with serving(database_url, graph) as engine:
        engine.deploy(graph, step_data_bytes=1 << 20)
        run_id = await engine.trigger({"bundle_artifact_id": BRIEF})
        async with database.transaction():
            await database.execute("LOCK TABLE step_cache")
            running = asyncio.create_task(engine.processor.process(await engine.claim()))
            await until(lambda: engine.executions(run_id), bool)
            found = await inputs(engine, run_id)
        await running
    assert [each["bundle_artifact_id"] for each in found] == [BRIEF]


async def test_a_value_is_stored_again_after_all_checkpoints_were_deleted(database_url: str) -> None:
    async with serving(database_url, looping(lambda _: {"rounds": 1})) as engine:
        await engine.trigger({})
        run = await engine.claim()
        saver = saver_of(engine, run)
        for _ in range(2):
            checkpoint = empty_checkpoint()
            checkpoint["channel_values"] = {"brief": BRIEF}
            await saver.aput(config_of(run), checkpoint, METADATA, {})
            found = await saver.aget_tuple(config_of(run))
            assert found is not None
            assert found.checkpoint["channel_values"] == {"brief": BRIEF}
            await saver.adelete_thread(str(run.id))


@pytest.mark.parametrize("kept", [None, b""])
async def test_a_statement_that_deletes_values_is_never_given_up(kept: bytes | None) -> None:
    """It might be executed after the next one, which stores them again."""
    statement: asyncio.Future[Mapping[UUID, int] | None] = asyncio.get_running_loop().create_future()
    sent = asyncio.Event()

    def send(batch: Sequence[PendingWrites]) -> asyncio.Future[Mapping[UUID, int] | None]:
        sent.set()
        return statement

    pending = WriteBehind(send)
    checkpoint = StoredCheckpoint("", "1", None, "null", b"", b"", kept_values=kept)
    storing = asyncio.create_task(pending.store(PendingWrites(checkpoint=checkpoint)))
    await happened(sent)
    storing.cancel()
    await asyncio.wait([storing])
    assert statement.cancelled() is (kept is None)


def test_values_are_cut_out_where_they_are_and_only_texts_before_they_have_stayed() -> None:
    """And none that was found to change in place."""
    same = BRIEF * 2
    changed: list[Any] = [BRIEF]
    state: dict[str, Any] = {"one": same, "small": 1, "two": same, "changed": changed, "in": [same, changed]}
    values = LargeValues(encode)
    stored: dict[bytes, bytes] = {}
    for number in range(4):
        changed.append(number)
        state["new"] = [BRIEF, number]
        encoded = encode({"v": 1, "channel_values": state, "last": BRIEF})
        cut = values.cut("", encoded, state)
        stored |= cut.new
        assert whole(cut, stored) == encoded
        assert len(cut.refs or b"") == 20 * (4 if number == 1 else 2)
    assert values.cut("", encoded[:LARGE_BYTES], state) == CutBytes(encoded[:LARGE_BYTES])
    assert encode(same) in stored.values()
    assert encode(state["new"]) not in stored.values()
    values.forget([""])
    kept = [same, state["new"]]
    assert values.cut("other", encode(kept), {"same": kept}) == CutBytes(encode(kept))
    assert values.sweep() == b""


def test_a_value_that_cannot_be_encoded_by_itself_stays_where_it_is() -> None:
    values = LargeValues(to_json)
    shown = to_json({"text": BRIEF, "more": BRIEF})
    state = {"text": "\ud800" * LARGE_BYTES, "more": BRIEF}
    for _ in range(2):
        assert len(values.cut("", shown, state).refs or b"") == 20


def test_values_that_are_not_there_are_looked_for_a_few_at_a_time() -> None:
    """And one that was not there is not looked for again."""
    made: list[Any] = []

    def counted(value: Any) -> bytes:
        made.append(value)
        return encode(value)

    values, encoded = LargeValues(counted), encode(BRIEF)
    state = {str(number): f"{number}{BRIEF}" for number in range(20)}
    counts = []
    for _ in range(4):
        assert values.cut("", encoded, state) == CutBytes(encoded)
        counts.append(len(made))
    assert counts == [8, 16, 20, 20]


def test_a_value_of_many_namespaces_is_in_memory_once() -> None:
    values, text = LargeValues(encode), BRIEF * 100
    encoded = encode({"text": text})
    tracemalloc.start()
    try:
        for number in range(20):
            assert values.cut(str(number), encoded, {"text": text}).refs is not None
        assert tracemalloc.get_traced_memory()[0] < 3 * len(encoded)
    finally:
        tracemalloc.stop()


def test_an_object_that_holds_itself_has_a_size() -> None:
    state = Draft(None)
    state.before = state
    assert least_size(state, LARGE_BYTES) > LARGE_BYTES


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data())
def test_bytes_are_whole_again_with_the_values_that_were_cut_out(data: st.DataObject) -> None:
    """Of states whose values are equal, within each other, changed in place, or gone."""
    texts = st.sampled_from(
        [BRIEF, BRIEF * 2, f"{BRIEF}\u00e9", "x" * 3 * LARGE_BYTES, '"\\\n' * LARGE_BYTES]
    )
    leaves = texts | st.sampled_from([None, 1, "small"])
    within = st.dictionaries(st.sampled_from("ab"), leaves) | st.lists(leaves, max_size=3)
    made = leaves | within | st.lists(within, max_size=2)
    for encoder in (encode, to_json):
        values, stored, state = LargeValues(encoder), dict[bytes, bytes](), dict[str, Any]()
        for _ in range(data.draw(st.integers(2, 4))):
            for key in data.draw(st.sets(st.sampled_from("abcd"))):
                if isinstance(kept := state.get(key), list):
                    kept.append(data.draw(leaves))
                else:
                    state[key] = data.draw(made)
            encoded = encoder({"v": 1, "values": state})
            cut = values.cut("", encoded, state)
            stored |= cut.new
            assert whole(cut, stored) == encoded
            if data.draw(st.booleans()):
                kept_hashes = values.sweep() or b""
                stored = {each: value for each, value in stored.items() if each in kept_hashes}
