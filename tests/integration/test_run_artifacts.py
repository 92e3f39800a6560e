"""What the steps of a run have saved is listed, and read by other nodes."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_client import RunEngineClient
from runengine_client.errors import InvalidArgument, RunNotFound
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import State, chain, serving


async def test_the_artifacts_of_a_run_are_listed_in_the_order_in_which_they_were_saved(
    client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    run = await client.wait((await client.trigger_run("two-artifacts")).id)
    (step,) = await client.list_run_steps(run.id)
    listed = (await rest.get(f"/runs/{run.id}/artifacts")).json()
    assert (listed["limit"], listed["nextPageToken"]) == (100, None)
    assert [each["id"] for each in listed["artifacts"]] == list(step.output_artifact_ids)
    one = listed["artifacts"][0]
    assert (one["name"], one["mediaType"], one["size"]) == ("one.txt", "text/plain", 7)
    assert one["createdAt"].endswith("Z")


async def test_the_artifacts_of_a_run_come_in_pages(client: RunEngineClient) -> None:
    run = await client.wait((await client.trigger_run("two-artifacts")).id)
    first = await client.list_run_artifacts(run.id, limit=1)
    last = await client.list_run_artifacts(run.id, limit=1, page_token=first.next_page_token)
    assert [each.name for each in (*first.artifacts, *last.artifacts)] == ["one.txt", "two.txt"]
    assert not last.HasField("next_page_token")
    names = [each.name async for each in client.iterate_run_artifacts(run.id, page_size=1)]
    assert names == ["one.txt", "two.txt"]


async def test_a_page_token_of_another_run_is_refused(client: RunEngineClient) -> None:
    runs = [await client.wait((await client.trigger_run("two-artifacts")).id) for _ in range(2)]
    page = await client.list_run_artifacts(runs[0].id, limit=1)
    for token in (page.next_page_token, "x", page.next_page_token + "=", "AAAA"):
        with pytest.raises(InvalidArgument):
            await client.list_run_artifacts(runs[1].id, page_token=token)


async def test_a_run_that_saved_nothing_has_no_artifacts_and_none_that_is_not_there(
    client: RunEngineClient,
) -> None:
    run = await client.trigger_run("unserved")
    assert list((await client.list_run_artifacts(run.id)).artifacts) == []
    with pytest.raises(RunNotFound):
        await client.list_run_artifacts(uuid4())


async def save(state: State, runtime: Runtime[RunContext]) -> Any:
    return {"seen": [await runtime.context.save_artifact("a.txt", b"bytes", "text/plain")]}


async def test_a_node_reads_what_another_has_saved(database_url: str) -> None:
    read: list[bytes] = []

    async def load(state: State, runtime: Runtime[RunContext]) -> Any:
        read.append(await runtime.context.read_artifact(state["seen"][0]))

    async with serving(database_url, chain(save=save, load=load)) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
        assert read == [b"bytes"]


@pytest.mark.parametrize("artifact_id", ["", "no-uuid", "0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e"])
async def test_a_node_that_reads_no_artifact_fails_in_words(database_url: str, artifact_id: str) -> None:
    async def load(state: State, runtime: Runtime[RunContext]) -> Any:
        await runtime.context.read_artifact(artifact_id)

    async with serving(database_url, chain(load=load)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.message == "ValueError: There is no artifact of that id."


async def test_a_node_cannot_read_what_another_tenant_has_saved(database_url: str) -> None:
    ids: list[str] = []

    async def load(state: State, runtime: Runtime[RunContext]) -> Any:
        if ids:
            await runtime.context.read_artifact(ids[0])

    async with serving(database_url, chain(save=save, load=load)) as theirs:
        run_id = (await theirs.execute()).id
        rows = await theirs.tenant.fetch("SELECT id FROM artifacts WHERE run_id = $1", run_id)
        ids.append(str(rows[0]["id"]))
    async with serving(database_url, chain(load=load)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.message == "ValueError: There is no artifact of that id."
