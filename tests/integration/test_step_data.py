"""What a step was called with and what it wrote is kept with the step, and can be read."""

from __future__ import annotations

import json
import operator
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import asyncpg
import httpx
import pytest
from langchain_core.messages import AIMessage
from langgraph.channels import UntrackedValue
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel
from runengine.v1.run_service_pb2 import GetRunStepDataResponse
from runengine_client import RunEngineClient, RunNotFound, StepData, StepNotFound
from runengine_server.domain.errors import StepNotFound as NoSuchStep
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.rpc.messages import step_data_response

from tests.support.own_worker import Engine, Graph, alone, chain, fork, serving
from tests.support.stack import Stack

NOTHING = str(uuid.UUID(int=1))


@dataclass
class Data:
    """Of one execution of a step, with the JSON read; a note in place of what is not there."""

    input: Any
    update: Any


async def data_of(engine: Engine, run_id: uuid.UUID, name: str, attempt: int | None = None) -> list[Data]:
    """Of each step of that name, in order."""
    steps = await engine.runs.list_steps(run_id, attempt)
    assert steps is not None
    found = []
    for step in steps:
        if step.step_id == name:
            data = await engine.runs.get_step_data(run_id, step.id, attempt)
            assert data is not None
            response = GetRunStepDataResponse.FromString(step_data_response(data))
            assert response.SerializeToString() == step_data_response(data)
            assert response.attempt == step.attempt
            found.append(
                Data(
                    response.input_note or json.loads(response.input),
                    response.update_note or json.loads(response.update),
                )
            )
    return found


class Shops(TypedDict, total=False):
    shop: str
    seen: Annotated[list[str], operator.add]
    handle: Annotated[Any, UntrackedValue]
    text: str


def note(state: Shops) -> Shops:
    return {"seen": [state.get("shop", "none")]}


async def test_the_branches_of_a_send_are_told_apart_by_their_inputs(database_url: str) -> None:
    graph: Graph = StateGraph(Shops)
    graph.add_node("visit", note)
    shops = ["north", "south", "west"]
    graph.add_conditional_edges(START, lambda state: [Send("visit", {"shop": each}) for each in shops])
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert await data_of(engine, run.id, "visit") == [
            Data({"shop": each}, {"seen": [each]}) for each in shops
        ]


async def test_each_step_has_the_state_that_it_saw_and_what_it_wrote_into_it(database_url: str) -> None:
    async with serving(
        database_url, chain(one=lambda s: {"seen": ["1"]}, two=lambda s: {"seen": ["2"]})
    ) as engine:
        run = await engine.execute({"seen": ["0"]})
        assert await data_of(engine, run.id, "one") == [Data({"seen": ["0"]}, {"seen": ["1"]})]
        assert await data_of(engine, run.id, "two") == [Data({"seen": ["0", "1"]}, {"seen": ["2"]})]


async def test_a_node_that_changes_its_input_does_not_change_what_is_kept_of_it(database_url: str) -> None:
    def spoil(state: Any) -> None:
        state["seen"].append("spoilt")

    async with serving(database_url, alone("spoil", spoil)) as engine:
        run = await engine.execute({"seen": ["0"]})
        assert await data_of(engine, run.id, "spoil") == [Data({"seen": ["0"]}, None)]


@pytest.mark.parametrize(
    ("returned", "update"),
    [
        (None, None),
        ({}, None),
        (Command(update={"text": "x"}, goto=END), {"text": "x"}),
        ([{"seen": ["a"]}, Command(update={"text": "b"})], {"seen": ["a"], "text": "b"}),
        ([{"seen": ["a"]}, Command(update={"seen": ["b"]})], [{"seen": ["a"]}, {"seen": ["b"]}]),
    ],
    ids=["nothing", "an empty update", "a command", "two updates", "two updates of one key"],
)
async def test_the_update_has_the_shape_of_the_stream_mode_updates(
    database_url: str, returned: Any, update: Any
) -> None:
    graph: Graph = StateGraph(Shops)
    graph.add_node("one", lambda state: returned)
    graph.add_edge(START, "one")
    streamed = [each async for each in graph.compile().astream({}, stream_mode="updates")]
    assert streamed == [{"one": update}]
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert await data_of(engine, run.id, "one") == [Data({"seen": []}, update)]


