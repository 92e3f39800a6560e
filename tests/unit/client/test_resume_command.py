"""`runengine resume`, and how a run that waits for somebody is shown."""

from __future__ import annotations

import asyncio
import json

import pytest
from runengine.v1.run_service_pb2 import ResumeRunRequest
from runengine_client import to_value
from runengine_client.json_view import run_json

from tests.support.client_command import COMPLETED, QUEUED, WAITING, Command, Ended, Engine


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def test_a_wait_for_a_run_that_waits_for_somebody_says_so_once_and_goes_on(
    engine: Engine, runengine: Command
) -> None:
    engine.before_end = [WAITING, WAITING]
    ended = await runengine("trigger", "w", "--wait", "--json")
    assert (ended.code, json.loads(ended.out)) == (0, run_json(COMPLETED))
    [line] = ended.err.splitlines()
    assert line.startswith(f"run {QUEUED.id} waits for somebody")


@pytest.mark.parametrize("width", [60, 140])
async def test_a_run_that_waits_shows_for_what_and_the_ids_to_resume_it_with(
    runengine: Command, width: int
) -> None:
    ended = await runengine("get", WAITING.id, COLUMNS=str(width))
    lines = ended.out.splitlines()
    assert max(len(line) for line in lines) <= width
    for waiting in WAITING.waiting_for:
        assert [line for line in lines if line.split() == ["waits", "for", waiting.id]]
        assert f"at {waiting.step_id}, since 2026-01-31 09:30:00 UTC" in ended.out
    shown = " ".join(ended.out.split())
    assert '"question": "Publish the bundle of the campaign to all of its channels?"' in shown
    assert "It is no JSON." in shown
    assert "\x1b" not in ended.out


@pytest.mark.parametrize(
    "value", [None, False, 0, "", [], {}, {"approved": True, "words": ["ü", None]}], ids=json.dumps
)
async def test_resume_sends_any_value_and_null_is_one(
    engine: Engine, runengine: Command, value: object
) -> None:
    ended = await runengine(
        *("resume", WAITING.id, "--value", "-", "--idempotency-key", "once"), stdin=json.dumps(value)
    )
    assert (ended.code, ended.err) == (0, "")
    [request] = engine.requests
    assert request == ResumeRunRequest(run_id=WAITING.id, value=to_value(value))
    assert engine.metadata["idempotency-key"] == "once"


async def test_resume_sends_values_by_id(engine: Engine, runengine: Command) -> None:
    (runengine.folder / "values.json").write_text('{"a": null, "b": [1]}')
    assert (await runengine("resume", WAITING.id, "--values", "@values.json")).code == 0
    values = {"a": to_value(None), "b": to_value([1])}
    assert engine.requests == [ResumeRunRequest(run_id=WAITING.id, values=values)]


async def test_resume_of_a_run_that_waits_for_nobody_is_refused_in_one_line(runengine: Command) -> None:
    ended = await runengine("resume", COMPLETED.id, "--value", "true")
    text = "error: The run is completed and waits for nobody. (RUN_NOT_WAITING)\n"
    assert ended == Ended(1, "", text)


async def test_resume_takes_a_value_or_values_that_are_json(engine: Engine, runengine: Command) -> None:
    misuses = {
        (): "give either --value or --values",
        ("--value", "1", "--values", '{"a": 1}'): "give either --value or --values",
        ("--values", "{}"): "either a value or values by id",
        ("--values", "1"): "must be a JSON object",
        ("--value", "yes"): "not JSON",
        ("--value", "[NaN]"): "$[0] is nan",
    }
    results = await asyncio.gather(
        *(runengine("resume", WAITING.id, *misuse, COLUMNS="140") for misuse in misuses)
    )
    for sentence, ended in zip(misuses.values(), results, strict=True):
        assert ended.code == 2
        assert sentence in ended.err
    assert not engine.requests
