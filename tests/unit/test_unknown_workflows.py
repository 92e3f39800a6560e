"""The error of a trigger whose workflow nobody has registered."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock

import pytest
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import InvalidArgument
from runengine_server.repositories.run_repository import MutationResult, Outcome


async def refusal(name: str, *known: str) -> str:
    """What is said of a workflow with that name when there are these."""
    result: Any = MutationResult(Outcome.UNKNOWN_WORKFLOW, b"", None, None)  # type: ignore[arg-type]
    runs: Any = AsyncMock(trigger=AsyncMock(return_value=result))
    new = check_trigger(TriggerRunRequest(workflow_name=name))
    with pytest.raises(InvalidArgument) as refused:
        await trigger_run(runs, new, Actor("user:u", None), None, None, known)
    (violation,) = refused.value.violations
    assert violation.field == "workflow_name"
    before, _, after = violation.description.partition("; ")
    assert before == "is not the name of a registered workflow"
    return after


async def test_a_misspelt_workflow_is_answered_with_all_when_they_are_few_the_closest_first() -> None:
    assert await refusal("any") == ""
    known = ("refund", "campaign-bundle", "praise-order")
    assert await refusal("prase-order", *known) == "these are praise-order, refund, campaign-bundle"
    assert (await refusal("Campaign_Bundle", *known)).startswith("these are campaign-bundle, ")


async def test_a_misspelt_workflow_is_answered_with_the_twenty_closest_of_many() -> None:
    known = [f"other-{number:03}" for number in range(100)]
    told = await refusal("praise-ordre", *known, "praise-order")
    before, _, names = told.partition(" are ")
    assert before == "of 101, the closest"
    assert names.split(", ")[0] == "praise-order"
    assert len(names.split(", ")) == 20


async def test_names_of_any_length_leave_the_error_within_its_trailers() -> None:
    told = await refusal("é" * 100_000, *("é" * 200 + str(number) for number in range(30)))
    assert told.startswith("of 30, the closest are é")
    assert len(told.encode()) < 1100
    assert await refusal("a", "é" * 2_000) == ""