async def test_a_step_that_fails_has_its_input_and_each_attempt_its_own(database_url: str) -> None:
    tries: list[int] = []

    def fail(state: Shops) -> Shops:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return {"text": "done"}

    graph: Graph = StateGraph(Shops)
    graph.add_node(
        "one", fail, retry_policy=RetryPolicy(max_attempts=2, initial_interval=0.0, retry_on=ValueError)
    )
    graph.add_edge(START, "one")
    async with serving(database_url, graph) as engine:
        run = await engine.execute({"shop": "north"})
        assert run.status is RunStatus.FAILED
        without = Data({"shop": "north", "seen": []}, "The step has not completed.")
        assert await data_of(engine, run.id, "one", 1) == [without]
        assert await data_of(engine, run.id, "one") == [without]
        await engine.retry(run.id)
        pending = Data("The step has not begun.", "The step has not completed.")
        assert await data_of(engine, run.id, "one") == [pending]
        await engine.process(await engine.claim())
        assert await data_of(engine, run.id, "one", 2) == [without]
        assert await data_of(engine, run.id, "one") == [Data({"shop": "north", "seen": []}, {"text": "done"})]


async def test_a_step_whose_result_comes_from_the_cache_has_its_update(database_url: str) -> None:
    graph: Graph = StateGraph(Shops)
    graph.add_node("one", note, cache_policy=CachePolicy())
    graph.add_edge(START, "one")
    async with serving(database_url, graph) as engine:
        for is_hit in (False, True):
            run = await engine.execute({"shop": "north"})
            steps = await engine.runs.list_steps(run.id, None)
            assert steps is not None
            assert [step.cache_hit for step in steps] == [is_hit]
            assert await data_of(engine, run.id, "one") == [
                Data({"shop": "north", "seen": []}, {"seen": ["north"]})
            ]


async def test_a_node_at_a_gate_has_its_input_while_the_run_waits(database_url: str) -> None:
    async with serving(database_url, alone("ask", lambda state: {"seen": [interrupt("?")]})) as engine:
        run = await engine.execute({"seen": ["0"]})
        (asked,) = run.waiting_for
        (waiting,) = await data_of(engine, run.id, "ask")
        assert waiting == Data({"seen": ["0"]}, "The step has not completed.")
        run = await engine.go_on(run.id, {asked.id: "yes"})
        assert run.status is RunStatus.COMPLETED
        assert await data_of(engine, run.id, "ask") == [Data({"seen": ["0"]}, {"seen": ["yes"]})]


async def test_a_task_has_its_arguments_and_what_it_returned(database_url: str) -> None:
    @task
    async def add(one: int, *, two: int) -> int:
        return one + two

    @entrypoint()
    async def adding(payload: dict[str, int]) -> dict[str, int]:
        return {"sum": await add(payload["one"], two=2)}

    async with serving(database_url, adding) as engine:
        run = await engine.execute({"one": 1})
        assert await data_of(engine, run.id, "add") == [Data({"args": [1], "kwargs": {"two": 2}}, 3)]
        assert await data_of(engine, run.id, "adding") == [Data({"one": 1}, {"sum": 3})]


async def test_a_write_that_the_graph_rejected_can_be_read(database_url: str) -> None:
    left, right = {"bundle_artifact_id": "l"}, {"bundle_artifact_id": "r"}
    async with serving(database_url, fork(left=lambda state: left, right=lambda state: right)) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        assert await data_of(engine, run.id, "left") == [Data({"seen": []}, left)]


# What is not kept.


class Model(BaseModel):
    shop: str = ""
    text: str = ""


