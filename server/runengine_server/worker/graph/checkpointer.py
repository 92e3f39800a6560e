"""LangGraph's checkpoints in PostgreSQL, every write fenced by the epoch of the run's holder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from inspect import signature
from typing import Any, cast
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
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
from langgraph.constants import START
from langgraph.errors import GraphInterrupt
from langgraph.types import _interrupt_id

from runengine_server.repositories.write_behind import StoredCheckpoint
from runengine_server.worker.graph.due import edges_to_nowhere, lead_to_nowhere, missing
from runengine_server.worker.graph.execution import AnyPregel, Execution, ExecutionStopped
from runengine_server.worker.graph.failures import StateTooLarge, WorkflowChanged, WorkflowError
from runengine_server.worker.graph.large_values import LargeValues
from runengine_server.worker.graph.load import Workflow
from runengine_server.worker.graph.namespaces import namespace_path
from runengine_server.worker.graph.open_writes import CheckpointKey, TaskWrites
from runengine_server.worker.graph.step_data import update_of_step
from runengine_server.worker.graph.stored_values import SERIALISER, dump_write
from runengine_server.worker.graph.superseded import Superseded, replayed_checkpoints
from runengine_server.worker.graph.task_paths import (
    INPUT_PATH,
    namespace_of,
    node_of,
    with_handlers,
    with_namespace,
)

# A key in the metadata of the checkpoint at which a graph stops after nodes: which.
_STOPPED_AFTER = "runengine_stopped_after"
# A channel that no graph has. LangGraph takes a gate for passed when it resumes, unless a channel has
# changed.
GATE = "__runengine_gate"
# A checkpoint has a dozen versions: with 32 digits each, they are more than a small state.
_FIRST_LONG_VERSION = 10_000


class FencedCheckpointer(BaseCheckpointSaver[str]):
    """Saves the checkpoints of one execution of one run; the thread is the run, and any other is refused
    with a ValueError.

    What a task wrote is stored in one statement with the completion of its step, so that a step is
    completed exactly when LangGraph will not run it again. The end of a superstep is stored with the
    next statement, see HeldRunRepository, or else after FLUSH_SECONDS. Every statement raises
    ExecutionStopped when the run is no longer this worker's. `state` has the channels of the graph as last
    saved or read, and is made of that many `state_checkpoints`. `begins`: the run is of a thread and has
    saved nothing yet; the graph begins with what the run before it has left.

    With a `workflow`, checkpoints that nothing resumes from are deleted while the run goes on, so that what
    is stored of a run is in proportion to its state, and not to its steps.
    """

    serde = SERIALISER  # here, because BaseCheckpointSaver.__init__ takes long to see that it is one

    def __init__(self, execution: Execution, workflow: Workflow | None = None) -> None:
        self.state: dict[str, Any] = {}
        self.state_checkpoints, self.begins = 1, False
        self._workflow = workflow
        self._execution = execution
        self._thread_id = str(execution.run.id)
        self._open_writes = execution.open_writes
        # Namespaces of graphs that keep no checkpoints, and those of which this execution has stored one.
        self._unsaved: set[str] = set()
        self._stored: set[str] = set()
        self._superseded, self._prunes = Superseded(), workflow is not None
        self._large_values = LargeValues(lambda value: self.serde.dumps_typed(value)[1])

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Versions that sort as strings: "+0001" and so on, and from 10,000 on numbers of 32 digits. "+" is
        before digits, and int() reads both. A run with versions of 32 digits, which are all that workers of
        the version before make, goes on with these.
        """
        number = int(current or 0) + 1
        is_short = number < _FIRST_LONG_VERSION and (current is None or current[0] == "+")
        return f"{number:+05}" if is_short else f"{number:032}"

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Stores what a task wrote, and completes its step unless what it wrote is an error."""
        self._check_thread(config["configurable"]["thread_id"])
        on = config["configurable"]["checkpoint_ns"], config["configurable"]["checkpoint_id"]
        with self._open_writes.saving(on):
            await self._save_writes(on, writes, task_id, task_path)

    async def _save_writes(
        self, on: CheckpointKey, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        namespace, checkpoint_id = on
        execution = self._execution
        written = dict(writes)
        task = UUID(task_id)
        task_path = with_namespace(task_path, execution.namespace_of_task(task))
        step = execution.leave_step(task, written.get(ERROR))
        is_over = ERROR not in written and INTERRUPT not in written
        completed = None
        if step is not None:
            completed = step.id if is_over else None
        elif is_over and namespace == "" and task_path != INPUT_PATH:
            completed = task
        if ERROR in written:
            # An edge that raises does so after its node has written. Those writes are not stored: LangGraph
            # would take the task for done when the graph resumes, and nothing would follow it.
            writes = [each for each in writes if each[0] in WRITES_IDX_MAP or each[0] == ERROR_SOURCE_NODE]
            handled = ERROR_SOURCE_NODE in written
            await execution.record_task_error(task, written[ERROR], handled=handled)
        try:
            if INTERRUPT in written:
                sends = self._open_writes.on(on).sends
                own = _interrupt_id(
                    namespace_of(task_path, sends, task_id, namespace), len(written.get(RESUME, ()))
                )
                execution.gates.ask(namespace, node_of(task_path, sends), written[INTERRUPT], own)
            # A resume with one value is a write of no task.
            if is_over and written.keys() != {RESUME}:
                if self._workflow is not None and namespace == "":
                    self._check_targets(self._workflow.graph, writes, task)
                self._open_writes.on(on).tasks[task_path] = TaskWrites(task_id, writes)
            rows = [
                (WRITES_IDX_MAP.get(channel, index), channel, *dump_write(channel, value))
                # A task that wrote nothing that is ever stored must be stored as done all the same.
                for index, (channel, value) in enumerate(writes or [(NO_WRITES, None)])
            ]
            self._check_size("What the node returned", size := sum(len(row[3]) for row in rows))
            self._superseded.wrote(size)
        except Exception as error:
            await execution.record_task_error(task, error, handled=False)
            raise
        if completed is not None and step is not None:
            await execution.end_within(step, well=True)
        # Those of the last task of a superstep go out with the begin of the next step. Others must not wait,
        # because nobody knows how long the tasks beside them take, nor what a node does after its graph.
        defer = namespace == "" and is_over and not execution.has_open_steps
        update = None
        if completed is not None and step is not None:
            update = update_of_step(writes, execution.step_data_bytes, size)
        await execution.fenced(
            execution.held.save_writes(
                namespace, checkpoint_id, task_id, task_path, rows, completed, update, defer=defer
            )
        )
        if defer:
            self._execution.flush_soon()

    def _check_targets(self, graph: AnyPregel, writes: Sequence[tuple[str, Any]], task: UUID) -> None:
        # Of a graph within a node StoringNode looks.
        for is_send, target in edges_to_nowhere(writes, graph):
            source = self._execution.step_of_task(task) or START
            raise WorkflowError(lead_to_nowhere(source, target, is_send=is_send))

    async def flush(self) -> None:
        """Stores what is deferred, as the next statement of the run would."""
        await self._execution.fenced(self._execution.held.flush())

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
        ended = await self._open_writes.close((namespace, parent or ""))
        self._open_writes.begin((namespace, checkpoint["id"]), checkpoint["channel_values"].get(TASKS, ()))
        if self._workflow is not None:
            gates: Sequence[str] | None = ()
            if self._workflow.may_have_gates(namespace):
                after = self._workflow.gates_after(namespace, ended.nodes())
                if after:
                    metadata = cast(CheckpointMetadata, {**metadata, _STOPPED_AFTER: after})
                gates = self._workflow.gates_at(namespace, checkpoint["channel_values"], after)
            self._execution.gates.reach(namespace, checkpoint["id"], gates)
        type_, encoded = self.serde.dumps_typed(checkpoint)
        self._check_size("The state of the run", len(encoded))
        encoded_metadata = self.serde.dumps_typed(get_checkpoint_metadata(config, metadata))[1]
        cut = self._large_values.cut(namespace, encoded, checkpoint["channel_values"])
        size = len(cut.rest) + sum(map(len, cut.new.values()))
        replaces_parent = self._superseded.put(namespace, checkpoint, metadata, size)
        oldest_needed, dropped = self._superseded.take(len(encoded)) if self._prunes else ({}, [])
        self._large_values.forget(dropped)
        stored = StoredCheckpoint(
            checkpoint_ns=namespace,
            checkpoint_id=checkpoint["id"],
            parent_checkpoint_id=parent,
            type=type_,
            checkpoint=cut.rest,
            value_refs=cut.refs,
            kept_values=self._large_values.sweep() if oldest_needed or dropped else None,
            metadata=encoded_metadata,
            replaces=parent if replaces_parent and self._prunes else None,
            oldest_needed=oldest_needed,
            dropped_namespaces=dropped,
        )
        # It sums up what is stored, and so can wait.
        await self._execution.fenced(self._execution.held.save_checkpoint(stored, cut.new, defer=True))
        self._execution.flush_soon()
        self._stored.add(namespace)
        if namespace == "":
            self.state = checkpoint["channel_values"]
            self.state_checkpoints = 1 + replayed_checkpoints(checkpoint, metadata)
        return self._config(namespace, checkpoint["id"])

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the current one of its namespace, with its writes."""
        configurable = config["configurable"]
        self._check_thread(configurable["thread_id"])
        named, namespace = configurable.get("checkpoint_id"), configurable.get("checkpoint_ns", "")
        run = self._execution.held.run
        if run.epoch == 1 and run.thread_id is None and namespace not in self._stored:
            # Nobody has held this run before: there is nothing to read.
            return None
        stored = await self._execution.fenced(self._execution.held.get_checkpoint(namespace, named))
        if stored is None:
            return None
        found = await self._tuple(stored)
        if self.begins and namespace not in self._stored:
            # It has ended, and is due to do nothing.
            found.checkpoint["channel_versions"].pop(GATE, None)
        elif not named and self._workflow is not None:
            self._check_due(namespace, found)
            sends = found.checkpoint["channel_values"].get(TASKS, ())
            self._open_writes.begin((namespace, stored.checkpoint_id), sends)
            after = cast(dict[str, Any], found.metadata).get(_STOPPED_AFTER, ())
            gates = self._workflow.gates_at(namespace, found.checkpoint["channel_values"], after)
            # It may be in what is stored: since an earlier time that the graph was resumed.
            found.checkpoint["channel_versions"].pop(GATE, None)
            if not self._execution.gates.reach(namespace, stored.checkpoint_id, gates):
                if after:
                    raise GraphInterrupt
                found.checkpoint["channel_versions"][GATE] = self.get_next_version(None, None)
        # By name LangGraph also reads ancestors of the current one, to replay delta channels.
        if stored.checkpoint_ns == "" and not named:
            self.state = found.checkpoint["channel_values"]
            self.state_checkpoints = 1 + replayed_checkpoints(found.checkpoint, found.metadata)
        return found

    def _check_due(self, namespace: str, found: CheckpointTuple) -> None:
        """Stops the whole graph and raises ExecutionStopped when what is due is not in the graph of today."""
        graphs = self._workflow.graphs_of(namespace) if self._workflow else []
        if not graphs:
            return
        written = [(channel, value) for _, channel, value in found.pending_writes or ()]
        if lacks := missing(found.checkpoint["channel_values"], written, graphs):
            within = f" within {namespace_path(namespace)!r}" if namespace else ""
            words = f"It was due to go on with {', '.join(lacks)}, which the graph{within} has not."
            changed = WorkflowChanged(words)
            self._execution.stop(changed)
            raise ExecutionStopped from changed

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
        for stored in await self._execution.fenced(
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
        await self._open_writes.settle()
        self._large_values.clear()
        await self._execution.fenced(self._execution.held.drop_checkpoints())

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes what nothing resumes from, or, with the strategy "delete", everything."""
        for thread_id in thread_ids:
            self._check_thread(thread_id)
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"{strategy} is no strategy to prune checkpoints by")
        if not thread_ids:
            return
        await self._open_writes.settle()
        self._large_values.clear()
        held = self._execution.held
        prune = held.drop_checkpoints if strategy == "delete" else held.prune_checkpoints
        await self._execution.fenced(prune())

    def _check_size(self, what: str, size: int) -> None:
        if size > (limit := self._execution.max_state_bytes):
            raise StateTooLarge(what, size, limit)

    # The synchronous methods are called for `.invoke()` of a graph in a sync node or a tool, on any thread.

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As aget_tuple. A graph that is called in the event loop's own thread, which cannot wait for itself,
        keeps no checkpoints, nor do the graphs that it calls.
        """
        namespace = config["configurable"].get("checkpoint_ns", "")
        if self._execution.is_on_own_thread:
            self._unsaved.add(namespace)
        return None if self._is_unsaved(namespace) else self._execution.wait_for(self.aget_tuple(config))

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
        return self._execution.wait_for(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As aput_writes."""
        if not self._is_unsaved(config["configurable"]["checkpoint_ns"]):
            self._execution.wait_for(self.aput_writes(config, writes, task_id, task_path))

    def _is_unsaved(self, namespace: str) -> bool:
        return any(f"{namespace}|".startswith(f"{each}|") for each in self._unsaved)

    def _check_thread(self, thread_id: str) -> None:
        if thread_id != self._thread_id:
            raise ValueError("the checkpoints of a run are kept under its own thread, and no other")

    async def _tuple(self, stored: StoredCheckpoint) -> CheckpointTuple:
        writes = await self._execution.fenced(
            self._execution.held.list_writes(stored.checkpoint_ns, stored.checkpoint_id)
        )
        loaded = [
            (task_id, path, channel, self.serde.loads_typed((type_, value)))
            for task_id, path, channel, type_, value in writes
        ]
        self._open_writes.restore((stored.checkpoint_ns, stored.checkpoint_id), loaded)
        checkpoint: Checkpoint = self.serde.loads_typed((stored.type, stored.checkpoint))
        for task_id, path, channel, value in loaded:
            if channel == RESUME and value:
                sends = checkpoint["channel_values"].get(TASKS, ())
                own = namespace_of(path, sends, task_id, stored.checkpoint_ns)
                self._execution.gates.use(own)
        parent = stored.parent_checkpoint_id
        return CheckpointTuple(
            config=self._config(stored.checkpoint_ns, stored.checkpoint_id),
            checkpoint=checkpoint,
            metadata=self.serde.loads_typed(("msgpack", stored.metadata)),
            parent_config=self._config(stored.checkpoint_ns, parent) if parent else None,
            pending_writes=list(with_handlers(loaded)),
        )

    def _config(self, namespace: str, checkpoint_id: str) -> RunnableConfig:
        return {
            "configurable": {
                "thread_id": self._thread_id,
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint_id,
            }
        }


# LangGraph looks at them once a run (langgraph 1.2.22), and Python makes them anew each time, in 14 µs.
for _method in (FencedCheckpointer.put_writes, FencedCheckpointer.aput_writes):
    vars(_method)["__signature__"] = signature(_method)
