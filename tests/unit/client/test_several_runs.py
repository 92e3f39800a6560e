"""The command with several runs, and with a run to go by."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_client.json_view import run_json

from tests.support.client_command import CANCELLED, FAILED, QUEUED, Command, Engine


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def test_a_run_that_is_refused_keeps_no_other_from_being_retried(runengine: Command) -> None:
    ended = await runengine("retry", FAILED.id, QUEUED.id, FAILED.id)
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == "1 done, 1 refused"
    assert ended.err == f"{QUEUED.id}: The run is queued. (RUN_ACTIVE)\n"


async def test_several_runs_are_shown_to_a_program_with_those_that_were_refused(runengine: Command) -> None:
    ended = await runengine("retry", FAILED.id, QUEUED.id, "--json")
    assert ended.code == 1
    assert json.loads(ended.out) == {
        "runs": [run_json(QUEUED)],
        "refused": [{"id": QUEUED.id, "reason": "RUN_ACTIVE", "detail": "The run is queued."}],
    }


async def test_several_runs_are_cancelled(runengine: Command) -> None:
    ended = await runengine("cancel", CANCELLED.id, FAILED.id)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "2 done, 0 refused"


async def test_a_wait_goes_with_one_run(engine: Engine, runengine: Command) -> None:
    ended = await runengine("retry", FAILED.id, QUEUED.id, "--wait")
    assert ended.code == 2
    assert "--wait and --watch go with one run" in ended.err
    assert engine.requests == []


async def test_a_run_is_triggered_like_another_where_nothing_else_is_given(
    engine: Engine, runengine: Command
) -> None:
    for more in ((), ("other", "--payload", "{}", "--priority", "0")):
        assert (await runengine("trigger", "--from", FAILED.id, *more)).code == 0
    same, changed = [each for each in engine.requests if isinstance(each, TriggerRunRequest)]
    assert same.workflow_name == FAILED.workflow_name
    assert same.trigger_payload == FAILED.trigger_payload
    assert same.context == changed.context == FAILED.context
    assert same.priority == FAILED.priority
    assert (changed.workflow_name, len(changed.trigger_payload), changed.priority) == ("other", 0, 0)


async def test_a_trigger_needs_a_workflow_or_a_run(engine: Engine, runengine: Command) -> None:
    ended = await runengine("trigger")
    assert ended.code == 2
    assert "give a WORKFLOW, or --from RUN" in ended.err
    assert engine.requests == []


async def test_the_version_needs_no_token(runengine: Command) -> None:
    ended = await runengine("--version", RUNENGINE_TOKEN="")
    assert (ended.code, ended.out) == (0, f"runengine {version('runengine')}\n")
