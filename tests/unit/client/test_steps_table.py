"""How the command shows the steps of a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from runengine.v1.run_pb2 import RunStep, StepStatus
from runengine_client.step_tables import steps_view


def step(id_: str, name: str, skill: str, within: str | None = None) -> RunStep:
    return RunStep(
        id=id_,
        step_id=name,
        skill_id=skill,
        status=StepStatus.STEP_STATUS_COMPLETED,
        attempt=1,
        parent_step_id=within,
    )


def shown(*steps: RunStep, width: int = 100) -> list[tuple[int, str]]:
    """How far each name is indented, and the name."""
    console = Console(file=io.StringIO(), width=width)
    console.print(steps_view(steps, console))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if "completed" in line]
    return [(len(line) - len(line.lstrip()), line.split()[0]) for line in lines]


def test_steps_stand_below_the_one_that_they_are_within() -> None:
    assert shown(
        step("a", "branch", "branch"),
        step("b", "branch", "branch"),
        step("a1", "branch:inner", "inner", "a"),
        step("b1", "branch:inner", "inner", "b"),
        step("b2", "branch:inner:deep", "deep", "b1"),
        step("c", "last", "last"),
    ) == [(0, "branch"), (2, "inner"), (0, "branch"), (2, "inner"), (4, "deep"), (0, "last")]


@pytest.mark.parametrize("width", [60, 100])
def test_a_step_whose_outer_one_is_not_shown_has_its_whole_name(width: int) -> None:
    assert shown(step("a1", "branch:inner", "inner", "a"), width=width) == [(0, "branch:inner")]
