"""Each line of a node, and each of the engine about a run, names the run that it is of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from runengine.v1.run_pb2 import Run
from runengine_client import RunEngineClient

from tests.support.gates import Gates
from tests.support.logging_graphs import SECRET
from tests.support.own_worker import until
from tests.support.patience import SECONDS
from tests.support.stack import Stack, logging_to

Line = dict[str, Any]


class Log:
    def __init__(self, path: Path) -> None:
        self._path = path

    def text(self) -> str:
        return self._path.read_text()

    def lines(self) -> list[Line]:
        # The last one may be half written.
        return [json.loads(line) for line in self.text().split("\n")[:-1] if line.startswith("{")]

    async def until(self, event: str, run: Run) -> list[Line]:
        """The lines of the run, once there is one with that event."""

        async def of_run() -> list[Line]:
            return [line for line in self.lines() if line.get("run_id") == run.id]

        return await until(of_run, lambda lines: any(line["event"] == event for line in lines))


@asynccontextmanager
async def logging_worker(stack: Stack, path: Path, workflows: str, **settings: str) -> AsyncIterator[Log]:
    with logging_to(path):
        (worker,) = await stack.start("worker", WORKFLOWS=f"{workflows}:WORKFLOWS", **settings)
    try:
        yield Log(path)
    finally:
        await worker.stop()


@pytest.fixture(scope="module")
async def log(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Log]:
    path = tmp_path_factory.mktemp("log") / "log"
    async with logging_worker(stack, path, "tests.support.logging_graphs") as log:
        yield log


async def ended(client: RunEngineClient, workflow: str, **payload: str) -> Run:
    run = await client.trigger_run(workflow, trigger_payload=payload)
    return await client.wait(run.id, timeout_seconds=SECONDS)


def one(lines: list[Line], event: str) -> Line:
    (line,) = (line for line in lines if line["event"] == event)
    return line


async def test_a_line_of_a_node_names_its_run_however_it_is_logged(
    client: RunEngineClient, log: Log, organisation: str
) -> None:
    run = await ended(client, "log-ways")
    lines = await log.until("run completed", run)
    steps = {
        "shop at info": "asynchronous",
        "shop at warning": "asynchronous",
        "structured at info": "asynchronous",
        "in a task": "asynchronous",
        "in a thread": "asynchronous",
        "in a sync node": "synchronous",
        "in a called graph": "synchronous",
        "in a sub-graph": "outer:inner",
        "in an edge": "outer",
    }
    for event, step in steps.items():
        line = one(lines, event)
        told = {key: line[key] for key in ("tenant", "workflow", "attempt")}
        assert told == {"tenant": organisation, "workflow": "log-ways", "attempt": 1}
        assert line["step"] == step, event
        assert line["step_attempt"] == 1
    assert not any(line["event"].endswith("at debug") for line in log.lines())
    shop, structured = one(lines, "shop at info"), one(lines, "structured at info")
    assert (shop["logger"], shop["level"], shop["order"]) == ("shop", "info", 7)
    assert (structured["level"], structured["order"]) == ("info", 8)
    # A name of the engine's that a node uses for something else.
    assert (shop["logged_run_id"], structured["logged_tenant"]) == ("of the shop", "of the shop")


async def test_the_level_of_the_settings_is_the_least_and_a_logger_may_have_a_higher_one(
    client: RunEngineClient, log: Log
) -> None:
    run = await ended(client, "log-levels")
    lines = await log.until("run completed", run)
    said = [line["event"] for line in lines if line.get("logger") in ("chatty", "curt")]
    assert said == ["chatty at info", "chatty at warning", "chatty at error", "curt at error"]


async def test_the_lines_of_the_engine_have_tenant_and_duration_and_no_words_of_errors(
    client: RunEngineClient, log: Log, organisation: str
) -> None:
    run = await ended(client, "log-failure", secret=SECRET)
    lines = await log.until("run failed", run)
    failed = one(lines, "run failed")
    assert (failed["tenant"], failed["step"], failed["code"]) == (organisation, "flaky", "STEP_FAILED")
    assert failed["duration_ms"] >= 0
    again = one(lines, "a step failed and runs again")
    assert (again["tenant"], again["step"], again["step_attempt"]) == (organisation, "flaky", 1)
    assert "logging_graphs.py" in again["exception"]
    assert SECRET not in log.text()


async def test_an_exception_that_a_node_logs_has_its_words(client: RunEngineClient, log: Log) -> None:
    run = await ended(client, "log-words")
    lines = await log.until("run completed", run)
    for event in ("shop failed", "structured failed"):
        assert one(lines, event)["exception"].endswith("ValueError: The kettle is empty.")


async def test_a_cancel_that_stops_a_run_has_a_line(
    client: RunEngineClient, log: Log, gates: Gates, organisation: str
) -> None:
    run = await client.trigger_run("log-held", trigger_payload={"gates": gates.path})
    await gates.next()
    await client.cancel_run(run.id)
    line = one(await log.until("run cancelled", run), "run cancelled")
    assert (line["tenant"], line["workflow"], line["attempt"]) == (organisation, "log-held", 1)
    assert line["duration_ms"] >= 0


async def test_a_module_that_configures_logging_changes_nothing_of_the_workers_lines(
    stack: Stack, client: RunEngineClient, organisation: str, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    async with logging_worker(stack, path, "tests.support.logging_takeover", LOG_LEVEL="Info") as log:
        run = await ended(client, "log-takeover")
        lines = await log.until("run completed", run)
        assert one(lines, "run completed").keys() >= {"timestamp", "tenant", "duration_ms"}
        for event in ("after the takeover", "configured by the author"):
            line = one(lines, event)
            assert (line["tenant"], line["step"], line["step_attempt"]) == (organisation, "node", 1)
