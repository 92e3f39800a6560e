"""A worker of what a `langgraph.json` describes."""

from __future__ import annotations

import json
from pathlib import Path

from runengine.v1.run_pb2 import RunStatus
from runengine_client import RunEngineClient

from tests.support.patience import SECONDS
from tests.support.stack import Stack

AGENT = """
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    seen: str

@asynccontextmanager
async def make_graph(config):
    graph = StateGraph(State)
    graph.add_node(os.environ["KETTLE_NODE"], lambda state: {"seen": "node"})
    graph.add_edge(START, os.environ["KETTLE_NODE"])
    yield graph.compile()
    Path(__file__).with_name("closed").touch()
"""
DESCRIBED = {"graphs": {"kettles": "./agent.py:make_graph"}, "env": {"KETTLE_NODE": "boil"}}


async def test_a_langgraph_json_is_served_beside_what_cannot_be_used_where_that_is_set(
    stack: Stack, client: RunEngineClient, tmp_path: Path
) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "langgraph.json").write_text(json.dumps(DESCRIBED))
    entries = f"{tmp_path}/langgraph.json,no.such:WORKFLOWS"
    (worker,) = await stack.start("worker", WORKFLOWS=entries, SKIP_UNUSABLE_WORKFLOWS="true")
    run = await client.trigger_run("kettles", trigger_payload={})
    run = await client.wait(run.id, timeout_seconds=SECONDS)
    assert run.status == RunStatus.RUN_STATUS_COMPLETED
    assert [step.step_id for step in await client.list_run_steps(run.id)] == ["boil"]
    assert not (tmp_path / "closed").exists()
    await worker.stop()
    assert (tmp_path / "closed").exists()
