"""What a soak must not have left, in words: of its runs, of its answers, and of its processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from runengine.v1.run_pb2 import RunError

from tests.faults.facts import Facts
from tests.faults.invariants import PASSING
from tests.faults.resources import Figures, Reading
from tests.faults.soak_graphs import ANYWAY, CODES, NODES
from tests.support.leases import LEASE_ENDS

# By how much the memory of a process may be more than after the warm-up, in MiB. Code that is met for the
# first time, and its caches, take some; a leak of a kilobyte a run takes more than that in ten thousand.
SLACK_MIB = {"serve": 48, "gateway": 48, "worker": 96, "postgres": 24}

# gRPC's own pool grows by a thread when work waits there on a busy machine, and keeps it while there are
# pings (grpcio 1.85.1).
_GROWS_BY_ITSELF = "event_engine"


def wrong_runs(facts: Facts, errors: dict[str, RunError]) -> list[str]:
    """Runs that completed without a node, or failed as they may not. `errors` are of those that failed."""
    found = []
    done: dict[str, set[str]] = {}
    for note in facts.notes("effect"):
        done.setdefault(note["run"], set()).add(note["node"])
    for run in facts.rows.runs:
        name, run_id = run["workflow_name"], run["id"]
        if run["status"] == "completed":
            missing = set(NODES.get(name, ())) - done.get(run_id, set())
            if missing or (name not in NODES and not name.startswith(_FILLING)):
                found.append(f"I13: run {run_id} of {name} completed without {sorted(missing)}")
        elif run_id in errors and errors[run_id].code not in (*CODES.get(name, ()), *ANYWAY):
            error = errors[run_id]
            found.append(f"run {run_id} of {name} failed: {error.code}: {error.message}")
    return found


_FILLING = ("soak-fill-", "soak-save-")


def wrong_answers(facts: Facts) -> list[str]:
    """Calls that were to be refused for one reason, and were not, or for another."""
    return [
        f"{call.asked['method']} was to be refused with {call.asked['expected']} and was answered "
        f"{call.answer.get('reason', 'OK')}"
        for call in facts.calls
        if "expected" in call.asked
        and call.answer is not None
        and call.answer.get("reason") not in (*call.asked["expected"], *PASSING)
    ]


async def stuck(admin: asyncpg.Connection, tenants: list[str]) -> list[str]:
    """Each run that is under way although nothing is broken, and what it waits for."""
    rows = await admin.fetch(
        f"""SELECT id, workflow_name, status, attempt, epoch, losses, hand_backs, handed_back,
            round(extract(epoch FROM {LEASE_ENDS} - clock_timestamp())::numeric, 1) AS lease,
            (SELECT string_agg(step_id || ' ' || run_steps.status, ', ') FROM run_steps
            WHERE run_id = runs.id AND run_steps.status IN ('running', 'pending')) AS steps,
            (SELECT actor FROM run_events WHERE run_id = runs.id ORDER BY seq DESC LIMIT 1) AS actor
        FROM runs WHERE tenant_id = ANY($1) AND status IN ('queued', 'running') ORDER BY created_at""",
        tenants,
    )
    found = []
    for row in rows:
        if row["status"] == "queued":
            waits = "a worker to claim it"
        elif row["handed_back"] or (row["lease"] or 0) <= 0:
            waits = "a worker to take it over"
        else:
            waits = f"{row['actor']} to end {row['steps'] or 'it'}"
        found.append(
            f"run {row['id']} of {row['workflow_name']} is {row['status']} in attempt {row['attempt']} and "
            f"waits for {waits} "
            f"(epoch {row['epoch']}, {row['losses']} losses, {row['hand_backs']} hand-backs, "
            f"lease ends in {row['lease']} s)"
        )
    return found


async def errors_of(admin: asyncpg.Connection, tenants: list[str]) -> dict[str, RunError]:
    """The error of each failed run."""
    rows = await admin.fetch(
        "SELECT id, error FROM runs WHERE tenant_id = ANY($1) AND status = 'failed'", tenants
    )
    return {str(row["id"]): RunError.FromString(row["error"]) for row in rows}


@dataclass(frozen=True)
class Files:
    """Artifacts' files against their rows."""

    missing: int  # rows without a file: bytes that are lost
    unswept: int  # files without a row: a worker was stopped in between, or its write was fenced off


async def artifact_files(admin: asyncpg.Connection, directory: Path) -> Files:
    """Compares them. What has no row is for the hourly sweep to take."""
    keys = {row["key"] for row in await admin.fetch("SELECT key FROM artifacts")}
    files = {
        str(each.relative_to(directory))
        for each in directory.rglob("*")  # noqa: ASYNC240 - nothing else is under way
        if each.is_file()
    }
    return Files(len(keys - files), len(files - keys))


# What each may open (README, settings): a pool that was not full in the warm-up may fill up to that.
_CONNECTIONS = {"serve": 21, "worker": 15}


def _slack(name: str, figure: str, kind: str, before: Figures) -> int:
    command = name.partition("-")[0]
    if figure == "memory":
        return SLACK_MIB[command]
    if figure == "connections" or kind == "unix socket":
        return max(0, _CONNECTIONS.get(command, 0) - before.get("connections", Counter()).total())
    return 0


def grown(before: Reading, after: Reading) -> list[str]:
    """What processes have more of than they had, in words; memory beyond its slack."""
    found = []
    for name in before:
        for figure in after[name]:
            old, new = before[name].get(figure, Counter()), after[name][figure]
            for kind in sorted(new):
                slack = _slack(name, figure, kind, before[name])
                if new[kind] > old[kind] + slack and _GROWS_BY_ITSELF not in kind:
                    unit = f" MiB, with a slack of {slack}" if figure == "memory" else ""
                    found.append(f"{name}, {figure}: {kind} {old[kind]} → {new[kind]}{unit}")
    return found
