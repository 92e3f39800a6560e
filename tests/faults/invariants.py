"""What must have held, judged by the history and the database together: a function an invariant.

Each answers its violations in words; none means that it held.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise

from tests.faults.campaign_invariant import i7_transitions_share_a_transaction
from tests.faults.facts import (
    ACTIVE,
    CLAIMS,
    RESOLUTION,
    STATUSES,
    TERMINAL,
    Call,
    Facts,
    Row,
    grouped,
    in_sequence,
)
from tests.faults.gate_invariant import i14_gates_are_passed_by_resumes_alone
from tests.faults.history import Note

_PATIENCE = 0.5
_RANK = {status: min(rank, 2) for rank, status in enumerate(STATUSES)}
_LEGAL: dict[tuple[str | None, str], tuple[str, ...] | None] = {
    (None, "queued"): ("TRIGGERED",),
    ("queued", "running"): ("CLAIMED",),
    ("running", "running"): ("TAKEN_OVER", "WAITING", "RESUMED"),
    ("running", "completed"): None,
    ("running", "failed"): None,
    ("queued", "failed"): None,
    ("queued", "cancelled"): ("CANCELLED",),
    ("running", "cancelled"): ("CANCELLED",),
    ("failed", "queued"): ("RETRIED",),
    ("cancelled", "queued"): ("RETRIED",),
}
# What may come after some of them, and before.
_AFTER = {"WAITING": ("RESUMED", "TAKEN_OVER", "CANCELLED"), "RESUMED": ("TAKEN_OVER", "CANCELLED")}
_BEFORE = {"WAITING": CLAIMS, "RESUMED": ("WAITING",)}


def i1_acknowledged_triggers_are_stored(facts: Facts) -> list[str]:
    """An acknowledged trigger is in `runs`."""
    return [
        f"the trigger of run {run_id} was acknowledged, and it is not there"
        for call in facts.answered("trigger")
        if (run_id := call.runs[0]["id"]) not in facts.run
        or facts.run[run_id]["tenant_id"] != call.asked["tenant"]
    ]


def i2_one_run_a_key(facts: Facts) -> list[str]:
    """One (tenant, idempotency key) → one run."""
    found = []
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for call in facts.answered("trigger"):
        if call.asked.get("key"):
            answers[call.asked["tenant"], call.asked["key"]].add(call.runs[0]["id"])
    for (_, key), run_ids in answers.items():
        if len(run_ids) > 1:
            found.append(f"key {key} was answered with {len(run_ids)} runs: {sorted(run_ids)}")
    stored = Counter((run["tenant_id"], run["key"]) for run in facts.rows.runs if run["key"])
    found += [f"key {key} has {count} runs" for (_, key), count in stored.items() if count > 1]
    return found


def i3_every_run_ends(facts: Facts) -> list[str]:
    """Every run reaches a terminal state once faults stop."""
    return [f"run {run['id']} is {run['status']}" for run in facts.rows.runs if run["status"] in ACTIVE]


def i4_terminal_states_stay(facts: Facts) -> list[str]:
    """A terminal state changes only by retry (attempt + 1); one terminal event for each (run, attempt)."""
    found = []
    for run_id, events in facts.events.items():
        ends = Counter(event["attempt"] for event in events if event["to_status"] in TERMINAL)
        found += [
            f"run {run_id} ended {count} times in attempt {attempt}"
            for attempt, count in ends.items()
            if count > 1
        ]
        for before, after in pairwise(events):
            if before["to_status"] in TERMINAL and not (
                after["reason"] == "RETRIED" and after["attempt"] == before["attempt"] + 1
            ):
                found.append(
                    f"run {run_id} was {before['to_status']} in attempt {before['attempt']}, and became "
                    f"{after['to_status']} in attempt {after['attempt']} ({after['reason']})"
                )
        if (run := facts.run.get(run_id)) is not None:
            last = events[-1]
            if (run["status"], run["attempt"]) != (last["to_status"], last["attempt"]):
                found.append(
                    f"run {run_id} is {run['status']} in attempt {run['attempt']}; its last event is "
                    f"{last['to_status']} in attempt {last['attempt']}"
                )
    return found


def i5_older_epochs_change_nothing(facts: Facts) -> list[str]:
    """The epoch rises with every claim, and when a run begins to wait; a write with an older epoch changes
    nothing.
    """
    found = [
        f"run {run['id']} has epoch {run['epoch']}, which was raised {count} times"
        for run in facts.rows.runs
        if run["epoch"] != (count := len(facts.epochs.get(run["id"], [])))
    ]
    for note in facts.notes("claimed"):
        epochs = facts.epochs.get(note["run"], [])
        claim = epochs[note["epoch"] - 1] if 0 < note["epoch"] <= len(epochs) else None
        if claim is None or claim["reason"] not in CLAIMS or not claim["actor"].endswith(f":{note['pid']}"):
            found.append(
                f"run {note['run']}: worker {note['pid']} holds epoch {note['epoch']}, "
                f"whose claim is {claim['actor'] if claim else 'nobody'}'s"
            )
    for note in facts.notes("write"):
        if note["outcome"] != "applied":
            continue
        events, epochs = facts.events.get(note["run"], []), facts.epochs.get(note["run"], [])
        if note["epoch"] > len(epochs):
            continue  # told above
        place = next(at for at, event in enumerate(events) if event is epochs[note["epoch"] - 1])
        after = events[place + 1] if place + 1 < len(events) else None
        if after is not None and note["began"] > after["at"] + RESOLUTION:
            found.append(
                f"run {note['run']}: {note['name']} of epoch {note['epoch']} was applied although the run "
                f"was {after['reason']} {note['began'] - after['at']:.3f} s before it began"
            )
    for run_id, events in facts.events.items():
        holder = None
        for event in events:
            if event["reason"] in CLAIMS:
                holder = event["actor"]
            elif event["to_status"] in ("completed", "failed") or event["reason"] == "WAITING":
                if event["actor"] != holder:
                    found.append(
                        f"run {run_id} was {event['reason']} by {event['actor']}; its holder was {holder}"
                    )
                holder = None
    return found


def i6_cancelled_stays_cancelled(facts: Facts) -> list[str]:
    """An acknowledged cancel of a live run ends `cancelled`; its campaign is untouched."""
    found = []
    for call in facts.answered("cancel"):
        (run,) = call.runs
        ends = [
            event["to_status"]
            for event in facts.events.get(run["id"], [])
            if event["attempt"] == run["attempt"] and event["to_status"] in TERMINAL
        ]
        if ends != ["cancelled"]:
            found.append(f"run {run['id']} was cancelled in attempt {run['attempt']}, which ended as {ends}")
        found += [
            f"campaign {campaign['id']} was moved by run {run['id']}, whose attempt {run['attempt']} was "
            "cancelled"
            for campaign in facts.rows.campaigns
            if (campaign["latest_run_id"], campaign["latest_run_attempt"]) == (run["id"], run["attempt"])
            and campaign["tenant_id"] == call.asked["tenant"]
        ]
    return found


def i8_completed_steps_stay(facts: Facts) -> list[str]:
    """A completed step does not run again; executions of a step ≤ claims of that attempt, each with the
    same idempotency key; a claim repeats one step at most, but where several may be under way (`of_many`).
    """
    found = []
    steps = grouped(facts.rows.steps, "id")
    for step_id, rows in steps.items():
        completed = [row["attempt"] for row in rows if row["status"] == "completed"]
        if len(completed) > 1 or (completed and completed[0] != max(row["attempt"] for row in rows)):
            found.append(f"step {step_id} of run {rows[0]['run_id']} was executed after it was completed")
    for run_id, entered in facts.entered.items():
        claims = facts.claims.get(run_id, [])
        found += _repeated(run_id, entered, claims)
        for note in entered:
            own = [
                claim["at"]
                for claim in claims
                if claim["actor"].endswith(f":{note['pid']}") and claim["at"] <= note["at"] + RESOLUTION
            ]
            if not own:
                found.append(f"run {run_id}: {note['node']} ran on worker {note['pid']}, which never had it")
                continue
            for row in steps.get(note["key"].partition(":")[2], []):
                if row["status"] == "completed" and row["completed_at"] < max(own):
                    found.append(f"run {run_id}: {note['node']} ran again after it was completed")
        saw: dict[int, set[str]] = defaultdict(set)
        for note in entered:
            for place, marker in enumerate(note["saw"]):
                saw[place].add(marker)
        found += [
            f"run {run_id}: what step {place + 1} returned was seen as {sorted(markers)}"
            for place, markers in saw.items()
            if len(markers) > 1
        ]
    return found


def _repeated(run_id: str, entered: list[Note], claims: list[Row]) -> list[str]:
    found = []
    for attempt, notes in grouped(entered, "attempt").items():
        granted = sum(claim["attempt"] == attempt for claim in claims)
        executions = Counter(note["node"] for note in notes)
        found += [
            f"run {run_id}: {node} ran {count} times in attempt {attempt}, which was claimed {granted} times"
            for node, count in executions.items()
            if count > granted
        ]
        extra = executions.total() - len(executions)
        of_many = any(note.get("of_many") for note in notes)
        if executions and not of_many and extra > granted - 1:
            found.append(f"run {run_id}: {extra} executions too many for {granted} claims")
    for node, notes in grouped(entered, "node").items():
        if len({note["key"] for note in notes}) > 1:
            found.append(f"run {run_id}: {node} ran under different idempotency keys")
    return found


def i9_every_transition_is_seen_once(facts: Facts) -> list[str]:
    """The timeline is a legal chain, each transition once and in order; whoever looks sees a beginning
    of it, and nothing that was seen is taken back.
    """
    found = []
    for run_id, events in facts.events.items():
        before: Row = {"to_status": None, "attempt": 1, "at": 0.0, "reason": None}
        for event in events:
            move = (event["from_status"], event["to_status"])
            if not _may_follow(before, event):
                found.append(
                    f"run {run_id}: {before['to_status']} in attempt {before['attempt']} "
                    f"({before['reason']}) is followed by "
                    f"{move[0]} → {move[1]} in attempt {event['attempt']} ({event['reason']})"
                )
            if event["at"] < before["at"]:
                found.append(f"run {run_id}: {move[0]} → {move[1]} comes before what preceded it")
            before = event
    found += [f"run {run_id} has no events" for run_id in facts.run.keys() - facts.events.keys()]
    seen: dict[str, list[tuple[Call, Row]]] = defaultdict(list)
    for call in facts.calls:
        if call.succeeded:
            for run in call.runs:
                seen[run["id"]].append((call, run))
            found += _not_a_beginning(facts, call)
    for run_id, sightings in seen.items():
        of = {id(call): run for call, run in sightings}
        for earlier, later in in_sequence(call for call, _ in sightings if not _is_replayed(call)):
            first, second = of[id(earlier)], of[id(later)]
            if _progress(second) < _progress(first) or (
                _progress(second) == _progress(first) and second["status"] != first["status"]
            ):
                found.append(
                    f"run {run_id} was seen {first['status']} in attempt {first['attempt']}, then "
                    f"{second['status']} in attempt {second['attempt']}"
                )
    return found


def _may_follow(before: Row, event: Row) -> bool:
    reason = event["reason"]
    legal = _LEGAL.get((event["from_status"], event["to_status"]), ())
    return (
        event["from_status"] == before["to_status"]
        and (legal is None or reason in legal)
        and event["attempt"] == before["attempt"] + int(reason == "RETRIED")
        and reason in _AFTER.get(before["reason"], (reason,))
        and before["reason"] in _BEFORE.get(reason, (before["reason"],))
    )


def _is_replayed(call: Call) -> bool:
    """The answer may be a stored one."""
    return bool(call.asked.get("key"))


def _progress(run: Row) -> tuple[int, int]:
    return run["attempt"], _RANK[run["status"]]


def _not_a_beginning(facts: Facts, call: Call) -> list[str]:
    told = (call.answer or {}).get("events")
    if told is None:
        return []
    run_id = call.asked["run"]
    stored = [
        [event["from_status"], event["to_status"], event["attempt"], event["reason"]]
        for event in facts.events.get(run_id, [])
    ]
    if not told or stored[: len(told)] != told:
        return [f"run {run_id}: its timeline was told as {told}, and is {stored}"]
    return []


def i10_tenants_are_apart(facts: Facts) -> list[str]:
    """No tenant sees another's row, id, count or event."""
    found = []
    for call in facts.calls:
        if call.answer is None:
            continue
        tenant = call.asked["tenant"]
        found += [
            f"tenant {tenant} was told of run {run['id']} of {facts.run[run['id']]['tenant_id']}"
            for run in call.runs
            if run["id"] in facts.run and facts.run[run["id"]]["tenant_id"] != tenant
        ]
        if not call.asked.get("foreign"):
            continue
        if call.asked["method"] == "list":
            page = call.answer.get("list", {})
            if call.answer["ok"] and (page["total"] or any(page["counts"].values()) or page["runs"]):
                found.append(f"tenant {tenant} was told of the runs of another's campaign: {page}")
        elif call.answer["ok"] or (
            call.answer["reason"] not in ("RUN_NOT_FOUND", "CAMPAIGN_NOT_FOUND", *PASSING)
        ):
            told = "an answer" if call.answer["ok"] else call.answer["reason"]
            found.append(f"tenant {tenant} got {told} to {call.asked['method']} of what is another's")
    return found


