"""What `runengine watch` draws: of any run no more than the terminal has room for, and in whole words."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.run_pb2 import (
    Run,
    RunError,
    RunEvent,
    RunStatus,
    RunStep,
    StepError,
    StepStatus,
    WaitingFor,
)
from runengine.v1.run_service_pb2 import StatusCounts
from runengine.v1.workflow_service_pb2 import Workflow, WorkflowEdge, WorkflowNode
from runengine_client.campaign_view import campaign_lines, ended_lines
from runengine_client.live_view import run_lines, shares
from runengine_client.run_state import Clock, RunState, in_order

from tests.support.client_command import FAILED, MESSAGE, NINE_THIRTY, uuid

NUMBERS = iter(range(1000, 1_000_000))
SIZES = [(60, 10), (60, 24), (80, 24), (120, 40), (200, 60)]
DONE, RUNS, PENDING, FAILS = (
    StepStatus.STEP_STATUS_COMPLETED,
    StepStatus.STEP_STATUS_RUNNING,
    StepStatus.STEP_STATUS_PENDING,
    StepStatus.STEP_STATUS_FAILED,
)


def state(*steps: RunStep, to_come: tuple[str, ...] = (), **fields: object) -> RunState:
    run = Run(
        id=uuid(1),
        workflow_name="campaign-bundle",
        attempt=1,
        created_at=NINE_THIRTY,
        updated_at=NINE_THIRTY,
        **{"status": RunStatus.RUN_STATUS_RUNNING, **fields},  # type: ignore[arg-type]
    )
    made = RunState(run)
    made.to_come = [*to_come]
    for each in steps:
        made.set_step(each)
    return made


def step(
    name: str, status: StepStatus.ValueType, within: RunStep | None = None, attempt: int = 1, **fields: object
) -> RunStep:
    return RunStep(
        id=uuid(next(NUMBERS)),
        step_id=name,
        status=status,
        attempt=attempt,
        created_at=NINE_THIRTY,
        updated_at=NINE_THIRTY,
        parent_step_id=within.id if within else None,
        **fields,  # type: ignore[arg-type]
    )


def drawn(of: RunState, width: int = 100, height: int = 30) -> list[str]:
    """The lines, in which each bar is one sign for each style that it has."""
    return [each.plain.rstrip() for each in run_lines(of, Clock(), width, height)]


def row(of: RunState, name: str, width: int = 100) -> list[str]:
    """The words of the row of that node, without its bar."""
    [found] = [line.split() for line in drawn(of, width) if line.split()[1:2] == [name]]
    return [word for word in found if not set(word) <= set("━─")]


def wide_loop() -> RunState:
    outer = step("pages", RUNS)
    inner = [
        step(
            "pages:render",
            DONE if number < 4000 else RUNS if number < 4990 else FAILS,
            outer,
            attempt=1 + (number == 7),
            cache_hit=number < 40,
            error=StepError(code="STEP_FAILED", message=MESSAGE) if number >= 4990 else None,
        )
        for number in range(5000)
    ]
    return state(step("brief", DONE, duration_ms=478), outer, *inner, to_come=("brief", "pages", "bundle"))


def many_nodes() -> RunState:
    return state(*(step(f"node-{number}", RUNS if number > 95 else DONE) for number in range(100)))


def long_names() -> RunState:
    return state(*(step("a_name_" * 12 + str(number), RUNS, attempt=3) for number in range(5)))


def asks(number: int = 1) -> RunState:
    waits = [
        WaitingFor(id=letter * 32, step_id=name, value=json.dumps(value), since=NINE_THIRTY)
        for letter, name, value in (
            ("a", "approve", {"question": "Publish the bundle of the campaign to all of its channels?"}),
            ("b", "outer:legal", "Is it \x1b[31mtrue?"),
        )
    ][:number]
    return state(step("draft", DONE), step("approve", PENDING), waiting_for=waits)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("view", [wide_loop, many_nodes, long_names, asks], ids=lambda view: view.__name__)
def test_a_view_fits_into_its_terminal(view: Callable[[], RunState], size: tuple[int, int]) -> None:
    width, height = size
    lines = run_lines(view(), Clock(), width, height)
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width
    assert uuid(1) in "\n".join(line.plain for line in lines)
    assert "\x1b" not in "\n".join(line.plain for line in lines)


def test_the_steps_of_a_wide_loop_are_one_row_with_their_numbers() -> None:
    of = wide_loop()
    assert row(of, "render", 160) == [
        *("●", "render", "4,000/5,000", "990", "running", "10", "failed", "40", "cached"),
        *("up", "to", "attempt", "2"),
    ]
    assert row(of, "brief") == ["✓", "brief", "478", "ms"]
    assert row(of, "bundle") == ["○", "bundle"]
    [inner] = [line for line in drawn(of) if "● render" in line]
    assert inner.startswith("  ●")


def test_a_retried_or_cached_step_says_so() -> None:
    of = state(step("one", DONE, cache_hit=True, duration_ms=5), step("two", RUNS, attempt=3))
    assert row(of, "one") == ["✓", "one", "5", "ms", "cached"]
    assert row(of, "two")[-2:] == ["attempt", "3"]


def test_parallel_steps_have_a_row_each_in_the_order_in_which_they_began() -> None:
    of = state(step("left", RUNS), step("right", RUNS), step("middle", DONE))
    rows = [line.split()[1] for line in drawn(of) if "─" in line or "━" in line]
    assert rows == ["left", "right", "middle"]


def test_a_question_stands_with_the_command_that_answers_it() -> None:
    text = "\n".join(drawn(asks(), 60))
    assert "◆ waits for somebody" in text
    assert "Publish the bundle of the campaign to all" in text
    assert f"  runengine resume {uuid(1)} \\\n    --value JSON" in text
    both = "\n".join(drawn(asks(2), 60))
    assert f"""    --values '{{"{"a" * 32}": JSON}}'""" in both
    assert f"""    --values '{{"{"b" * 32}": JSON}}'""" in both


def test_the_error_of_a_step_is_whole() -> None:
    text = " ".join(" ".join(drawn(wide_loop(), 60)).split())
    assert f"✗ pages:render: STEP_FAILED: {MESSAGE}" in text


def test_of_too_many_nodes_those_that_go_on_stay() -> None:
    lines = drawn(many_nodes(), 80, 12)
    assert {f"node-{number}" for number in range(96, 100)} <= {
        word for line in lines for word in line.split()
    }
    assert lines[-1].startswith("… and ")


def test_an_event_changes_the_run_as_the_engine_does() -> None:
    of = state()
    later = Timestamp(seconds=NINE_THIRTY.seconds + 5)

    def happens(to: RunStatus.ValueType, before: RunStatus.ValueType, **fields: object) -> Run:
        of.add_event(RunEvent(at=later, from_status=before, to_status=to, attempt=2, **fields))  # type: ignore[arg-type]
        return of.run

    queued, running = RunStatus.RUN_STATUS_QUEUED, RunStatus.RUN_STATUS_RUNNING
    assert not happens(queued, RunStatus.RUN_STATUS_FAILED).HasField("started_at")
    assert happens(running, queued).started_at == later
    later = Timestamp(seconds=later.seconds + 2)
    error = RunError(code="STEP_FAILED", message="No.")
    failed = happens(RunStatus.RUN_STATUS_FAILED, running, error=error)
    assert (failed.attempt, failed.duration_ms, failed.error) == (2, 2000, error)
    assert not happens(queued, RunStatus.RUN_STATUS_FAILED).HasField("error")


def test_the_nodes_to_come_are_in_the_order_of_the_edges() -> None:
    names = ["__start__", "last", "first", "first:inner", "aside", "__end__"]
    edges = [("__start__", "first"), ("first", "last"), ("last", "first"), ("last", "__end__")]
    workflow = Workflow(
        nodes=[WorkflowNode(id=name) for name in names],
        edges=[WorkflowEdge(source=source, target=target) for source, target in edges],
    )
    assert in_order(workflow) == ["first", "last", "aside"]


def test_a_bar_shows_each_share_and_is_as_long_as_it_is_told() -> None:
    bar = shares([(9990, "green"), (1, "red"), (9, "cyan")], 10_000, 20)
    assert bar.cell_len == 20
    assert [span.style for span in bar.spans if span.end > span.start] == ["green", "red"] or len(
        bar.spans
    ) >= 3
    assert {str(span.style) for span in bar.spans} >= {"green", "red"}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_runs_of_a_campaign_fit_and_have_their_ids_whole(size: tuple[int, int]) -> None:
    width, height = size
    runs = [wide_loop(), asks(), *(state(step("one", RUNS)) for _ in range(60))]
    for number, each in enumerate(runs):
        each.run.id = uuid(number)
    counts = StatusCounts(queued=1_000_000, running=42, completed=812, failed=3, cancelled=1)
    lines = campaign_lines(uuid(99), counts, runs, Clock(), width, height)
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width
    text = "\n".join(line.plain for line in lines)
    assert uuid(99) in text
    assert next(line for line in lines if "◆" in line.plain[:1]).plain.split()[1] == uuid(1)
    assert "●" not in text[text.index("\n\n") : text.index(uuid(1))]  # the one that waits comes first
    assert lines[-1].plain.startswith("… and ")
    assert "1,000,000 queued" in text


def test_a_run_that_has_ended_is_told_with_its_whole_error() -> None:
    line, error = ended_lines(FAILED)
    assert line.plain.split() == ["✗", "failed", FAILED.id, "campaign-bundle", "12m", "34s"]
    assert error.plain == f"  STEP_FAILED: {MESSAGE}"
