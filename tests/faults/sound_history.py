"""A history, and the rows that belong to it, in which nothing is wrong."""

from __future__ import annotations

from typing import Any

from tests.faults.facts import Facts, Rows

TENANT, OTHER, CAMPAIGN = "org_a", "org_b", "campaign"
OLD, NEW, GATED = "run-1", "run-2", "run-gated"


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


def gated_events() -> list[Any]:
    """A run that waited at the gate before its second node, and for an answer in it."""
    worker = "worker:host:2"
    return [
        event(GATED, 1.5, None, "queued", "TRIGGERED"),
        event(GATED, 3.0, "queued", "running", "CLAIMED", worker),
        event(GATED, 3.5, "running", "running", "WAITING", worker),
        event(GATED, 4.0, "running", "running", "RESUMED"),
        event(GATED, 4.1, "running", "running", "TAKEN_OVER", worker),
        event(GATED, 4.5, "running", "running", "WAITING", worker),
        event(GATED, 4.7, "running", "running", "RESUMED"),
        event(GATED, 4.8, "running", "running", "TAKEN_OVER", worker),
        event(GATED, 5.5, "running", "completed", "COMPLETED", worker),
    ]


def resume(number: int, at: float, gate: str, value: str) -> Any:
    return call(number, at, "resume", run=GATED, gates=[gate], resume=value, key=None)


def passed(at: float, value: str, attempt: int = 1) -> Any:
    return {
        "at": at, "pid": 2, "what": "passed", "run": GATED, "attempt": attempt, "gate": "second:0",
        "value": value,
    }  # fmt: skip


def gated_history() -> list[Any]:
    """Its resumes, of which one came too late, and the executions of its second node."""
    return [
        resume(21, 3.95, "at second", "passes"),
        answer(21, 4.05, run=seen(GATED, "running")),
        entered(4.2, 2, GATED, "second:2:a", node="second"),
        resume(22, 4.65, "second:0", "red"),
        resume(23, 4.65, "second:0", "blue"),
        answer(22, 4.75, run=seen(GATED, "running")),
        answer(23, 4.75, ok=False, reason="RUN_NOT_WAITING"),
        entered(4.9, 2, GATED, "second:2:b", node="second"),
        passed(4.95, "red"),
    ]


def sound() -> Facts:
    """Two runs of a campaign, of which the first was taken over from a worker that woke again, and one that
    waited twice.
    """
    counts = dict.fromkeys(("queued", "running", "failed", "cancelled"), 0)
    rows = Rows(
        runs=[
            run_row(OLD, 1.0, 2),
            run_row(NEW, 2.0, 1),
            {**run_row(GATED, 1.5, 5), "workflow_name": "storm-gated", "campaign_id": None},
        ],
        events=[
            event(OLD, 1.0, None, "queued", "TRIGGERED"),
            event(NEW, 2.0, None, "queued", "TRIGGERED"),
            event(OLD, 3.0, "queued", "running", "CLAIMED", "worker:host:1"),
            event(NEW, 3.0, "queued", "running", "CLAIMED", "worker:host:2"),
            event(OLD, 5.0, "running", "running", "TAKEN_OVER", "worker:host:2"),
            *gated_events(),
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
        *gated_history(),
        call(5, 7.1, "get_campaign", campaign=CAMPAIGN),
        answer(5, 7.2, campaign={"id": CAMPAIGN, "latest": NEW}),
        call(6, 7.3, "get", tenant=OTHER, run=NEW, foreign=True),
        answer(6, 7.4, ok=False, reason="RUN_NOT_FOUND"),
        call(7, 7.5, "list", tenant=OTHER, campaign=CAMPAIGN, foreign=True),
        answer(7, 7.6, list={"runs": [], "total": 0, "counts": {"completed": 0}}),
    ]
    return Facts(history, rows)