@pytest.mark.parametrize("schema", [Shops, Model], ids=["a dict", "a model"])
async def test_data_above_the_limit_is_not_kept_and_the_note_says_so(database_url: str, schema: Any) -> None:
    def grow(state: Any) -> dict[str, str]:
        return {"text": "x" * 200}

    graph: Graph = StateGraph(schema)
    graph.add_node("one", grow)
    graph.add_node("two", lambda state: {"shop": "s"})
    graph.add_edge(START, "one").add_edge("one", "two")
    async with serving(database_url, graph) as engine:
        engine.deploy(graph, step_data_bytes=len(json.dumps({"text": "x" * 200}, separators=(",", ":"))))
        run = await engine.execute({"shop": "north"})
        (one,) = await data_of(engine, run.id, "one")
        assert one.update == {"text": "x" * 200}
        (two,) = await data_of(engine, run.id, "two")
        assert two.update == {"shop": "s"}
        assert two.input.startswith("It was not kept: it takes at least 2")
        assert two.input.endswith(" bytes of JSON, and RUNENGINE_STEP_DATA_BYTES allows 211.")


class Slow(BaseModel):
    """Counts how often it is made into JSON."""

    text: str = "y" * 100

    def model_dump(self, **options: Any) -> dict[str, Any]:
        DUMPED.append(1)
        return super().model_dump(**options)


DUMPED: list[int] = []


async def test_a_state_above_the_limit_is_not_encoded_to_know_that(database_url: str) -> None:
    def count(state: Any) -> dict[str, Any]:
        return {"text": str(len(DUMPED))}

    graph: Graph = StateGraph(Shops)
    graph.add_node("one", lambda state: Command(goto=Send("two", {"shops": [Slow() for _ in range(50)]})))
    graph.add_node("two", count)
    graph.add_edge(START, "one")
    async with serving(database_url, graph) as engine:
        engine.deploy(graph, step_data_bytes=1000)
        DUMPED.clear()
        stored_only = 50  # by the checkpoint, and by the Send as it is stored
        run = await engine.execute()
        (two,) = await data_of(engine, run.id, "two")
        assert two.input.startswith("It was not kept")
        assert int(two.update["text"]) % stored_only == 0
        dumped = int(two.update["text"])
        engine.deploy(graph, step_data_bytes=1 << 20)
        DUMPED.clear()
        run = await engine.execute()
        (two,) = await data_of(engine, run.id, "two")
        assert int(two.update["text"]) == dumped + 50


async def test_nothing_is_kept_where_the_setting_is_0(database_url: str) -> None:
    graph = alone("one", lambda state: {"seen": ["1"]})
    async with serving(database_url, graph) as engine:
        engine.deploy(graph, step_data_bytes=0)
        run = await engine.execute()
        not_kept = "It was not kept: the worker kept no data of steps."
        assert await data_of(engine, run.id, "one") == [Data(not_kept, not_kept)]


class Opaque:
    """Has no form in JSON."""


async def test_an_argument_without_a_form_in_json_is_shown_as_its_type(database_url: str) -> None:
    @task
    async def use(one: Opaque, message: AIMessage) -> dict[Any, int]:
        return {(1, 2): 3}

    @entrypoint()
    async def using(payload: Any) -> None:
        await use(Opaque(), AIMessage("Hi"))

    async with serving(database_url, using) as engine:
        run = await engine.execute()
        (used,) = await data_of(engine, run.id, "use")
        name, message = used.input["args"]
        assert name == "<tests.integration.test_step_data.Opaque>"
        assert message["content"] == "Hi"
        assert used.update.startswith("It cannot be shown as JSON: Dict key must")


class Unprintable(BaseModel):
    """Raises, in words that cannot be stored, when it is made into JSON."""

    def model_dump(self, **options: Any) -> dict[str, Any]:
        raise ValueError("no \ud800 words")


async def test_a_value_whose_own_serialiser_fails_does_not_fail_the_step(database_url: str) -> None:
    @task
    async def use(one: Any) -> dict[Any, int]:
        return {(1, 2): 3}

    @entrypoint()
    async def using(payload: Any) -> None:
        await use({(1, 2): Unprintable()})

    async with serving(database_url, using) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        (used,) = await data_of(engine, run.id, "use")
        assert used.input.startswith("It cannot be shown as JSON: ")