# What any call may come to while something is broken.
PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "OVERLOADED", "INTERRUPTED", "QUOTA_EXCEEDED")


def i11_no_call_outlives_its_deadline(facts: Facts) -> list[str]:
    """No call outlives its deadline by 0.5 s, beyond what the client's own event loop was late."""
    found = []
    for call in facts.calls:
        if call.answer is None:
            continue
        over = call.answer["seconds"] - call.asked["deadline"] - call.answer["lag"]
        if over > _PATIENCE:
            found.append(f"{call.asked['method']} outlived its deadline by {over:.2f} s")
        if call.answer.get("reason") == "INTERNAL":
            found.append(f"{call.asked['method']} met a fault of the server: {call.answer.get('detail')}")
    return found


INVARIANTS: dict[str, Callable[[Facts], list[str]]] = {
    function.__name__.partition("_")[0].upper(): function
    for function in (
        i1_acknowledged_triggers_are_stored,
        i2_one_run_a_key,
        i3_every_run_ends,
        i4_terminal_states_stay,
        i5_older_epochs_change_nothing,
        i6_cancelled_stays_cancelled,
        i7_transitions_share_a_transaction,
        i8_completed_steps_stay,
        i9_every_transition_is_seen_once,
        i10_tenants_are_apart,
        i11_no_call_outlives_its_deadline,
        i14_gates_are_passed_by_resumes_alone,
    )
}


def violations(facts: Facts) -> list[str]:
    """All of them, each with the name of its invariant."""
    return [f"{name}: {words}" for name, holds in INVARIANTS.items() for words in holds(facts)]
