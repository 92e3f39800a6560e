"""`runengine.testing` executes a workflow in a test as a worker does."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
from langgraph.types import CachePolicy, interrupt
from runengine.testing import run_workflow, workflow_runner
from runengine_server.domain.errors import InvalidArgument, RunNotRetryable, RunNotWaiting
from runengine_server.processes.embedded_urls import running_urls

from examples import shop
from tests.support.own_worker import State, alone, chain, fork, until
from tests.support.patience import SECONDS
from tests.support.stack import ROOT, open_directory


async def seen(state: State) -> State:
    return {"seen": ["seen"]}


async def fails(state: State) -> State:
    raise ValueError("Not this time.")


async def test_a_run_has_its_output_steps_and_artifacts() -> None:
    run = await run_workflow(shop.graph, {"item": "kettle"}, context={"shop": 7})
    label = "To: the kettle fan\nWhat a fine kettle!\n"
    (artifact,) = run.artifacts
    assert (run.status, run.attempt, run.error) == ("completed", 1, None)
    assert run.output == {
        "item": "kettle", "note": "What a fine kettle!", "bundle_artifact_id": str(artifact.id)
    }  # fmt: skip
    steps = [(step.step_id, step.skill_id, step.status, step.attempt) for step in run.steps]
    assert steps == [
        ("praise", "copywriting", "completed", 1),
        ("print-label", "print-label", "completed", 1),
    ]
    assert (artifact.name, artifact.media_type, artifact.step_id) == (
        "label.txt", "text/plain", "print-label"
    )  # fmt: skip
    assert run.artifact("label.txt") == label.encode()
    with pytest.raises(KeyError, match="there are"):
        run.artifact("label")


async def test_a_run_that_waits_says_for_what_and_is_resumed() -> None:
    async def ask(state: State) -> State:
        return {"seen": [interrupt({"question": "Publish?"})]}

    async with workflow_runner(chain(ask=ask)) as runner:
        run = await runner.run()
        (gate,) = run.waiting_for
        assert (run.status, gate.step_id, gate.value) == ("running", "ask", {"question": "Publish?"})
        run = await runner.resume(run, "yes")
        assert (run.status, run.output, run.waiting_for) == ("completed", {"seen": ["yes"]}, [])
        with pytest.raises(RunNotWaiting):
            await runner.resume(run, "yes")


async def test_a_run_that_waits_for_several_is_resumed_by_their_ids() -> None:
    async def ask(state: State) -> State:
        return {"seen": [interrupt("Which?")]}

    async with workflow_runner(fork(left=ask, right=ask)) as runner:
        run = await runner.run()
        run = await runner.resume(run, {gate.id: gate.step_id for gate in run.waiting_for})
        assert run.output == {"seen": ["left", "right"]}


async def test_a_run_that_fails_says_why_and_a_retry_goes_on() -> None:
    async with workflow_runner(chain(seen=seen, fails=fails)) as runner:
        run = await runner.run()
        assert (run.status, run.output) == ("failed", None)
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("STEP_FAILED", "fails")
        assert run.error.message == "ValueError: Not this time."
        again = await runner.retry(run)
        assert (again.id, again.attempt) == (run.id, 2)
        assert [(step.step_id, step.attempt) for step in again.steps] == [("seen", 1), ("fails", 2)]
        assert again.step("fails").error is not None


async def test_a_run_that_has_completed_is_not_retried() -> None:
    async with workflow_runner(alone("seen", seen)) as runner:
        with pytest.raises(RunNotRetryable):
            await runner.retry(await runner.run())


async def test_the_runs_of_a_runner_share_the_cache_and_those_of_another_do_not() -> None:
    graph = alone("seen", seen, cache_policy=CachePolicy())
    hits = []
    for _ in range(2):
        async with workflow_runner(graph) as runner:
            hits += [(await runner.run()).steps[0].cache_hit for _ in range(2)]
    assert hits == [False, True, False, True]


async def test_runs_side_by_side_get_each_its_own_result() -> None:
    async def echo(state: dict[str, Any]) -> dict[str, Any]:
        return {"seen": [f"{state['seen'][0]} heard"]}

    async with workflow_runner(alone("echo", echo)) as runner:
        runs = await asyncio.gather(*(runner.run({"seen": [str(number)]}) for number in range(8)))
    assert [run.output["seen"] for run in runs] == [[f"{n}", f"{n} heard"] for n in range(8)]


async def test_an_output_beyond_a_mebibyte_is_there_too() -> None:
    async def large(state: State) -> State:
        return {"seen": ["x" * (1 << 20)]}

    run = await run_workflow(alone("large", large))
    assert run.output["seen"] == ["x" * (1 << 20)]


@pytest.mark.parametrize("made", [alone("seen", seen).compile(), lambda: alone("seen", seen)])
async def test_a_compiled_graph_or_a_factory_is_a_workflow_too(made: Any) -> None:
    assert (await run_workflow(made)).output == {"seen": ["seen"]}


async def test_a_thing_that_is_no_workflow_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^the workflow is a dict; it must be a StateGraph[^\n]*$"):
        await run_workflow({"graph": 1})


async def test_a_payload_that_no_caller_could_send_is_refused() -> None:
    with pytest.raises(ValueError, match="is a set, which JSON does not have"):
        await run_workflow(alone("seen", seen), {"seen": {1}})
    with pytest.raises(InvalidArgument):
        await run_workflow(alone("seen", seen), context={"campaignId": "none"})


async def test_the_lines_of_a_node_are_there_to_be_captured(caplog: pytest.LogCaptureFixture) -> None:
    async def says(state: State) -> State:
        logging.getLogger("shop").warning("The kettle is empty.")
        return {}

    await run_workflow(alone("says", says))
    assert [record.message for record in caplog.records if record.name == "shop"] == ["The kettle is empty."]


_SESSION = """
import logging
import structlog
import pytest
from examples.shop import graph
from runengine.testing import run_workflow

@pytest.mark.parametrize("item", range(4))
async def test_it(item, caplog):
    caplog.set_level(logging.INFO)
    before = structlog.get_config()
    run = await run_workflow(graph, {"item": item})
    assert run.output["note"] == f"What a fine {item}!"
    assert structlog.get_config() == before
    lines = [record.message for record in caplog.records if record.name == "runengine_server"]
    assert any(line.startswith("run completed run_id=") for line in lines)
"""


_SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


async def test_the_processes_of_a_session_share_a_postgresql_that_stops_after_the_last() -> None:
    with open_directory() as directory:
        (directory / "test_session.py").write_text(_SESSION)
        (directory / "pytest.ini").write_text(_SETTINGS)
        command = [sys.executable, "-m", "pytest", "-n", "2", str(directory)]
        environment = {**os.environ, "TMPDIR": str(directory), "PYTHONPATH": str(ROOT)}
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=2 * SECONDS
        )
        assert " 4 passed" in done.stdout, done.stdout + done.stderr
        (own,) = directory.glob("runengine-testing-*")

        async def running() -> object:
            await asyncio.sleep(0.1)
            return running_urls(own)

        await until(running, lambda urls: urls is None)


def test_a_client_without_the_server_is_told_what_to_install() -> None:
    script = "import sys; sys.modules['structlog'] = None; import runengine.testing"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: runengine.testing needs the server's packages, of which structlog is missing: "
        "pip install 'runengine[server]'"
    )