async def test_values_that_no_checkpoint_has_are_not_kept_here_either(database_url: str) -> None:
    graph: Graph = StateGraph(Shops)
    graph.add_node("one", lambda state: {"handle": Opaque(), "text": "x"})
    graph.add_node("two", lambda state: {"shop": type(state["handle"]).__name__})
    graph.add_edge(START, "one").add_edge("one", "two")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert await data_of(engine, run.id, "one") == [Data({"seen": []}, {"text": "x"})]
        assert await data_of(engine, run.id, "two") == [Data({"seen": [], "text": "x"}, {"shop": "Opaque"})]


# Who may read it, and how.


async def test_grpc_and_rest_show_the_data_of_a_step(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await client.trigger_run("bundling", trigger_payload={"seen": ["0"]})
    await client.wait(run.id)
    (step,) = await client.list_run_steps(run.id)
    found = await client.get_step_data(run.id, step.id)
    assert found == StepData(1, {"seen": ["0"]}, None, found.update, None)
    assert found.update["bundle_artifact_id"] == step.output_artifact_ids[0]
    assert await client.get_step_data(run.id, step.id, attempt=1) == found
    response = await rest.get(f"/runs/{run.id}/steps/{step.id}/data")
    assert response.status_code == 200
    assert response.json() == {
        "attempt": 1,
        "input": {"seen": ["0"]},
        "inputNote": None,
        "update": found.update,
        "updateNote": None,
    }


async def test_a_step_or_an_attempt_that_is_not_there_is_not_found(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await client.trigger_run("bundling", trigger_payload={})
    await client.wait(run.id)
    (step,) = await client.list_run_steps(run.id)
    for missing, attempt in ((NOTHING, None), (step.id, 2)):
        with pytest.raises(StepNotFound):
            await client.get_step_data(run.id, missing, attempt=attempt)
    response = await rest.get(f"/runs/{run.id}/steps/{step.id}/data?attempt=2")
    assert (response.status_code, response.json()["reason"]) == (404, "STEP_NOT_FOUND")
    with pytest.raises(RunNotFound):
        await client.get_step_data(NOTHING, step.id)


async def test_the_data_of_another_tenants_step_is_not_found(client: RunEngineClient, stack: Stack) -> None:
    run = await client.trigger_run("bundling", trigger_payload={})
    await client.wait(run.id)
    (step,) = await client.list_run_steps(run.id)
    async with stack.client(stack.token(f"org_{uuid.uuid4().hex}")) as other:
        with pytest.raises(RunNotFound) as refused:
            await other.get_step_data(run.id, step.id)
        with pytest.raises(RunNotFound) as absent:
            await other.get_step_data(NOTHING, step.id)
    assert str(refused.value) == str(absent.value)


async def test_the_data_of_a_step_is_found_only_with_its_own_run(database_url: str) -> None:
    async with serving(database_url, alone("one", lambda state: {"seen": ["1"]})) as engine:
        first, second = await engine.execute(), await engine.execute()
        steps = await engine.runs.list_steps(first.id, None)
        assert steps is not None
        with pytest.raises(NoSuchStep):
            await engine.runs.get_step_data(second.id, steps[0].id, None)
        other = RunRepository(engine.database.tenant(f"org_{uuid.uuid4().hex}"))
        assert await other.get_step_data(first.id, steps[0].id, None) is None


async def test_a_worker_that_is_late_keeps_no_data(database_url: str, database: asyncpg.Connection) -> None:
    async with serving(database_url, alone("one", lambda state: {"seen": ["late"]})) as engine:
        run_id = await engine.trigger()
        late = await engine.claim()
        successor = await engine.take_over(run_id)
        await engine.processor.process(late)
        assert await engine.runs.list_steps(run_id, None) == []
        await engine.process(successor)
        assert await data_of(engine, run_id, "one") == [Data({"seen": []}, {"seen": ["late"]})]
