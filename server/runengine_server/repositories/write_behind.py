"""What a worker has done for a run and PostgreSQL does not have yet, and which statement takes it there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from runengine_server.domain.errors import Fenced, StatementRefused

# What one statement takes at most: it has 9 s for its way and its work.
_MOST, _MOST_BYTES = 1000, 4 << 20


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A row of checkpoints; `type` is of the serialised `checkpoint`, `metadata` is JSON.

    What `sums_up` names, a checkpoint of the same namespace, and what was written on top of it, nothing
    needs once this one is stored. With it go, of the namespaces in `oldest_needed`, what is older than the
    checkpoint that they name, and all of the namespaces in `gone`.
    """

    checkpoint_ns: str
    checkpoint_id: str
    parent_checkpoint_id: str | None
    type: str
    checkpoint: bytes
    metadata: bytes
    sums_up: str | None = None
    oldest_needed: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    @property
    def row(self) -> tuple[object, ...]:
        """As store_progress of steps.sql has it."""
        return (
            self.checkpoint_ns,
            self.checkpoint_id,
            self.parent_checkpoint_id,
            self.type,
            self.checkpoint,
            self.metadata,
        )


@dataclass(eq=False, slots=True)
class Done:
    """One thing that was done: steps that completed with what their tasks wrote, a checkpoint, or the begin
    of a step (task, step, skill, whether it is answered from the cache). `stored` is what somebody waits
    for, who gets the number of the execution that has begun.
    """

    completed: UUID | None = None
    writes: dict[tuple[str, str, str, int], tuple[Any, ...]] = field(default_factory=dict)
    checkpoint: StoredCheckpoint | None = None
    begun: tuple[UUID, str, str, bool] | None = None
    stored: asyncio.Future[int] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether somebody still waits for it."""
        return self.stored is not None and not self.stored.done()

    @property
    def size(self) -> int:
        """About so many bytes."""
        return sum(len(row[-1]) for row in self.writes.values()) + (
            len(self.checkpoint.checkpoint) if self.checkpoint else 0
        )


class WriteBehind:
    """Sends what was done in the order in which it was done, one statement at a time, each with all that has
    come together while the one before was under way: a thousand steps side by side take a few statements.

    `send` is the statement; it answers the execution that each task has begun. When it is refused, what
    somebody waits for is sent by itself, so that one is not refused for another.
    """

    def __init__(self, send: Callable[[Sequence[Done]], Any]) -> None:
        self._send = send
        self._queue: deque[Done] = deque()
        self._under_way: list[Done] = []
        # So many are still to be sent part by part.
        self._in_parts = 0
        self._sending: asyncio.Task[None] | None = None
        self.in_order = asyncio.Lock()

    @property
    def is_behind(self) -> bool:
        """Whether something was done that no statement has gone out with yet."""
        return bool(self._queue)

    @property
    def completed(self) -> list[UUID]:
        """The steps that have completed and are not stored."""
        return [done.completed for done in self._queue if done.completed is not None]

    def later(self, done: Done) -> None:
        """Leaves it to the next statement."""
        self._queue.append(done)

    async def store(self, done: Done) -> int:
        """Returns once it is stored, with all that was done before."""
        done.stored = asyncio.get_running_loop().create_future()
        self._queue.append(done)
        self._send_next()
        try:
            return await done.stored
        except asyncio.CancelledError:
            # A statement that nobody waits for any more would hold up what else the run has to store.
            if self._sending is not None and self._under_way and not _awaited(self._under_way):
                self._sending.cancel()
                self._under_way = []
            raise

    async def flush(self) -> None:
        """Stores what was left for later."""
        if self._queue or self._sending is not None:
            await self.store(Done())

    def clear(self) -> None:
        """Forgets everything: the run has ended, under `in_order`."""
        _fail(self._queue, Fenced())
        self._queue.clear()

    def _send_next(self) -> None:
        if self._sending is None and _awaited(self._queue):
            self._sending = asyncio.create_task(self._send_batch())
            self._sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Task[None]) -> None:
        self._sending, self._under_way = None, []
        if not sending.cancelled():
            sending.result()
        self._send_next()

    async def _send_batch(self) -> None:
        async with self.in_order:
            batch = self._under_way = self._next_batch()
            try:
                await self._send_or_restore(batch)
            except StatementRefused as refused:
                if len(list(_parts(batch))) == 1:
                    _fail(batch, refused)
                else:
                    self._queue.extendleft(reversed(batch))
                    self._in_parts += len(batch)
            except Exception as error:
                self._give_up(error, batch)

    async def _send_or_restore(self, batch: list[Done]) -> None:
        """Sends it; what was not stored for sure is sent again, without anybody who waits for it. To store it
        twice does no harm.
        """
        if not any(done.completed or done.writes or done.checkpoint or done.begun for done in batch):
            _answer(batch, {})
            return
        try:
            begun = await self._send(batch)
        except StatementRefused:
            # What was done may be fine by itself, without the begin; and what is not, would be refused each
            # time. Where nobody waits, whoever comes next is told.
            if len(list(_parts(batch))) == 1 and (
                any(done.begun for done in batch) or all(done.stored is None for done in batch)
            ):
                self._restore(batch)
            raise
        except BaseException:
            self._restore(batch)
            raise
        _answer(batch, begun)

    def _restore(self, batch: Iterable[Done]) -> None:
        again = [
            Done(done.completed, done.writes, done.checkpoint)
            for done in batch
            if done.completed or done.writes or done.checkpoint
        ]
        self._queue.extendleft(reversed(again))
        self._in_parts += len(again) if self._in_parts else 0

    def _give_up(self, error: Exception, batch: Iterable[Done]) -> None:
        """The run is not ours, or the database is away: nobody gets what he waits for."""
        _fail(batch, error)
        _fail(self._queue, error)

    def _next_batch(self) -> list[Done]:
        batch: list[Done] = []
        size = 0
        while self._queue and len(batch) < _MOST and (size < _MOST_BYTES or not _awaited(batch)):
            done = self._queue.popleft()
            self._in_parts = max(0, (in_parts := self._in_parts) - 1)
            if done.stored is None or done.is_awaited or done.completed or done.writes or done.checkpoint:
                size += done.size
                batch.append(done)
            if in_parts and done.is_awaited:
                break
        return batch


def _awaited(batch: Iterable[Done]) -> bool:
    return any(done.is_awaited for done in batch)


def _parts(batch: Iterable[Done]) -> Iterable[list[Done]]:
    """Each with one that is awaited, and what was done before it."""
    part: list[Done] = []
    for done in batch:
        part.append(done)
        if done.is_awaited:
            yield part
            part = []
    if part:
        yield part


def _answer(batch: Iterable[Done], begun: dict[UUID, int]) -> None:
    for done in batch:
        if done.stored is not None and not done.stored.done():
            done.stored.set_result(begun[done.begun[0]] if done.begun else 0)


def _fail(batch: Iterable[Done], error: Exception) -> None:
    for done in batch:
        if done.stored is not None and not done.stored.done():
            done.stored.set_exception(error)
