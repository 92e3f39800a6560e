"""An agent with tools, one of them another agent, and a middleware that asks a person: through REST alone."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.patience import SECONDS
from tests.support.stack import Stack


async def seen(rest: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    """The run, once it waits for somebody or has ended."""
    async with asyncio.timeout(SECONDS):
        while True:
            run: dict[str, Any] = (await rest.get(f"/runs/{run_id}")).json()
            if run["waitingFor"] or run["status"] not in ("queued", "running"):
                return run


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ({"type": "approve"}, "sent to all"),
        (
            {"type": "edit", "edited_action": {"name": "send_mail", "args": {"to": "some"}}},
            "sent to some",
        ),
    ],
)
async def test_an_agent_waits_for_a_person_and_ends_as_that_decides(
    stack: Stack, rest: httpx.AsyncClient, decision: dict[str, Any], words: str
) -> None:
    await stack.start("worker", WORKFLOWS="tests.support.agents:WORKFLOWS")
    payload = {"messages": [{"role": "user", "content": "Mail it."}]}
    triggered = await rest.post("/runs", json={"workflowName": "mailing-agent", "triggerPayload": payload})
    run = await seen(rest, triggered.json()["id"])
    assert run["status"] == "running", run
    (waiting,) = run["waitingFor"]
    (asked,) = waiting["value"]["action_requests"]
    assert (asked["name"], asked["args"]) == ("send_mail", {"to": "all"})

    resume = await rest.post(f"/runs/{run['id']}/resume", json={"value": {"decisions": [decision]}})
    assert resume.status_code == 200
    run = await seen(rest, run["id"])
    assert run["status"] == "completed", run
    output = (await rest.get(f"/runs/{run['id']}/output")).json()["output"]
    assert output["messages"][-1]["content"].startswith("Now! ")
    assert output["messages"][-1]["content"].endswith(words)
    steps = (await rest.get(f"/runs/{run['id']}/steps")).json()["steps"]
    assert [step["status"] for step in steps] == ["completed"] * len(steps)
    # The other agent, which a tool has called, has its step within that of the tools.
    (asked,) = (step for step in steps if step["stepId"] == "tools:model")
    (tools,) = (step for step in steps if step["id"] == asked["parentStepId"])
    assert (tools["stepId"], tools["parentStepId"]) == ("tools", None)
