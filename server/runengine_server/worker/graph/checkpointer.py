"""LangGraph's checkpoints in PostgreSQL, every write fenced by the epoch of the run's holder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import ERROR_SOURCE_NODE, NO_WRITES, TASKS
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
from langgraph.errors import GraphInterrupt
from langgraph.types import Send

from runengine_server.repositories.write_behind import StoredCheckpoint
from runengine_server.worker.graph.channels import rejection_of
from runengine_server.worker.graph.due import is_edge, lost_targets, missing, target_of
from runengine_server.worker.graph.failures import (
    StateTooLarge,
    WorkflowChanged,
    WorkflowError,
    describe,
    is_retryable,
    step_code,
)
from runengine_server.worker.graph.load import Workflow, namespace_path
from runengine_server.worker.graph.open_writes import On, Written, by_path, take_back
from runengine_server.worker.graph.recorded_node import Execution, Lost
from runengine_server.worker.graph.stored_values import SERIALISER, dump_write
from runengine_server.worker.graph.superseded import Superseded
from runengine_server.worker.graph.task_paths import node_of, with_handlers

# How long what was done may wait for the next statement: a superstep may go on although no node of it
# does, in a task that a node has started and not waited for.
_LATER_SECONDS = 0.05

# Marks the checkpoint at which a graph stopped after a node, in its metadata; and a channel that no graph
# has: LangGraph takes a gate for passed once it resumes, unless a channel has changed since.
_STOPPED_AFTER, _GATE = "runengine_stopped_after", "__runengine_gate"

Answer = TypeVar("Answer")


class FencedCheckpointer(BaseCheckpointSaver[str]):
    """Saves the checkpoints of one execution of one run; the thread is the run, and any other is refused
    with a ValueError.

    What a task wrote is stored in one statement with the completion of its step, so that a step is
    completed exactly when LangGraph will not run it again. The end of a superstep is stored with the
    next statement, see HeldRunRepository, or else after 0.05 s. Every statement raises Lost when the run
    is no longer this worker's. `state` has the channels of the graph as last saved or read.

    With a `workflow`, what nothing resumes from goes while the run goes on: what is stored of a run is in
    proportion to its state, and not to its steps.
    """

    def __init__(self, execution: Execution, workflow: Workflow | None = None) -> None:
        super().__init__(serde=SERIALISER)
        execution.take_back = self.take_back
        self.state: dict[str, Any] = {}
        self._workflow = workflow
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._unsaved: set[str] = set()
        self._stored: set[str] = set()
        self._superseded, self._prunes = Superseded(), workflow is not None
        self._execution = execution
        self._saving: dict[asyncio.Task[Any], On | None] = {}
        self._flushing_soon = False
        self._broken: dict[On, BaseException] = {}
        self._done: dict[On, dict[str, Written]] = {}
        self._led_to: dict[On, set[str]] = {}
        self._sends: dict[On, Sequence[Send]] = {}

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Versions that sort as strings: zero-padded numbers."""
        return f"{int(current or 0) + 1:032}"

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Stores what a task wrote, and completes its step unless what it wrote is an error."""
        self._check_thread(config["configurable"]["thread_id"])
        saving = asyncio.current_task()
        assert saving is not None
        on = config["configurable"]["checkpoint_ns"], config["configurable"]["checkpoint_id"]
        self._saving[saving] = on
        try:
            await self._save_writes(on, writes, task_id, task_path)
        except BaseException as error:
            self._broken.setdefault(on, error)
            raise
        finally:
            del self._saving[saving]

    async def _save_writes(
        self, on: On, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        namespace, checkpoint_id = on
        written = dict(writes)
        if namespace == "":
            self._execution.under_way.discard(UUID(task_id))
        completed = UUID(task_id) if namespace == "" and not written.keys() & {ERROR, INTERRUPT} else None
        if ERROR in written:
            # An edge that raises comes after its node has written. Stored, those writes would make
            # LangGraph take the task for done when the graph resumes, and nothing would follow it.
            writes = [each for each in writes if each[0] in WRITES_IDX_MAP or each[0] == ERROR_SOURCE_NODE]
            if namespace == "":
                await self._note_failure(UUID(task_id), written[ERROR], ERROR_SOURCE_NODE in written)
        try:
            if not written.keys() & {ERROR, INTERRUPT}:
                self._check_targets(on, writes, task_id, task_path)
                self._done.setdefault(on, {})[task_path] = Written(task_id, writes)
            rows = [
                (WRITES_IDX_MAP.get(channel, index), channel, *dump_write(channel, value))
                # Of a task that wrote only what is never stored, that it is done has to be.
                for index, (channel, value) in enumerate(writes or [(NO_WRITES, None)])
            ]
            self._check_size("What the node returned", size := sum(len(row[3]) for row in rows))
            self._superseded.wrote(size)
        except Exception as error:
            if namespace == "":
                await self._note_failure(UUID(task_id), error, handled=False)
            raise
        # Of the last task of a superstep this goes out with the begin of the next. Others must not wait:
        # how long those beside them take nobody knows.
        later = completed is not None and not self._execution.under_way
        await self._execution.engine(
            self._execution.held.save_writes(
                namespace, checkpoint_id, task_id, task_path, rows, completed, later=later
            )
        )
        if later:
            self._flush_soon()

    def _check_targets(self, on: On, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str) -> None:
        if self._workflow is None:
            return
        graph = self._workflow.graph_of(on[0])
        if graph is None:
            self._led_to.setdefault(on, set()).update(channel for channel, _ in writes if is_edge(channel))
            return
        for is_send, target in lost_targets(writes, graph):
            begun = self._execution.begun.get(UUID(task_id))
            source = begun[0] if begun else task_path.rpartition(", ")[2]
            way = "sends to" if is_send else "has an edge or goto to"
            raise WorkflowError(f"{source!r} {way} {target!r}, and the graph has no such node.")

    async def _note_failure(self, task_id: UUID, error: Any, handled: bool) -> None:
        """Fails the step, unless its node has raised and so has failed it: its time ran out, an edge
        that leads from it raised, what it returned cannot be stored, or a handler of the graph takes
        the error.
        """
        execution = self._execution
        begun = execution.begun.get(task_id)
        if begun is None or not isinstance(error, BaseException) or isinstance(error, asyncio.CancelledError):
            return
        step_id, attempt = begun
        if not handled:
            execution.failures.append((error, step_id))
        if attempt == 0 or ((task_id, attempt) in execution.failed and not handled):
            return
        policies = self._workflow.retry_policies.get(step_id, ()) if self._workflow else ()
        words, retryable = describe(error, execution.begun), is_retryable(error, policies)
        await execution.engine(
            execution.held.fail_step(
                task_id, attempt, step_code(error), words, retryable, again=False, handled=handled
            )
        )

    def _flush_soon(self) -> None:
        if not self._flushing_soon:
            self._flushing_soon = True
            asyncio.get_running_loop().call_later(_LATER_SECONDS, self._flush)

    def _flush(self) -> None:
        async def flush() -> None:
            with suppress(Lost):  # the graph is stopped then
                await self._execution.engine(self._execution.held.flush())

        self._flushing_soon = False
        if self._execution.held.is_behind:
            task = asyncio.create_task(flush())
            self._saving[task] = None
            task.add_done_callback(self._saving.pop)

    async def settle(self) -> None:
        """Returns when no write is under way any more: LangGraph leaves some behind when it is stopped."""
        while saving := self._saving.keys() - {asyncio.current_task()}:
            await asyncio.wait(saving)

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
        configurable = config["configurable"]
        self._check_thread(configurable["thread_id"])
        namespace, parent = configurable["checkpoint_ns"], configurable.get("checkpoint_id")
        # Not of the next superstep, which may have begun: LangGraph does not wait for the checkpoint of the
        # input. And not of the graphs beside this one, which would have it wait for as long as they write.
        on = namespace, parent or ""
        if under_way := [saving for saving, each in self._saving.items() if each == on]:
            await asyncio.wait(under_way)
        if (broken := self._broken.pop(on, None)) is not None:
            raise broken
        if lost := self._led_to.pop(on, set()) - checkpoint["channel_versions"].keys():
            raise WorkflowError(
                f"An edge or goto leads to {target_of(min(lost))!r}, and the graph has no such node."
            )
        done, sends = self._done.pop(on, {}), self._sends.pop(on, ())
        self._sends[namespace, checkpoint["id"]] = checkpoint["channel_values"].get(TASKS, ())
        names = (node_of(path, sends) for path in done)
        if self._workflow is not None and self._workflow.stops_after(namespace, names):
            metadata = cast(CheckpointMetadata, {**metadata, _STOPPED_AFTER: True})
        type_, encoded = self.serde.dumps_typed(checkpoint)
        self._check_size("The state of the run", len(encoded))
        sums_up = self._superseded.put(namespace, checkpoint, metadata, len(encoded))
        oldest, gone = self._superseded.due(len(encoded)) if self._prunes else ({}, [])
        stored = StoredCheckpoint(
            checkpoint_ns=namespace,
            checkpoint_id=checkpoint["id"],
            parent_checkpoint_id=parent,
            type=type_,
            checkpoint=encoded,
            metadata=self.serde.dumps_typed(get_checkpoint_metadata(config, metadata))[1],
            sums_up=parent if sums_up and self._prunes else None,
            oldest_needed=oldest,
            gone=gone,
        )
        later = namespace == ""
        await self._execution.engine(self._execution.held.save_checkpoint(stored, later=later))
        if later:
            self._flush_soon()
        self._stored.add(namespace)
        if namespace == "":
            self.state = checkpoint["channel_values"]
        return self._config(namespace, checkpoint["id"])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the current one of its namespace, with its writes."""
        configurable = config["configurable"]
        self._check_thread(configurable["thread_id"])
        named, namespace = configurable.get("checkpoint_id"), configurable.get("checkpoint_ns", "")
        if self._execution.held.run.epoch == 1 and namespace not in self._stored:
            # Nobody has held this run before: there is nothing to read.
            return None
        stored = await self._execution.engine(self._execution.held.get_checkpoint(namespace, named))
        if stored is None:
            return None
        found = await self._tuple(stored)
        if not named and self._workflow is not None:
            self._check_due(namespace, found)
            self._sends[namespace, stored.checkpoint_id] = found.checkpoint["channel_values"].get(TASKS, ())
            if _STOPPED_AFTER in found.metadata:
                raise GraphInterrupt
            found.checkpoint["channel_versions"][_GATE] = self.get_next_version(None, None)
        # By name LangGraph also reads ancestors of the current one, to replay delta channels.
        if stored.checkpoint_ns == "" and not named:
            self.state = found.checkpoint["channel_values"]
        return found

    async def take_back(self, error: BaseException) -> None:
        """See open_writes.take_back. Any other error waits for nobody."""
        if (rejection := rejection_of(error)) is not None:
            await self.settle()
            await take_back(error, rejection, self._done, self._sends, self._workflow, self._execution)

    def _check_due(self, namespace: str, found: CheckpointTuple) -> None:
        """Raises Lost, and stops the whole graph, when what is due is not in the graph of today."""
        graphs = self._workflow.graphs_of(namespace) if self._workflow else []
        if not graphs:
            return
        written = [(channel, value) for _, channel, value in found.pending_writes or ()]
        if lacks := missing(found.checkpoint["channel_values"], written, graphs):
            within = f" within {namespace_path(namespace)!r}" if namespace else ""
            words = f"It was due to go on with {', '.join(lacks)}, which the graph{within} has not."
            changed = WorkflowChanged(words)
            self._execution.end_here(changed)
            raise Lost from changed

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints of the run, or the one that `config` names, newest first."""
        configurable = config["configurable"] if config else {}
        if config:
            self._check_thread(configurable["thread_id"])
        until = before["configurable"].get("checkpoint_id") if before else None
        named = configurable.get("checkpoint_id")
        found = 0
        for stored in await self._execution.engine(
            self._execution.held.list_checkpoints(configurable.get("checkpoint_ns"), until)
        ):
            if named and stored.checkpoint_id != named:
                continue
            each = await self._tuple(stored)
            if all(each.metadata.get(key) == value for key, value in (filter or {}).items()):
                if found == limit:
                    return
                found += 1
                yield each

    async def adelete_thread(self, thread_id: str) -> None:
        """Deletes all checkpoints and writes of the run."""
        self._check_thread(thread_id)
        await self.settle()
        await self._execution.engine(self._execution.held.drop_checkpoints())

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes what nothing resumes from, or, with the strategy "delete", everything."""
        for thread_id in thread_ids:
            self._check_thread(thread_id)
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"{strategy} is no strategy to prune checkpoints by")
        if not thread_ids:
            return
        await self.settle()
        held = self._execution.held
        prune = held.drop_checkpoints if strategy == "delete" else held.prune_checkpoints
        await self._execution.engine(prune())

    def _check_size(self, what: str, size: int) -> None:
        if size > (limit := self._execution.max_state_bytes):
            raise StateTooLarge(what, size, limit)

    # For `.invoke()` of a graph in a sync node or a tool, on whatever thread.

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As aget_tuple. In the event loop's own thread, which cannot wait for itself, a graph that is
        called keeps no checkpoints, nor do those that it calls.
        """
        namespace = config["configurable"].get("checkpoint_ns", "")
        if threading.get_ident() == self._thread:
            self._unsaved.add(namespace)
        return None if self._is_unsaved(namespace) else self._wait_for(self.aget_tuple(config))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As aput."""
        namespace = config["configurable"]["checkpoint_ns"]
        if self._is_unsaved(namespace):
            return self._config(namespace, checkpoint["id"])
        return self._wait_for(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As aput_writes."""
        if not self._is_unsaved(config["configurable"]["checkpoint_ns"]):
            self._wait_for(self.aput_writes(config, writes, task_id, task_path))

    def _is_unsaved(self, namespace: str) -> bool:
        return any(f"{namespace}|".startswith(f"{each}|") for each in self._unsaved)

    def _wait_for(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _check_thread(self, thread_id: str) -> None:
        if thread_id != str(self._execution.held.run.id):
            raise ValueError("the checkpoints of a run are kept under its own thread, and no other")

    async def _tuple(self, stored: StoredCheckpoint) -> CheckpointTuple:
        writes = await self._execution.engine(
            self._execution.held.list_writes(stored.checkpoint_ns, stored.checkpoint_id)
        )
        loaded = [
            (task_id, path, channel, self.serde.loads_typed((type_, value)))
            for task_id, path, channel, type_, value in writes
        ]
        self._done[stored.checkpoint_ns, stored.checkpoint_id] = by_path(loaded)
        parent = stored.parent_checkpoint_id
        return CheckpointTuple(
            config=self._config(stored.checkpoint_ns, stored.checkpoint_id),
            checkpoint=self.serde.loads_typed((stored.type, stored.checkpoint)),
            metadata=self.serde.loads_typed(("msgpack", stored.metadata)),
            parent_config=self._config(stored.checkpoint_ns, parent) if parent else None,
            pending_writes=list(with_handlers(loaded)),
        )

    def _config(self, namespace: str, checkpoint_id: str) -> RunnableConfig:
        return {
            "configurable": {
                "thread_id": str(self._execution.held.run.id),
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint_id,
            }
        }
