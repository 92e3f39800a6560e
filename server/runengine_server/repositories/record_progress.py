"""What workers have done for their runs, as the arguments of one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from runengine_server.database.functions import of_tenants, tenant_function
from runengine_server.repositories.write_behind import PendingWrites

_FUNCTION = of_tenants("record_progress", "record_progress_of_tenants")
_NEXT_STEP = tenant_function("record_next_step")

# How many parameters record_progress has for each kind of rows.
_COMPLETED, _WRITES, _CHECKPOINTS, _PRUNED, _DROPPED, _BEGUN, _VALUES, _SWEPT = 3, 9, 8, 3, 2, 8, 4, 2

# What a row takes besides its values, about.
_ROW_BYTES = 256

# A call: tenant, run, epoch, and what is to be stored of the run.
Call: TypeAlias = tuple[str, UUID, int, Sequence[PendingWrites]]


class RecordProgress:
    """record_progress of steps.sql, as Batcher takes it. The result of a call is the attempt of each step
    that begins; None when the run is not held under that epoch any more.
    """

    name = _FUNCTION.name
    turns = 0

    def size(self, call: tuple[Any, ...]) -> int:
        """About so many bytes."""
        batch: Sequence[PendingWrites] = call[3]
        return sum([each.size for each in batch]) + _ROW_BYTES * len(batch)

    def statement(self, calls: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """The statement for these calls, and its arguments."""
        if len(calls) > 1:
            calls = [calls[each] for each in _lock_order(calls)]
        rows = _rows_of(calls)
        if len(calls) == 1 and (next_step := rows.next_step()) is not None:
            tenant, run_id, epoch, _ = calls[0]
            return _NEXT_STEP.call, [tenant, run_id, epoch, *next_step]
        tenants = [tenant for tenant, *_ in calls]
        ids, epochs = [run_id for _, run_id, _, _ in calls], [epoch for _, _, epoch, _ in calls]
        arguments = [ids, epochs, *rows.columns()]
        if len(set(tenants)) == 1:
            return _FUNCTION.one.call, [tenants[0], *arguments]
        return _FUNCTION.many, [tenants, *arguments]

    def results(
        self, calls: Sequence[Any], rows: Sequence[asyncpg.Record]
    ) -> Sequence[Mapping[UUID, int] | None]:
        """The result of each call."""
        attempts: dict[int, dict[UUID, int]] = {}
        for place, step_id, attempt in rows:
            of_call = attempts.setdefault(place, {})
            if step_id is not None:
                of_call[step_id] = attempt
        results: list[dict[UUID, int] | None] = [None] * len(calls)
        for place, each in enumerate(_lock_order(calls), 1):
            results[each] = attempts.get(place)
        return results


RECORD_PROGRESS = RecordProgress()


@dataclass(slots=True)
class _Rows:
    """The rows of each kind; the first value of each is the place of its run among the calls, from 1."""

    completed: list[tuple[Any, ...]] = field(default_factory=list)
    writes: list[tuple[Any, ...]] = field(default_factory=list)
    checkpoints: list[tuple[Any, ...]] = field(default_factory=list)
    pruned: list[tuple[Any, ...]] = field(default_factory=list)
    dropped: list[tuple[Any, ...]] = field(default_factory=list)
    begun: list[tuple[Any, ...]] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)
    swept: list[tuple[Any, ...]] = field(default_factory=list)

    def next_step(self) -> list[Any] | None:
        """The arguments of record_next_step, after the epoch; None where it does not take these rows."""
        if len(self.begun) != 1 or len(self.checkpoints) > 1 or len(self.completed) > 1:
            return None
        if self.writes or self.pruned or self.dropped or self.values:
            return None
        completed = self.completed[0][1:] if self.completed else (None,) * (_COMPLETED - 1)
        checkpoint = self.checkpoints[0][1:] if self.checkpoints else (None,) * (_CHECKPOINTS - 1)
        return [*completed, *checkpoint, *self.begun[0][1:]]

    def columns(self) -> list[list[Any] | None]:
        """The arguments of record_progress, after the epochs. None stands for no rows: asyncpg 0.32 checks
        the type of each array, and most of these are empty.
        """
        return [
            *_columns(self.completed, _COMPLETED),
            *_columns(self.writes, _WRITES),
            *_columns(self.checkpoints, _CHECKPOINTS),
            *_columns(self.pruned, _PRUNED),
            *_columns(self.dropped, _DROPPED),
            *_columns(self.begun, _BEGUN),
            *_columns(self.values, _VALUES),
            *_columns(self.swept, _SWEPT),
        ]


def _lock_order(calls: Sequence[Call]) -> Sequence[int]:
    """The indices of the calls in the order in which the statement locks their runs. A run that its own
    worker has lost and taken over may be there twice, under two epochs: a result is known by its place.
    """
    return sorted(range(len(calls)), key=lambda each: calls[each][1])


def _rows_of(calls: Sequence[Call]) -> _Rows:
    """What is to be stored. A checkpoint that another one of the same run replaces is left out, with the
    writes on top of it; so is a begin that nobody waits for.
    """
    rows = _Rows()
    for place, (_, _, _, batch) in enumerate(calls, 1):
        saved = [each.checkpoint for each in batch if each.checkpoint is not None]
        replaced: set[Any] = {(each.checkpoint_ns, each.replaces) for each in saved}
        written: dict[Any, tuple[Any, ...]] = {}
        stored: dict[Any, tuple[Any, ...]] = {}
        oldest_needed: dict[str, str] = {}
        steps: dict[UUID, tuple[Any, ...]] = {}
        values: dict[tuple[bool, bytes], bytes] = {}
        kept: bytes | None = None
        for each in batch:
            if each.completed_step is not None:
                rows.completed.append((place, each.completed_step, each.update))
            values |= each.large_values
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
            kept = kept if checkpoint.kept_values is None else checkpoint.kept_values
            rows.dropped += [(place, namespace) for namespace in checkpoint.dropped_namespaces]
        rows.writes += written.values()
        rows.checkpoints += stored.values()
        rows.pruned += [(place, *each) for each in oldest_needed.items()]
        rows.begun += steps.values()
        rows.values += [(place, *key, value) for key, value in values.items()]
        if kept is not None:
            # What comes later may refer to all that is stored now.
            rows.swept.append((place, kept + b"".join([each for of_steps, each in values if not of_steps])))
    return rows


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> Sequence[list[Any] | None]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [None] * count
