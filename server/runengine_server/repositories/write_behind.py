"""What a worker has done for a run and PostgreSQL does not have yet, and which statement takes it there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from uuid import UUID

from runengine_server.domain.errors import Fenced, StatementRefused

# What one statement takes at most: it has 9 s for its way and its work.
_MAX_ITEMS, _MAX_BYTES = 1000, 4 << 20

# Steps that have completed, each with its update.
CompletedSteps: TypeAlias = Sequence[tuple[UUID, bytes | None]]


@dataclass(frozen=True, slots=True)
class CutBytes:
    """Bytes out of which large values are cut. `refs` say which, and where they were, as values.sql has it;
    `new` are those that are not stored yet, by their hashes.
    """

    rest: bytes
    refs: bytes | None = None
    new: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A row of checkpoints; `type` is that of the serialised `checkpoint`, `metadata` is JSON.

    Once it is stored, nothing needs the checkpoint that it `replaces`, in the same namespace, nor the writes
    on top of that. Together with it are deleted: in the namespaces of `oldest_needed` all checkpoints older
    than the one named there, and the namespaces in `dropped_namespaces` as a whole.

    Values that `value_refs` refer to are cut out of `checkpoint`, as in CutBytes. Unless `kept_values` is
    None, those are deleted that no checkpoint refers to and whose hashes are not in it.
    """

    checkpoint_ns: str
    checkpoint_id: str
    parent_checkpoint_id: str | None
    type: str
    checkpoint: bytes
    metadata: bytes
    value_refs: bytes | None = None
    kept_values: bytes | None = None
    replaces: str | None = None
    oldest_needed: dict[str, str] = field(default_factory=dict)
    dropped_namespaces: list[str] = field(default_factory=list)

    @property
    def row(self) -> tuple[object, ...]:
        """As record_progress of steps.sql takes it."""
        return (
            self.checkpoint_ns,
            self.checkpoint_id,
            self.parent_checkpoint_id,
            self.type,
            self.checkpoint,
            self.metadata,
            self.value_refs,
        )


