"""The ends of runs that complete at the same time, as the arguments of one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from runengine_server.database.functions import of_tenants, tenant_function
from runengine_server.repositories.write_behind import CompletedSteps

_FUNCTION = of_tenants("complete_runs", "complete_runs_of_tenants")
_END_RUN = tenant_function("end_run")


@dataclass(frozen=True, slots=True)
class Completion:
    """How a run completes: with which worker's hand, what becomes of its campaign (id, status, URL of the
    bundle, run), its steps that have completed, each with its update, and its encoded output.
    """

    worker: str
    campaign: tuple[UUID | None, str | None, str | None, UUID | None]
    completed: CompletedSteps
    output: bytes | None


# A call: tenant, run, epoch, and how it completes.
Call: TypeAlias = tuple[str, UUID, int, Completion]


class CompleteRuns:
    """complete_runs of runs.sql, as Batcher takes it; end_run where one completes alone. The result of a call
    is whether the run was still held under that epoch.
    """

    name = _FUNCTION.name
    turns = 0

    def size(self, call: tuple[Any, ...]) -> int:
        """About so many bytes."""
        completion: Completion = call[3]
        return len(completion.output or b"") + sum([len(update or b"") for _, update in completion.completed])

    def statement(self, calls: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """The statement for these calls, and its arguments."""
        if len(calls) == 1:
            tenant, run_id, epoch, alone = calls[0]
            ending = "completed", None, alone.worker, "COMPLETED", *alone.campaign
            steps = [step for step, _ in alone.completed], [update for _, update in alone.completed]
            return _END_RUN.call, [tenant, run_id, epoch, *ending, *steps, alone.output, *(None,) * 6]
        calls = [calls[each] for each in _lock_order(calls)]
        tenants, run_ids, epochs, completions = zip(*calls, strict=True)
        completed = [(place, *step) for place, each in enumerate(completions, 1) for step in each.completed]
        arguments = [
            run_ids,
            epochs,
            [each.worker for each in completions],
            *zip(*[each.campaign for each in completions], strict=True),
            [each.output for each in completions],
            *(zip(*completed, strict=True) if completed else ([],) * 3),
        ]
        if len(set(tenants)) == 1:
            return _FUNCTION.one.call, [tenants[0], *arguments]
        return _FUNCTION.many, [tenants, *arguments]

    def results(self, calls: Sequence[Any], rows: Sequence[asyncpg.Record]) -> Sequence[bool]:
        """The result of each call."""
        held = {row[0] for row in rows}
        results = [False] * len(calls)
        for place, each in enumerate(_lock_order(calls), 1):
            results[each] = place in held
        return results


COMPLETE_RUNS = CompleteRuns()


def _lock_order(calls: Sequence[Call]) -> Sequence[int]:
    """The indices of the calls in the order in which the statement locks their runs."""
    return sorted(range(len(calls)), key=lambda each: calls[each][1])
