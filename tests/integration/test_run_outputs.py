"""What the graph of a run returned is kept with the run, once, when it completes."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import asyncpg
import httpx
import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels import UntrackedValue
from langgraph.graph import START, StateGraph, add_messages
from runengine.v1.run_service_pb2 import GetRunOutputResponse
from runengine_client import RunEngineClient, RunNotCompleted, RunNotFound, RunOutput
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.artifact_repository import ArtifactRepository
from runengine_server.repositories.artifact_store import ArtifactDirectory
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.graph.output import MAX_OUTPUT_BYTES

from tests.support.gates import Gates
from tests.support.own_worker import Engine, Graph, serving

NOTHING = str(uuid.UUID(int=1))


class Opaque:
    """Has no form in JSON."""


class Talk(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    size: int
    text: str
    given: Annotated[Any, UntrackedValue]


class Text(TypedDict, total=False):
    text: str


def talk(node: Any, output: Any = None) -> Graph:
    graph: Graph = StateGraph(Talk, output_schema=output)
    graph.add_node("one", node)
    graph.add_edge(START, "one")
    return graph


async def kept(engine: Engine, run_id: uuid.UUID) -> GetRunOutputResponse:
    output = await engine.runs.get_output(run_id)
    assert output is not None
    assert output.encoded is not None
    return GetRunOutputResponse.FromString(output.encoded)


def grow(state: Talk) -> Talk:
    return {"text": "x" * state["size"]}


async def test_grpc_and_rest_show_the_output_of_a_completed_run(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await client.trigger_run("bundling", trigger_payload={})
    await client.wait(run.id)
    (step,) = await client.list_run_steps(run.id)
    value = {"bundle_artifact_id": step.output_artifact_ids[0]}
    found = await client.get_run_output(run.id)
    assert (found.artifact_id, found.note) == (None, None)
    assert found.value.items() >= value.items()
    response = await rest.get(f"/runs/{run.id}/output")
    assert response.status_code == 200
    assert response.json() == {"output": found.value, "artifactId": None, "note": None}


async def test_a_run_that_has_not_completed_has_no_output(
    client: RunEngineClient, rest: httpx.AsyncClient, gates: Gates
) -> None:
    run = await client.trigger_run("gated", trigger_payload={"gates": gates.path})
    gate = await gates.next()
    with pytest.raises(RunNotCompleted, match=r"^The run is running; only a completed run") as refused:
        await client.get_run_output(run.id)
    assert refused.value.metadata == {"status": "running", "attempt": "1", "allowed": "cancel"}
    gate.open("fail")
    await client.wait(run.id)
    response = await rest.get(f"/runs/{run.id}/output")
    assert (response.status_code, response.json()["reason"]) == (409, "RUN_NOT_COMPLETED")
    assert response.json()["metadata"] == {"status": "failed", "attempt": "1", "allowed": "retry"}
    # The attempt that completes has it.
    await client.retry_run(run.id)
    (await gates.next()).open()
    await client.wait(run.id)
    assert (await client.get_run_output(run.id)).value["seen"]


async def test_a_run_that_is_absent_is_not_found(client: RunEngineClient) -> None:
    with pytest.raises(RunNotFound):
        await client.get_run_output(NOTHING)


async def test_a_run_that_completed_before_outputs_were_kept_says_so(
    client: RunEngineClient, database: asyncpg.Connection
) -> None:
    run = await client.trigger_run("bundling", trigger_payload={})
    await client.wait(run.id)
    await database.execute("UPDATE runs SET encoded_output = NULL WHERE id = $1", uuid.UUID(run.id))
    expected = RunOutput(None, None, "The run completed before outputs were kept.")
    assert await client.get_run_output(run.id) == expected


async def test_the_output_is_what_the_output_schema_has(database_url: str) -> None:
    def write(state: Talk) -> Talk:
        return {"text": "shown", "messages": [AIMessage("hidden")]}

    async with serving(database_url, talk(write, Text)) as engine:
        run = await engine.execute({"size": 1})
        assert json.loads((await kept(engine, run.id)).output) == {"text": "shown"}


async def test_messages_are_objects_with_type_and_content(database_url: str) -> None:
    async with serving(database_url, talk(lambda state: {"messages": [AIMessage("Hi", id="m1")]})) as engine:
        run = await engine.execute({"messages": ["Hello"]})
        messages = json.loads((await kept(engine, run.id)).output)["messages"]
        assert [(each["type"], each["content"]) for each in messages] == [("human", "Hello"), ("ai", "Hi")]


class Killed(BaseException):
    """The worker is no more."""


@pytest.mark.parametrize("update", [{"text": "one"}, {"size": 2}], ids=["an output", "none of its keys"])
async def test_the_output_is_the_same_after_a_takeover(
    database_url: str, monkeypatch: pytest.MonkeyPatch, update: Talk
) -> None:
    @asynccontextmanager
    async def die(held: HeldRunRepository) -> AsyncIterator[None]:
        await held.flush()
        raise Killed
        yield

    async with serving(database_url, talk(lambda state: update, Text)) as engine:
        straight_on = await kept(engine, (await engine.execute()).id)
        run_id = await engine.trigger()
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "end", die)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        await engine.process(await engine.take_over(run_id))
        assert await kept(engine, run_id) == straight_on
        assert json.loads(straight_on.output) == ({"text": "one"} if "text" in update else {})


async def test_an_output_of_one_mebibyte_is_kept_with_the_run_and_a_larger_one_is_an_artifact(
    database_url: str,
) -> None:
    async with serving(database_url, talk(grow, Text)) as engine:
        largest = MAX_OUTPUT_BYTES - len('{"text":""}')
        for size, is_kept in ((largest, True), (largest + 1, False)):
            run = await engine.execute({"size": size})
            assert run.status is RunStatus.COMPLETED
            output = await kept(engine, run.id)
            assert output.HasField("output") is is_kept
            assert output.HasField("artifact_id") is not is_kept
        artifact = await ArtifactRepository(engine.tenant).get(uuid.UUID(output.artifact_id))
        assert artifact is not None
        assert (artifact.name, artifact.media_type) == ("output.json", "application/json")
        store = ArtifactDirectory(engine.directory)
        data = b"".join([chunk async for chunk in store.read(artifact.key)])
        assert artifact.size == len(data) == MAX_OUTPUT_BYTES + 1
        assert json.loads(data) == {"text": "x" * size}
        # It is of the run, and of none of its steps.
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        assert [step.output_artifact_ids for step in steps] == [()]


async def test_an_output_that_cannot_be_stored_does_not_fail_the_run(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(store: ArtifactDirectory, key: str, *data: object) -> None:
        raise OSError(28, "No space left on device", "/secret/path")

    async with serving(database_url, talk(grow)) as engine:
        monkeypatch.setattr(ArtifactDirectory, "put", full)
        run = await engine.execute({"size": MAX_OUTPUT_BYTES})
        assert run.status is RunStatus.COMPLETED
        output = await kept(engine, run.id)
        assert not output.HasField("output")
        assert not output.HasField("artifact_id")
        assert output.note.startswith("The output, 1,048,6")
        assert output.note.endswith(" bytes of JSON, could not be stored as an artifact.")


async def test_an_output_that_cannot_be_shown_does_not_fail_the_run(database_url: str) -> None:
    async with serving(database_url, talk(lambda state: {"given": Opaque()})) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        output = await kept(engine, run.id)
        assert not output.HasField("output")
        assert output.note == (
            "The output cannot be shown as JSON: a value of type "
            "'tests.integration.test_run_outputs.Opaque' has no form in JSON"
        )


async def test_a_worker_that_is_late_writes_no_output(database_url: str) -> None:
    returns: list[str] = []

    def name(state: Talk) -> Talk:
        return {"text": returns.pop()}

    async with serving(database_url, talk(name, Text)) as engine:
        for target in ("cancelled", "taken over"):
            run_id = await engine.trigger()
            late = await engine.claim()
            if target == "cancelled":
                await engine.cancel(run_id)
            else:
                returns.append("its successor")
                await engine.process(await engine.take_over(run_id))
            before = await engine.runs.get_output(run_id)
            returns.append("too late")
            await engine.processor.process(late)
            assert await engine.runs.get_output(run_id) == before
            returns.clear()
        assert json.loads((await kept(engine, run_id)).output) == {"text": "its successor"}


async def test_a_large_output_whose_run_is_ended_by_another_leaves_no_artifact(database_url: str) -> None:
    async with serving(database_url, talk(grow)) as engine:
        run_id = await engine.trigger({"size": MAX_OUTPUT_BYTES})
        late = await engine.claim()
        await engine.cancel(run_id)
        await engine.processor.process(late)
        assert await engine.tenant.fetch("SELECT 1 FROM artifacts WHERE run_id = $1", run_id) == []


async def test_an_output_is_kept_when_the_end_of_its_run_had_to_be_repeated(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url, talk(grow)) as engine:
        run_id = await engine.trigger({"size": MAX_OUTPUT_BYTES})
        claimed = await engine.claim()
        call = HeldRunRepository.call_fenced

        async def away(held: HeldRunRepository, function: Any, *arguments: Any) -> Any:
            if function.name == "end_run":
                raise Unavailable
            return await call(held, function, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "call_fenced", away)
            with pytest.raises(Unavailable):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run_id))
        assert run.status is RunStatus.COMPLETED
        saved = await engine.tenant.fetch("SELECT id FROM artifacts WHERE run_id = $1", run_id)
        assert [str(row["id"]) for row in saved] == [(await kept(engine, run_id)).artifact_id]