@dataclass(eq=False, slots=True)
class PendingWrites:
    """What one call wants stored: a step that completed with what its task wrote, and that `update` as it is
    kept with the step, a checkpoint, or the begin of a step (id, name, skill, whether the cache has its
    result, its encoded input, the step that it is within, the refs of the input). `large_values` are those,
    of steps or else of checkpoints, that this and what comes later refers to, by their hashes. Who waits for
    it waits for `stored`, which gets the attempt of the step that began, or 0.
    """

    completed_step: UUID | None = None
    update: bytes | None = None
    writes: dict[tuple[str, str, str, int], tuple[Any, ...]] = field(default_factory=dict)
    checkpoint: StoredCheckpoint | None = None
    begun_step: tuple[UUID, str, str, bool, bytes | None, UUID | None, bytes | None] | None = None
    large_values: dict[tuple[bool, bytes], bytes] = field(default_factory=dict)
    stored: asyncio.Future[int] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether somebody still waits for it."""
        return self.stored is not None and not self.stored.done()

    @property
    def has_results(self) -> bool:
        """Whether it has more than the begin of a step, which only matters to who waits for it."""
        return bool(self.completed_step or self.writes or self.checkpoint or self.large_values)

    @property
    def deletes_values(self) -> bool:
        """Whether large values that nothing refers to are deleted with it."""
        return self.checkpoint is not None and self.checkpoint.kept_values is not None

    @property
    def size(self) -> int:
        """About so many bytes."""
        size = len(self.checkpoint.checkpoint) if self.checkpoint else 0
        for row in self.writes.values():
            size += len(row[-1])
        for value in self.large_values.values():
            size += len(value)
        return size


class WriteBehind:
    """Sends pending writes in the order in which they came, one statement at a time, each with all that has
    come together while the one before was under way: a thousand steps side by side take a few statements.

    `send` executes the statement and returns the attempt of each step that has begun, or None when the run is
    another worker's. When PostgreSQL refuses a batch, each awaited part of it is sent by itself, so that one
    is not refused because of another.
    """

    def __init__(
        self, send: Callable[[Sequence[PendingWrites]], Awaitable[Mapping[UUID, int] | None]]
    ) -> None:
        self._send = send
        self._queue: deque[PendingWrites] = deque()
        # How many of the queue are still to be sent part by part.
        self._in_parts = 0
        self._is_due = False
        self._under_way: list[PendingWrites] = []
        self._statement: asyncio.Future[Mapping[UUID, int] | None] | None = None
        self._alone = asyncio.Lock()

    @property
    def has_deferred(self) -> bool:
        """Whether something waits that no statement has been sent with yet."""
        return bool(self._queue)

    @property
    def completed_steps(self) -> CompletedSteps:
        """The steps that have completed and are not stored, each with its update."""
        return [(each.completed_step, each.update) for each in self._queue if each.completed_step is not None]

    def defer(self, writes: PendingWrites) -> None:
        """Leaves them to the next statement."""
        self._queue.append(writes)

    async def store(self, writes: PendingWrites) -> int:
        """Returns once they are stored, with all that came before."""
        writes.stored = asyncio.get_running_loop().create_future()
        self._queue.append(writes)
        self._send_soon()
        try:
            return await writes.stored
        except asyncio.CancelledError:
            # A statement that nobody waits for any more would hold up what else the run has to store. But one
            # that deletes large values must not commit after those that store them again.
            is_needed = _is_awaited(self._under_way) or any(each.deletes_values for each in self._under_way)
            if self._statement is not None and not is_needed:
                self._statement.cancel()
            raise

    async def flush(self) -> None:
        """Stores what was deferred."""
        if self._queue or self._statement is not None:
            await self.store(PendingWrites())

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """What is executed in the block comes after all statements before it, and before the next."""
        try:
            async with self._alone:
                while self._statement is not None:
                    await asyncio.wait([self._statement])
                    await asyncio.sleep(0)  # for _on_sent
                yield
        finally:
            self._send_soon()

    def clear(self) -> None:
        """Forgets everything: the run has ended, in `alone`."""
        _fail(self._queue, Fenced())
        self._queue.clear()

    def _send_soon(self) -> None:
        # Not at once, so that it takes with it what tasks side by side have to store.
        if not self._is_due and self._statement is None and self._queue:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._send_next)

    def _send_next(self) -> None:
        self._is_due = False
        if self._statement is not None or self._alone.locked():
            return
        while _is_awaited(self._queue):
            batch = self._next_batch()
            if any(each.has_results or each.begun_step is not None for each in batch):
                self._under_way = batch
                self._statement = asyncio.ensure_future(self._send(batch))
                self._statement.add_done_callback(self._on_sent)
                return
            _succeed(batch, {})

    def _on_sent(self, statement: asyncio.Future[Mapping[UUID, int] | None]) -> None:
        batch, self._under_way, self._statement = self._under_way, [], None
        if statement.cancelled():
            self._restore(batch)
        elif (error := statement.exception()) is not None:
            self._on_failed(batch, error)
        elif (attempts := statement.result()) is None:
            self._on_failed(batch, Fenced())
        else:
            _succeed(batch, attempts)
        self._send_next()

    def _on_failed(self, batch: list[PendingWrites], error: BaseException) -> None:
        if not isinstance(error, StatementRefused):
            # The run is another worker's, or the database is away: nobody gets what he waits for.
            self._restore(batch)
            _fail(batch, error)
            _fail(self._queue, error)
        elif len(list(_parts(batch))) == 1:
            # Results are kept when the begin of a step may be what was refused, and when nobody waits, so
            # that who comes next is told. Others would be refused each time; but not large values, which
            # what comes later refers to.
            is_kept = any(each.begun_step for each in batch) or all(each.stored is None for each in batch)
            values = [PendingWrites(large_values=each.large_values) for each in batch]
            self._restore(batch if is_kept else values)
            _fail(batch, error)
        else:
            self._queue.extendleft(reversed(batch))
            self._in_parts += len(batch)

    def _restore(self, batch: Iterable[PendingWrites]) -> None:
        """Puts back what may not have been stored, with nobody who waits for it: to store it twice does no
        harm.
        """
        again = [replace(each, begun_step=None, stored=None) for each in batch if each.has_results]
        self._queue.extendleft(reversed(again))
        self._in_parts += len(again) if self._in_parts else 0

    def _next_batch(self) -> list[PendingWrites]:
        batch: list[PendingWrites] = []
        size = 0
        while self._queue and len(batch) < _MAX_ITEMS and (size < _MAX_BYTES or not _is_awaited(batch)):
            each = self._queue.popleft()
            if each.stored is None or each.is_awaited or each.has_results:
                size += each.size
                batch.append(each)
            if self._in_parts:
                self._in_parts -= 1
                if each.is_awaited:
                    break
        return batch


def _is_awaited(batch: Sequence[PendingWrites]) -> bool:
    # From the end, where who waits has come. A loop, because a generator takes twice the time.
    for each in reversed(batch):  # noqa: SIM110
        if each.is_awaited:
            return True
    return False


def _parts(batch: Iterable[PendingWrites]) -> Iterable[list[PendingWrites]]:
    """Each with one that is awaited, and all since the awaited one before."""
    part: list[PendingWrites] = []
    for each in batch:
        part.append(each)
        if each.is_awaited:
            yield part
            part = []
    if part:
        yield part


def _succeed(batch: Iterable[PendingWrites], attempts: Mapping[UUID, int]) -> None:
    for each in batch:
        if each.stored is not None and not each.stored.done():
            each.stored.set_result(attempts[each.begun_step[0]] if each.begun_step else 0)


def _fail(batch: Iterable[PendingWrites], error: BaseException) -> None:
    for each in batch:
        if each.stored is not None and not each.stored.done():
            each.stored.set_exception(error)
