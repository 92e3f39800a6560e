"""LangGraph's checkpoints in PostgreSQL, every write fenced by the epoch of the run's holder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import ERROR_SOURCE_NODE
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT
from langgraph.errors import NodeTimeoutError

from runengine_server.repositories.held_run_repository import StoredCheckpoint
from runengine_server.workflows.recorded_node import EXECUTION, Execution, describe, is_retryable


class FencedCheckpointer(BaseCheckpointSaver[str]):
    """Saves the checkpoints of one execution of one run; the thread is the run.

    What a task wrote is stored in one statement with the completion of its step, so that a step is
    completed exactly when LangGraph will not run it again. Every write raises Fenced when the run
    is no longer this worker's. `state` has the channels of the graph as last saved or read.
    """

    def __init__(self, execution: Execution) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}
        self._execution = execution
        self._writing: set[asyncio.Task[Any]] = set()
        self._broken: Exception | None = None

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Versions that sort as strings: zero-padded numbers."""
        return f"{int(current or 0) + 1:032}"

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Stores what a task wrote, and completes its step unless what it wrote is an error."""
        namespace = config["configurable"]["checkpoint_ns"]
        rows = [
            (WRITES_IDX_MAP.get(channel, index), channel, *self.serde.dumps_typed(value))
            for index, (channel, value) in enumerate(writes)
        ]
        task = asyncio.current_task()
        assert task is not None
        self._writing.add(task)
        try:
            ended = namespace == "" and not await self._note_unfinished(UUID(task_id), dict(writes))
            await self._execution.held.save_writes(
                namespace,
                config["configurable"]["checkpoint_id"],
                task_id,
                task_path,
                rows,
                UUID(task_id) if ended else None,
            )
        except Exception as error:
            self._broken = error
            raise
        finally:
            self._writing.discard(task)

    async def _note_unfinished(self, task_id: UUID, written: dict[str, Any]) -> bool:
        """Whether the task ended in an error or an interrupt; records which."""
        execution = self._execution
        name = execution.step_names.get(task_id)
        if INTERRUPT in written:
            execution.interrupted_by = name
            return True
        if ERROR not in written:
            return False
        error = written[ERROR]
        if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
            if ERROR_SOURCE_NODE not in written:
                execution.failed_step = name
            # Already recorded when the node itself raised; not when its time ran out, or an edge did.
            code = "STEP_TIMED_OUT" if isinstance(error, NodeTimeoutError) else "STEP_FAILED"
            await execution.held.fail_step(task_id, code, describe(error), is_retryable(error, ()), False)
        return True

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Stores a checkpoint, after the writes that it sums up: were it stored first, a crash in
        between would leave steps that are done for ever unrecorded.
        """
        while writing := self._writing - {asyncio.current_task()}:
            await asyncio.wait(writing)
        if self._broken is not None:
            raise self._broken
        configurable = config["configurable"]
        type_, encoded = self.serde.dumps_typed(checkpoint)
        await self._execution.held.save_checkpoint(
            StoredCheckpoint(
                checkpoint_ns=configurable["checkpoint_ns"],
                checkpoint_id=checkpoint["id"],
                parent_checkpoint_id=configurable.get("checkpoint_id"),
                type=type_,
                checkpoint=encoded,
                metadata=self.serde.dumps_typed(get_checkpoint_metadata(config, metadata))[1],
            )
        )
        if configurable["checkpoint_ns"] == "":
            self.state = checkpoint["channel_values"]
        return self._config(configurable["checkpoint_ns"], checkpoint["id"])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the current one of its namespace, with its writes."""
        configurable = config["configurable"]
        stored = await self._execution.held.get_checkpoint(
            configurable.get("checkpoint_ns", ""), configurable.get("checkpoint_id")
        )
        return await self._tuple(stored) if stored else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints of the run, newest first."""
        namespace = config["configurable"].get("checkpoint_ns") if config else None
        until = before["configurable"].get("checkpoint_id") if before else None
        found = 0
        for stored in await self._execution.held.list_checkpoints(namespace, until):
            each = await self._tuple(stored)
            if all(each.metadata.get(key) == value for key, value in (filter or {}).items()):
                if found == limit:
                    return
                found += 1
                yield each

    async def _tuple(self, stored: StoredCheckpoint) -> CheckpointTuple:
        writes = await self._execution.held.list_writes(stored.checkpoint_ns, stored.checkpoint_id)
        parent = stored.parent_checkpoint_id
        return CheckpointTuple(
            config=self._config(stored.checkpoint_ns, stored.checkpoint_id),
            checkpoint=self.serde.loads_typed((stored.type, stored.checkpoint)),
            metadata=self.serde.loads_typed(("msgpack", stored.metadata)),
            parent_config=self._config(stored.checkpoint_ns, parent) if parent else None,
            pending_writes=[
                (task_id, channel, self.serde.loads_typed((type_, value)))
                for task_id, channel, type_, value in writes
            ],
        )

    def _config(self, namespace: str, checkpoint_id: str) -> RunnableConfig:
        return {
            "configurable": {
                "thread_id": str(self._execution.held.run.id),
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint_id,
                EXECUTION: self._execution,
            }
        }
