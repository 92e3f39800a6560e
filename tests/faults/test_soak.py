"""A small soak of a fixed seed, and that it tells what is wrong; `make soak` is the large one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import asyncpg
import pytest
from runengine.v1.run_pb2 import RunError

from tests.faults.facts import Facts, Rows
from tests.faults.soak import Report, Soak, soak
from tests.faults.soak_clients import UNSERVED
from tests.faults.soak_judge import SLACK_MIB, grown, wrong_answers, wrong_runs
from tests.faults.soak_schedule import LANES, ONCE, schedule
from tests.support.stack import readable_by_all

SMALL = {
    "network": ("connections reset", "slowed"),
    "processes": ("kill -9 worker", "SIGTERM gateway"),
    "runs": ("messages without a token", "client vanished"),
}


async def plant(it: Soak, report: Report) -> None:
    """Does what must not be, to a soak in which nothing was wrong, and judges it again."""
    assert (report.violations, report.stuck) == ([], [])
    (run_id,) = [await it.sql("SELECT id FROM runs WHERE status = 'completed' LIMIT 1")]
    await it.sql("DELETE FROM run_events WHERE run_id = $1", run_id)
    # Not any file: one that a killed worker has left has no row.
    (it.directory / "artifacts" / await it.sql("SELECT key FROM artifacts LIMIT 1")).unlink()
    waiting = await it.tenants[0].trigger(UNSERVED, {}, None, None)
    assert waiting is not None
    leaked = await asyncpg.connect(it.superuser_url, server_settings={"application_name": "soak-gateway-0"})
    again = Report(report.seed, 0)
    try:
        await it.judge(again, end_seconds=0, readings=1)
    finally:
        await leaked.close()
    told = "\n".join(again.lines())
    assert f"VIOLATION I9: run {run_id} has no events" in told
    assert "VIOLATION 1 artifacts have lost their files" in told
    assert "VIOLATION gateway-0, connections: connection 0 → 1" in told
    assert f"STUCK run {waiting.id} of {UNSERVED} is queued in attempt 1 and waits for a worker" in told
    assert again.failed


@pytest.mark.timeout(420)
async def test_nothing_is_left_of_a_small_soak_and_what_is_planted_in_it_is_found(tmp_path: Path) -> None:
    readable_by_all(tmp_path)
    report = await soak(
        1, 8, tmp_path, warm_seconds=3, quiet_seconds=3, workers=2, lanes=SMALL, once=(), then=plant
    )
    assert report.hits.total() > 0
    assert report.runs["completed"] > 0


def test_a_seed_gives_the_same_schedule_and_another_one_another() -> None:
    assert schedule(7, 300) == schedule(7, 300)
    assert schedule(7, 300) != schedule(8, 300)
    # A longer soak goes on where a shorter one has ended.
    for lane, planned in schedule(7, 60).items():
        assert schedule(7, 300)[lane][: len(planned)] == planned


def test_every_kind_comes_before_any_of_its_lane_comes_again() -> None:
    for lane, planned in schedule(3, 300).items():
        once = ONCE if lane == "runs" else ()
        kinds = [each.kind for each in planned]
        assert kinds[: len(once)] == list(once)
        for start in range(len(once), len(kinds) - len(LANES[lane]), len(LANES[lane])):
            assert sorted(kinds[start : start + len(LANES[lane])]) == sorted(LANES[lane])


def test_growth_of_a_process_is_reported_and_memory_beyond_its_slack() -> None:
    before = {
        "worker-0": {"threads": Counter({"node": 10, "tokio": 3}), "memory": Counter({"of its own": 100})}
    }

    def after(threads: dict[str, int], memory: int) -> dict[str, dict[str, Counter[str]]]:
        return {"worker-0": {"threads": Counter(threads), "memory": Counter({"of its own": memory})}}

    before, slack = after({"node": 10, "tokio": 3}, 100), SLACK_MIB["worker"]
    assert grown(before, after({"node": 10}, 100 + slack)) == []
    # One less of this does not make up for one more of that.
    assert grown(before, after({"node": 11, "tokio": 2}, 100)) == ["worker-0, threads: node 10 → 11"]
    assert grown(before, after({"left": 1}, 100)) == ["worker-0, threads: left 0 → 1"]
    (told,) = grown(before, after({}, 101 + slack))
    assert told == f"worker-0, memory: of its own 100 → {101 + slack} MiB, with a slack of {slack}"


def test_a_pool_may_fill_up_to_its_size_and_no_further() -> None:
    def having(connections: int) -> dict[str, dict[str, Counter[str]]]:
        sockets = Counter({"unix socket": connections + 5})
        return {"worker-0": {"connections": Counter(connection=connections), "descriptors": sockets}}

    assert grown(having(12), having(15)) == []
    assert len(grown(having(12), having(16))) == 2
    assert len(grown(having(15), having(16))) == 2


def run(name: str, status: str) -> dict[str, object]:
    return {"id": f"run of {name}", "workflow_name": name, "status": status}


def test_runs_that_are_not_as_their_workflow_allows_are_reported() -> None:
    rows = Rows(
        runs=[run("soak-deployed", "completed"), run("soak-large", "failed"), run("soak-fork", "failed")]
    )
    history = [
        {"what": "effect", "run": "run of soak-deployed", "node": "load"},
    ]
    errors = {
        "run of soak-large": RunError(code="STATE_TOO_LARGE"),
        "run of soak-fork": RunError(code="STEP_FAILED", message="It was not heard."),
    }
    assert wrong_runs(Facts(history, rows), errors) == [
        "I13: run run of soak-deployed of soak-deployed completed without ['report']",
        "run run of soak-fork of soak-fork failed: STEP_FAILED: It was not heard.",
    ]


@pytest.mark.parametrize(
    ("reason", "told"), [("INVALID_ARGUMENT", 0), ("UNAVAILABLE", 0), ("RUN_ACTIVE", 1), (None, 1)]
)
def test_a_call_that_was_to_be_refused_and_was_not_is_reported(reason: str | None, told: int) -> None:
    answer = {"what": "answer", "call": 1, "ok": reason is None, **({"reason": reason} if reason else {})}
    asked = {"what": "call", "call": 1, "method": "trigger", "at": 0.0, "expected": ["INVALID_ARGUMENT"]}
    assert len(wrong_answers(Facts([asked, answer], Rows()))) == told
