"""What workers have done for their runs, as the arguments of one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from runengine_server.database.functions import of_tenants
from runengine_server.repositories.write_behind import PendingWrites

_FUNCTION = of_tenants("record_progress", "record_progress_of_tenants")

# How many parameters record_progress has for each kind of rows.
_COMPLETED, _WRITES, _CHECKPOINTS, _PRUNED, _DROPPED, _BEGUN = 3, 9, 7, 3, 2, 7

# What a row takes besides its values, about.
_ROW_BYTES = 256

# A call: tenant, run, epoch, and what is to be stored of the run.
Call: TypeAlias = tuple[str, UUID, int, Sequence[PendingWrites]]


class RecordProgress:
    """record_progress of steps.sql, as Batcher takes it. The result of a call is the attempt of each step
    that begins; None when the run is not held under that epoch any more.
    """

    name = _FUNCTION.name

    def size(self, call: tuple[Any, ...]) -> int:
        """About so many bytes."""
        batch: Sequence[PendingWrites] = call[3]
        return sum([each.size for each in batch]) + _ROW_BYTES * len(batch)

    def statement(self, calls: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """The statement for these calls, and its arguments."""
        calls = sorted(calls, key=itemgetter(1))  # the order in which it locks them
        tenants = [tenant for tenant, *_ in calls]
        arguments = progress_arguments(calls)
        if len(calls) == 1 or len(set(tenants)) == 1:
            return _FUNCTION.one.call, [tenants[0], *arguments]
        return _FUNCTION.many, [tenants, *arguments]

    def results(
        self, calls: Sequence[Any], rows: Sequence[asyncpg.Record]
    ) -> Sequence[Mapping[UUID, int] | None]:
        """The result of each call."""
        attempts: dict[UUID, dict[UUID, int]] = {}
        for run_id, step_id, attempt in rows:
            if step_id is None:
                attempts[run_id] = {}
            else:
                attempts[run_id][step_id] = attempt
        return [attempts.get(run_id) for _, run_id, _, _ in calls]


RECORD_PROGRESS = RecordProgress()


def progress_arguments(calls: Sequence[Call]) -> list[list[Any] | None]:
    """The arguments of record_progress, after the tenant. A checkpoint that another one of the same run
    replaces is left out, with the writes on top of it; so is a begin that nobody waits for.

    None stands for no rows: asyncpg 0.32 checks the type of each array, and most of these are empty.
    """
    completed: list[tuple[Any, ...]] = []
    writes: list[tuple[Any, ...]] = []
    checkpoints: list[tuple[Any, ...]] = []
    pruned: list[tuple[Any, ...]] = []
    dropped: list[tuple[Any, ...]] = []
    begun: list[tuple[Any, ...]] = []
    for place, (_, _, _, batch) in enumerate(calls, 1):
        saved = [each.checkpoint for each in batch if each.checkpoint is not None]
        replaced: set[Any] = {(each.checkpoint_ns, each.replaces) for each in saved}
        written: dict[Any, tuple[Any, ...]] = {}
        stored: dict[Any, tuple[Any, ...]] = {}
        oldest_needed: dict[str, str] = {}
        steps: dict[UUID, tuple[Any, ...]] = {}
        for each in batch:
            if each.completed_step is not None:
                completed.append((place, each.completed_step, each.update))
            for key, row in each.writes.items():
                if key[:2] not in replaced:
                    written[key] = (place, *row)
            if each.begun_step is not None and each.is_awaited:
                steps[each.begun_step[0]] = (place, *each.begun_step)
        for checkpoint in saved:
            named = checkpoint.checkpoint_ns, checkpoint.checkpoint_id
            if named not in replaced:
                stored[named] = (place, *checkpoint.row)
            oldest_needed |= checkpoint.oldest_needed
            dropped += [(place, namespace) for namespace in checkpoint.dropped_namespaces]
        writes += written.values()
        checkpoints += stored.values()
        pruned += [(place, *each) for each in oldest_needed.items()]
        begun += steps.values()
    return [
        [run_id for _, run_id, _, _ in calls],
        [epoch for _, _, epoch, _ in calls],
        *_columns(completed, _COMPLETED),
        *_columns(writes, _WRITES),
        *_columns(checkpoints, _CHECKPOINTS),
        *_columns(pruned, _PRUNED),
        *_columns(dropped, _DROPPED),
        *_columns(begun, _BEGUN),
    ]


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> Sequence[list[Any] | None]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [None] * count
