"""What invariants are judged by: the history of the calls, and the rows of the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

import asyncpg
from runengine_server.domain.encoded_run import decode_input
from runengine_server.domain.struct import to_dict

from tests.faults.history import Note

Row = dict[str, Any]

# What is stored is in whole milliseconds, and a commit comes after the time that it carries.
RESOLUTION = 0.003

ACTIVE, TERMINAL = ("queued", "running"), ("completed", "failed", "cancelled")
STATUSES = (*ACTIVE, *TERMINAL)
CLAIMS = ("CLAIMED", "TAKEN_OVER")
RAISES = (*CLAIMS, "WAITING")  # the epoch

_TABLES = {
    "runs": """SELECT tenant_id, id, workflow_name, status, attempt, campaign_id, epoch, losses, created_at,
        encoded_input FROM runs""",
    "events": """SELECT tenant_id, run_id, at, from_status, to_status, attempt, actor, reason
        FROM run_events""",
    # Beyond a hundred, artifacts name their step, and not the step them.
    "steps": """SELECT tenant_id, run_id, id, attempt, run_attempt, step_id, status, completed_at,
        output_artifact_ids || ARRAY(
            SELECT artifacts.id FROM artifacts WHERE artifacts.tenant_id = run_steps.tenant_id
            AND artifacts.run_id = run_steps.run_id AND task_id = run_steps.id
            AND step_attempt = run_steps.attempt
        ) AS output_artifact_ids FROM run_steps""",
    "campaigns": """SELECT tenant_id, id, status, bundle_url, latest_run_id, latest_run_attempt
        FROM campaigns""",
    "counts": """SELECT tenant_id, campaign_id, sum(queued)::int AS queued, sum(running)::int AS running,
        sum(completed)::int AS completed, sum(failed)::int AS failed, sum(cancelled)::int AS cancelled
        FROM campaign_run_counts""",
    "artifacts": "SELECT tenant_id, id, run_id FROM artifacts",
}
_REST = {"counts": "GROUP BY tenant_id, campaign_id", "events": "ORDER BY seq", "steps": "ORDER BY seq"}


@dataclass
class Rows:
    """The tables; ids are strings and times seconds, as in the history. Events are in their order."""

    runs: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    campaigns: list[Row] = field(default_factory=list)
    counts: list[Row] = field(default_factory=list)
    artifacts: list[Row] = field(default_factory=list)


async def read_rows(superuser: asyncpg.Connection, tenants: Sequence[str]) -> Rows:
    """All rows of these tenants, in one snapshot."""
    async with superuser.transaction(isolation="repeatable_read", readonly=True):
        tables = {
            name: await superuser.fetch(
                f"{sql} WHERE tenant_id = ANY($1) {_REST.get(name, '')}", list(tenants)
            )
            for name, sql in _TABLES.items()
        }
    return Rows(**{name: [_plain(row) for row in rows] for name, rows in tables.items()})


def _plain(row: asyncpg.Record) -> Row:
    plain = {name: _plain_value(value) for name, value in row.items()}
    if "encoded_input" in plain:
        plain["key"] = to_dict(decode_input(plain.pop("encoded_input"))[0]).get("key")
    return plain


def _plain_value(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, list):
        return [_plain_value(each) for each in value]
    return value


@dataclass(frozen=True)
class Call:
    """A client's call; without an answer, its client went away first."""

    asked: Note
    answer: Note | None

    @property
    def began(self) -> float:
        """When it was sent."""
        return float(self.asked["at"])

    @property
    def ended(self) -> float:
        """When it was answered."""
        assert self.answer is not None
        return float(self.answer["at"])

    @property
    def succeeded(self) -> bool:
        """Whether it was answered, and with no error."""
        return self.answer is not None and bool(self.answer["ok"])

    @property
    def runs(self) -> list[Row]:
        """The runs in the answer."""
        answer = self.answer or {}
        return [answer["run"]] if answer.get("run") else list(answer.get("list", {}).get("runs", []))


@dataclass
class Facts:
    """What is judged."""

    history: list[Note]
    rows: Rows

    def notes(self, what: str) -> Iterator[Note]:
        """Those of a kind."""
        return (note for note in self.history if note["what"] == what)

    @cached_property
    def calls(self) -> list[Call]:
        """All calls in the order they were sent."""
        answers = {note["call"]: note for note in self.notes("answer")}
        return [Call(note, answers.get(note["call"])) for note in self.notes("call")]

    def answered(self, method: str, **asked: Any) -> list[Call]:
        """The successful calls of one's own tenant."""
        return [
            call
            for call in self.calls
            if call.succeeded
            and call.asked["method"] == method
            and not call.asked.get("foreign")
            and all(call.asked.get(name) == value for name, value in asked.items())
        ]

    @cached_property
    def run(self) -> dict[str, Row]:
        """The runs by id."""
        return {run["id"]: run for run in self.rows.runs}

    @cached_property
    def events(self) -> dict[str, list[Row]]:
        """The transitions of each run, in order."""
        return grouped(self.rows.events, "run_id")

    @cached_property
    def claims(self) -> dict[str, list[Row]]:
        """The claims of each run, in order."""
        return self._with_reason(CLAIMS)

    @cached_property
    def epochs(self) -> dict[str, list[Row]]:
        """The events of each run that raised its epoch; the nth brought the epoch n."""
        return self._with_reason(RAISES)

    @cached_property
    def resumptions(self) -> dict[str, list[Row]]:
        """The events of each run by which it was resumed."""
        return self._with_reason(("RESUMED",))

    def _with_reason(self, reasons: Sequence[str]) -> dict[str, list[Row]]:
        return {
            run_id: [event for event in events if event["reason"] in reasons]
            for run_id, events in self.events.items()
        }

    @cached_property
    def entered(self) -> dict[str, list[Note]]:
        """The executions of nodes of each run."""
        return grouped(self.notes("entered"), "run")

    def order(self, run_id: str) -> tuple[float, str]:
        """Where a run is among those of its campaign."""
        return self.run[run_id]["created_at"], run_id


def grouped(items: Iterable[Row], name: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for item in items:
        groups[item[name]].append(item)
    return groups


def in_sequence(calls: Iterable[Call]) -> Iterator[tuple[Call, Call]]:
    """Pairs of which the first was answered before the second was sent, so that one knows which of their
    answers is the older one: each call with the last that had ended before it.
    """
    ended: list[Call] = []
    for call in sorted(calls, key=lambda call: call.began):
        before = [each for each in ended if each.ended <= call.began]
        if before:
            last = max(before, key=lambda each: each.ended)
            yield last, call
            # All that had ended before `last` are compared with it, or with one in between.
            ended = [each for each in ended if each.ended > last.ended or each is last]
        ended.append(call)
