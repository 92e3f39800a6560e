"""The history survives its writers, and the checker finds each invariant broken where it is."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.facts import Facts, Rows
from tests.faults.history import History
from tests.faults.invariants import INVARIANTS, violations
from tests.support.stack import environment

TENANT, OTHER, CAMPAIGN = "org_a", "org_b", "campaign"
OLD, NEW = "run-1", "run-2"


def event(run: str, at: float, source: str | None, target: str, reason: str, actor: str = "user") -> Any:
    return {
        "tenant_id": TENANT,
        "run_id": run,
        "at": at,
        "from_status": source,
        "to_status": target,
        "attempt": 1,
        "actor": actor,
        "reason": reason,
    }


def run_row(run: str, created_at: float, epoch: int) -> Any:
    return {
        "tenant_id": TENANT,
        "id": run,
        "workflow_name": "storm",
        "status": "completed",
        "attempt": 1,
        "campaign_id": CAMPAIGN,
        "epoch": epoch,
        "losses": 0,
        "created_at": created_at,
        "key": f"key-{run}",
    }


def step(run: str, step_id: str, attempt: int, status: str, completed_at: float | None = None) -> Any:
    return {
        "tenant_id": TENANT,
        "run_id": run,
        "id": step_id,
        "attempt": attempt,
        "run_attempt": 1,
        "step_id": "first",
        "status": status,
        "output_artifact_ids": [f"artifact-{run}"] if status == "completed" else [],
        "completed_at": completed_at,
    }


def call(number: int, at: float, method: str, tenant: str = TENANT, **asked: Any) -> Any:
    return {
        "at": at, "pid": 9, "what": "call", "call": number, "method": method, "tenant": tenant,
        "deadline": 4.0, **asked,
    }  # fmt: skip


def answer(number: int, at: float, seconds: float = 0.1, ok: bool = True, **told: Any) -> Any:
    return {
        "at": at, "pid": 9, "what": "answer", "call": number, "seconds": seconds, "lag": 0.0, "ok": ok,
        **told,
    }  # fmt: skip


def seen(run: str, status: str = "completed", attempt: int = 1) -> Any:
    return {"id": run, "status": status, "attempt": attempt}


def entered(at: float, pid: int, run: str, marker: str, **other: Any) -> Any:
    return {
        "at": at, "pid": pid, "what": "entered", "run": run, "node": "first", "attempt": 1,
        "key": f"{run}:step-{run}", "marker": marker, "saw": [], **other,
    }  # fmt: skip


def write(at: float, pid: int, run: str, epoch: int, outcome: str) -> Any:
    return {
        "at": at, "pid": pid, "what": "write", "run": run, "epoch": epoch, "name": "finish", "began": at,
        "outcome": outcome,
    }  # fmt: skip


def sound() -> Facts:
    """Two runs of a campaign, of which the first was taken over from a worker that woke again."""
    counts = dict.fromkeys(("queued", "running", "failed", "cancelled"), 0)
    rows = Rows(
        runs=[run_row(OLD, 1.0, 2), run_row(NEW, 2.0, 1)],
        events=[
            event(OLD, 1.0, None, "queued", "TRIGGERED"),
            event(NEW, 2.0, None, "queued", "TRIGGERED"),
            event(OLD, 3.0, "queued", "running", "CLAIMED", "worker:host:1"),
            event(NEW, 3.0, "queued", "running", "CLAIMED", "worker:host:2"),
            event(OLD, 5.0, "running", "running", "TAKEN_OVER", "worker:host:2"),
            event(NEW, 6.0, "running", "completed", "COMPLETED", "worker:host:2"),
            event(OLD, 7.0, "running", "completed", "COMPLETED", "worker:host:2"),
        ],
        steps=[
            step(OLD, "step-run-1", 1, "failed"),
            step(OLD, "step-run-1", 2, "completed", 6.9),
            step(NEW, "step-run-2", 1, "completed", 5.9),
        ],
        campaigns=[
            {
                "tenant_id": TENANT,
                "id": CAMPAIGN,
                "status": "live",
                "bundle_url": f"http://runengine/artifacts/artifact-{NEW}",
                "latest_run_id": NEW,
                "latest_run_attempt": 1,
            }
        ],
        counts=[{"tenant_id": TENANT, "campaign_id": CAMPAIGN, "completed": 2, **counts}],
    )
    history = [
        call(1, 1.0, "trigger", key=f"key-{OLD}"),
        answer(1, 1.1, run=seen(OLD, "queued")),
        call(2, 2.0, "trigger", key=f"key-{NEW}"),
        answer(2, 2.1, run=seen(NEW, "queued")),
        {"at": 3.0, "pid": 1, "what": "claimed", "run": OLD, "epoch": 1},
        entered(3.1, 1, OLD, "first:1:a"),
        entered(3.2, 2, NEW, "first:2:a"),
        {"at": 5.0, "pid": 2, "what": "claimed", "run": OLD, "epoch": 2},
        entered(5.1, 2, OLD, "first:2:b"),
        write(5.5, 1, OLD, 1, "fenced"),
        call(3, 6.1, "get", run=NEW),
        answer(3, 6.2, run=seen(NEW)),
        call(4, 6.3, "get_campaign", campaign=CAMPAIGN),
        answer(4, 6.4, campaign={"id": CAMPAIGN, "latest": NEW}),
        write(6.99, 2, OLD, 2, "applied"),
        call(5, 7.1, "get_campaign", campaign=CAMPAIGN),
        answer(5, 7.2, campaign={"id": CAMPAIGN, "latest": NEW}),
        call(6, 7.3, "get", tenant=OTHER, run=NEW, foreign=True),
        answer(6, 7.4, ok=False, reason="RUN_NOT_FOUND"),
        call(7, 7.5, "list", tenant=OTHER, campaign=CAMPAIGN, foreign=True),
        answer(7, 7.6, list={"runs": [], "total": 0, "counts": {"completed": 0}}),
    ]
    return Facts(history, rows)


Tampering = Callable[[Facts], object]


def cancelled_although_completed(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "cancel", run=NEW), answer(8, 7.9, run=seen(NEW, "cancelled"))]


def ends_twice(facts: Facts) -> None:
    facts.rows.events.append(event(NEW, 8.0, "running", "completed", "COMPLETED", "worker:host:2"))


def zombie_was_heard(facts: Facts) -> None:
    facts.history.append(write(5.5, 1, OLD, 1, "applied"))


def zombie_ends_the_run(facts: Facts) -> None:
    facts.rows.events[-1]["actor"] = "worker:host:1"


def claim_without_epoch(facts: Facts) -> None:
    facts.rows.runs[0]["epoch"] = 1


def lost_acknowledged(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "trigger"), answer(8, 7.9, run=seen("run-3", "queued"))]


def two_answers_to_a_key(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "trigger", key=f"key-{OLD}"), answer(8, 7.9, run=seen(NEW, "queued"))]


def two_runs_of_a_key(facts: Facts) -> None:
    facts.rows.runs[1]["key"] = f"key-{OLD}"


def still_running(facts: Facts) -> None:
    facts.rows.runs[0]["status"] = "running"


def campaign_went_back(facts: Facts) -> None:
    facts.history += [
        call(8, 7.8, "get_campaign", campaign=CAMPAIGN),
        answer(8, 7.9, campaign={"id": CAMPAIGN, "latest": OLD}),
    ]


def campaign_at_an_older_run(facts: Facts) -> None:
    facts.rows.campaigns[0]["latest_run_id"] = OLD


def campaign_before_its_run(facts: Facts) -> None:
    facts.history += [
        call(8, 3.0, "get_campaign", campaign=CAMPAIGN),
        answer(8, 3.1, campaign={"id": CAMPAIGN, "latest": OLD}),
    ]


def run_before_its_campaign(facts: Facts) -> None:
    facts.history += [
        call(8, 6.21, "get_campaign", campaign=CAMPAIGN),
        answer(8, 6.22, campaign={"id": CAMPAIGN, "latest": None}),
    ]


def wrong_counter(facts: Facts) -> None:
    facts.rows.counts[0]["completed"] = 3


def bundle_of_another(facts: Facts) -> None:
    facts.rows.campaigns[0]["bundle_url"] = f"http://runengine/artifacts/artifact-{OLD}"


def ran_after_completion(facts: Facts) -> None:
    facts.rows.events.insert(-1, event(OLD, 6.95, "running", "running", "TAKEN_OVER", "worker:host:2"))
    facts.rows.runs[0]["epoch"] = 3
    facts.history.append(entered(6.96, 2, OLD, "first:2:c"))


def ran_oftener_than_claimed(facts: Facts) -> None:
    facts.history.append(entered(3.3, 2, NEW, "first:2:d"))


def ran_under_another_key(facts: Facts) -> None:
    facts.history[8]["key"] = "another:step-run-1"


def ran_on_a_stranger(facts: Facts) -> None:
    facts.history[6]["pid"] = 7


def two_results_of_a_step(facts: Facts) -> None:
    facts.history[5]["saw"], facts.history[8]["saw"] = ["zero:1:a"], ["zero:1:b"]


def transition_is_missing(facts: Facts) -> None:
    del facts.rows.events[3]


def seen_to_be_taken_back(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "get", run=NEW), answer(8, 7.9, run=seen(NEW, "running"))]


def told_another_timeline(facts: Facts) -> None:
    facts.history += [
        call(8, 7.8, "events", run=NEW),
        answer(8, 7.9, events=[[None, "queued", 1, "TRIGGERED"], ["queued", "cancelled", 1, "CANCELLED"]]),
    ]


def told_to_another_tenant(facts: Facts) -> None:
    facts.history[-3].update(ok=True, run=seen(NEW))


def told_apart_from_nothing(facts: Facts) -> None:
    facts.history[-3].update(reason="RUN_ACTIVE")


def counted_for_another_tenant(facts: Facts) -> None:
    facts.history[-1]["list"] = {"runs": [], "total": 0, "counts": {"completed": 2}}


def late_answer(facts: Facts) -> None:
    facts.history[1]["seconds"] = 4.6


def internal_error(facts: Facts) -> None:
    facts.history[-3].update(reason="INTERNAL")


TAMPERINGS: dict[Tampering, str] = {
    lost_acknowledged: "I1",
    two_answers_to_a_key: "I2",
    two_runs_of_a_key: "I2",
    still_running: "I3",
    ends_twice: "I4",
    zombie_was_heard: "I5",
    zombie_ends_the_run: "I5",
    claim_without_epoch: "I5",
    cancelled_although_completed: "I6",
    campaign_went_back: "I7",
    campaign_at_an_older_run: "I7",
    campaign_before_its_run: "I7",
    run_before_its_campaign: "I7",
    wrong_counter: "I7",
    bundle_of_another: "I7",
    ran_after_completion: "I8",
    ran_oftener_than_claimed: "I8",
    ran_under_another_key: "I8",
    ran_on_a_stranger: "I8",
    two_results_of_a_step: "I8",
    transition_is_missing: "I9",
    seen_to_be_taken_back: "I9",
    told_another_timeline: "I9",
    told_to_another_tenant: "I10",
    told_apart_from_nothing: "I10",
    counted_for_another_tenant: "I10",
    late_answer: "I11",
    internal_error: "I11",
}


def test_a_sound_history_has_no_violations() -> None:
    assert violations(sound()) == []


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_a_history_that_was_tampered_with_is_found(tamper: Tampering) -> None:
    facts = copy.deepcopy(sound())
    tamper(facts)
    assert TAMPERINGS[tamper] in {words.partition(":")[0] for words in violations(facts)}


def test_each_invariant_can_fail() -> None:
    assert set(TAMPERINGS.values()) == set(INVARIANTS)


def test_the_notes_of_a_killed_process_stay(tmp_path: Path) -> None:
    path = tmp_path / "history"
    noting = (
        "import os, signal\n"
        "from tests.faults.history import ours\n"
        "for number in range(100): ours.note('effect', number=number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environ = environment(HISTORY=str(path))
    processes = [subprocess.Popen([sys.executable, "-c", noting], env=environ) for _ in range(3)]
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 3
    history = History(path)
    notes = history.read()
    for process in processes:
        assert [note["number"] for note in notes if note["pid"] == process.pid] == list(range(100))
    # A line that is being written is read when it is whole.
    with open(path, "ab") as file:
        file.write(b'{"what": "eff')
        file.flush()
        assert len(history.read()) == 300
        file.write(b'ect"}\n')
    assert history.read()[-1] == {"what": "effect"}
    history.close()
    assert os.path.getsize(path) > 0
