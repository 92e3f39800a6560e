"""Executes one claimed run: its graph, and the end of the run together with its campaign."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained, GraphInterrupt
from langgraph.pregel import Pregel
from langgraph.pregel._loop import PregelLoop
from langgraph.runtime import RunControl
from langgraph.types import Command
from pydantic import BaseModel
from runengine.context import RunContext

from runengine_server.database.database import Database
from runengine_server.domain.errors import Fenced, Unavailable
from runengine_server.domain.run import (
    MAX_HAND_BACKS,
    MAX_LOSSES,
    CampaignStatus,
    ClaimedRun,
    Failure,
    RunOutput,
    WaitingFor,
)
from runengine_server.domain.struct import to_dict
from runengine_server.metrics import FENCED
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.progress_repository import ProgressRepository
from runengine_server.settings import DEFAULT_MAX_STATE_BYTES, DEFAULT_STEP_DATA_BYTES
from runengine_server.tracing import run_span
from runengine_server.worker.campaign_service import CampaignService
from runengine_server.worker.graph import recording, wide_supersteps
from runengine_server.worker.graph.checkpointer import FencedCheckpointer
from runengine_server.worker.graph.due import still_due
from runengine_server.worker.graph.execution import EXECUTION, Execution
from runengine_server.worker.graph.failures import RunTimedOut, WorkflowChanged, WorkflowError, within
from runengine_server.worker.graph.load import Workflow
from runengine_server.worker.graph.output import stored_output
from runengine_server.worker.graph.run_log import RunLog
from runengine_server.worker.graph.step_context import context_of_step
from runengine_server.worker.graph.steps import BegunStep
from runengine_server.worker.graph.store import TenantStore
from runengine_server.worker.progress import ProgressOutbox, RunProgress

# How long a node that was cancelled may take to clean up.
GRACE_SECONDS = 2.0

# How long a run that goes on elsewhere may take to store what it has done.
_FLUSH_SECONDS = 1.0


class _NoCheckpoint:
    """Stands for the task that puts a checkpoint, and is done at once."""

    def __await__(self) -> Iterator[None]:
        return iter(())

    def result(self) -> None: ...


# Within a graph that waits for each checkpoint (durability "sync"), a graph that keeps none waits for one
# that it has never put: AttributeError in langgraph 1.2.22.
PregelLoop._put_checkpoint_fut = _NoCheckpoint()  # type: ignore[assignment]

wide_supersteps.install()
recording.install()

_BUNDLE = "bundle_artifact_id"


@dataclass(frozen=True, slots=True)
class _Result:
    """What a graph has come to; `bundle` is the id of the artifact that is the bundle, and so many
    `checkpoints` are its state.
    """

    bundle: UUID | None
    output: RunOutput
    checkpoints: int


class LangGraphRunProcessor:
    """Executes a claimed run until it ends. It does not know who claimed it, or how.

    `progress` sends what runs tell to those who watch them. `abandoned` has the graphs whose nodes ignore
    that they were cancelled, for as long as they go on.
    """

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        workflows: dict[str, Workflow],
        artifact_url_base: str,
        worker: str,
        max_state_bytes: int = DEFAULT_MAX_STATE_BYTES,
        step_data_bytes: int = DEFAULT_STEP_DATA_BYTES,
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._workflows = workflows
        self._artifact_url_base = artifact_url_base
        self._worker = worker
        self._max_state_bytes = max_state_bytes
        self._step_data_bytes = step_data_bytes
        self._controls: set[RunControl] = set()
        self.progress = ProgressOutbox(ProgressRepository(database.dispatch()))
        self.abandoned: set[asyncio.Task[Any]] = set()

    def drain(self) -> None:
        """Stops every graph once its current nodes have ended, to be resumed elsewhere."""
        for control in self._controls:
            control.request_drain()

    async def process(self, run: ClaimedRun, holds_lease: Callable[[], bool] = lambda: True) -> None:
        """Executes the run, from its last checkpoint where it has one, and ends it. No node is entered unless
        `holds_lease` says that the lease is known not to have ended.

        Returns without effect once the run is no longer this worker's, or when it was drained. Raises
        Unavailable when the database has gone away: the run stays as it is, to be handed back. Who
        cancels this says why, in the words of the log's line.
        """
        with run_span(run, self._worker):
            await self._process(run, holds_lease)

    async def _process(self, run: ClaimedRun, holds_lease: Callable[[], bool]) -> None:
        log = RunLog(run)
        progress = self.progress.open(run)
        held = HeldRunRepository(self._database, run, self._worker, progress.tell_changed)
        try:
            if (failure := _failure_without_execution(run)) is not None:
                await self._fail(held, failure)
                log.ended("failed", failure.code)
                return
            await self._execute_and_end(held, progress, holds_lease, log)
        except Fenced:
            FENCED.inc()
            log.info("run is no longer ours")
        except (Unavailable, asyncio.CancelledError) as stopped:
            if isinstance(stopped, asyncio.CancelledError):
                log.info(str(stopped) or "run stopped")
            # The run goes on elsewhere, where what is done and not stored would be done again.
            with suppress(Exception):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await held.flush()
            raise
        finally:
            progress.tell_changed()
            self.progress.close(progress)

    async def _execute_and_end(
        self, held: HeldRunRepository, progress: RunProgress, holds_lease: Callable[[], bool], log: RunLog
    ) -> None:
        workflow = self._workflows[held.run.workflow_name]
        execution = Execution(
            held,
            self._artifacts,
            progress,
            workflow.retry_policies,
            self._max_state_bytes,
            holds_lease,
            self._step_data_bytes,
            workflow.record_within,
        )
        try:
            result = await self._execute_until_stopped(execution)
        except (Fenced, Unavailable, asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except GraphDrained:
            await held.flush()
            log.info("run drained")
        except BaseException as error:
            failure = execution.failure(error)
            await execution.fail_steps_with_threads()
            await self._fail(held, failure)
            log.ended("failed", failure.code, step=failure.step_id, exc_info=error)
            for each in within(error):
                log.info("failed within the run", step=failure.step_id, exc_info=each)
        else:
            if isinstance(result, _Result):
                await self._complete(held, result)
                log.ended("completed")
            else:
                seconds = self._workflows[held.run.workflow_name].waiting_timeout_seconds
                await held.wait(result, seconds, execution.gates.kept())
                log.ended("waiting", steps=[each.step_id for each in result])

    async def _execute_until_stopped(self, execution: Execution) -> _Result | list[WaitingFor]:
        """As _execute; but when the execution is stopped, this call is cancelled, or the run's time is over,
        all nodes are cancelled at once. A node that ignores it is abandoned after GRACE_SECONDS: it must not
        keep another run from being executed, and nothing that it still writes counts.
        """
        run = execution.run
        limit = self._workflows[run.workflow_name].timeout_seconds
        left = None if limit is None else max(0.0, limit - run.running_seconds)
        graph = asyncio.create_task(self._execute(execution))
        graph.add_done_callback(self._on_graph_done)
        either: set[asyncio.Future[Any]] = {graph, execution.stopped}
        try:
            done, _ = await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise RunTimedOut(f"The run was still running after its time limit of {limit:g} s.")
        finally:
            if not graph.done():
                graph.cancel()
                # Before the wait, which a second cancel cuts short: a task without a reference is collected.
                self.abandoned.add(graph)
                await asyncio.wait({graph}, timeout=GRACE_SECONDS)
            if execution.progress.watchers:
                await self.progress.flush(execution.progress)
        execution.raise_if_stopped()
        return graph.result()

    def _on_graph_done(self, graph: asyncio.Task[Any]) -> None:
        self.abandoned.discard(graph)
        if not graph.cancelled():
            graph.exception()  # asyncio would log it where nobody waits for the graph any more

    async def _execute(self, execution: Execution) -> _Result | list[WaitingFor]:
        """Executes the graph to its end, or until it waits for somebody."""
        run = execution.run
        workflow = self._workflows[run.workflow_name]
        checkpointer = FencedCheckpointer(execution, workflow)
        store = TenantStore(execution) if workflow.graph.store is None else workflow.graph.store
        graph = copy(workflow.graph)  # Pregel.copy would compile it again
        graph.checkpointer, graph.store = checkpointer, store
        config: RunnableConfig = {
            "configurable": {"thread_id": str(run.id), EXECUTION: execution},
            "run_name": run.workflow_name,
        }
        if run.thread_id is not None:
            checkpointer.begins = await execution.fenced(execution.held.begin_in_thread())
        try:
            resumes = not checkpointer.begins and await checkpointer.aget_tuple(config) is not None
        except GraphInterrupt:
            execution.gates.stop("")
            return execution.gates.waiting_for()
        control = RunControl()
        self._controls.add(control)
        try:
            values = graph.astream(
                _resumption(execution) if resumes else to_dict(run.trigger_payload),
                config,
                stream_mode="values",
                output_keys=graph.output_channels,
                context=_context_for(graph.context_schema, execution),
                durability="sync",
                control=control,
            )
            returned = await _last_of(values)
        except Exception as error:
            await execution.discard_rejected_writes(error)
            raise
        finally:
            self._controls.discard(control)
            await execution.open_writes.settle()
        if await _is_at_gate(graph, config):
            execution.gates.stop("")
        if waiting_for := execution.gates.waiting_for():
            return waiting_for
        if due := still_due(checkpointer.state):
            raise WorkflowChanged(f"It ended although it was due to go on with {', '.join(due)}.")
        # An @entrypoint has no state but what it returns.
        final = returned if isinstance(graph.output_channels, str) else checkpointer.state
        named = final.get(_BUNDLE) if isinstance(final, dict) else None
        bundle = await self._bundle_of(execution.held, named)
        if returned is None and not isinstance(graph.output_channels, str):
            returned = {}  # no node wrote a key of the output: after a takeover LangGraph returns {} itself
        output = await stored_output(run, self._artifacts, returned)
        return _Result(bundle, output, checkpointer.state_checkpoints)

    async def _bundle_of(self, held: HeldRunRepository, named: Any) -> UUID | None:
        if named is None:
            return None
        try:
            artifact_id = UUID(str(named))
        except ValueError:
            artifact_id = None
        if artifact_id is None or not await held.has_artifact(artifact_id):
            raise WorkflowError(f"{_BUNDLE} is not the id of an artifact")
        return artifact_id

    async def _complete(self, held: HeldRunRepository, result: _Result) -> None:
        url = f"{self._artifact_url_base}/artifacts/{result.bundle}" if result.bundle else None
        async with held.end() as outcome:
            await outcome.complete(result.output, result.checkpoints)
            if held.run.campaign_id is not None:
                await CampaignService(outcome).update_status_from_run(
                    held.run.campaign_id,
                    status=CampaignStatus.LIVE,
                    bundle_url=url,
                    latest_run_id=held.run.id,
                )

    async def _fail(self, held: HeldRunRepository, error: Failure) -> None:
        async with held.end() as outcome:
            await outcome.fail(error)
            if held.run.campaign_id is not None:
                await CampaignService(outcome).update_status_from_run(
                    held.run.campaign_id,
                    status=CampaignStatus.FAILED,
                    bundle_url=None,
                    latest_run_id=held.run.id,
                )


def _failure_without_execution(run: ClaimedRun) -> Failure | None:
    """Why a run is not executed any more, that waited too long, or was lost or handed back too often."""
    if run.waiting_timed_out:
        message = "Nobody resumed it within the time that it may wait."
        return Failure("WAITING_TIMED_OUT", message, None, run.attempt, True)
    if run.losses >= MAX_LOSSES:
        message = f"{run.losses} workers were lost while they executed this run."
        return Failure("WORKER_LOST", message, None, run.attempt, True)
    if run.hand_backs >= MAX_HAND_BACKS:
        message = f"{run.hand_backs} times in a row it was handed back without a step completed."
        return Failure("WORKER_STOPPED", message, None, run.attempt, True)
    return None


async def _last_of(values: AsyncIterator[Any]) -> Any:
    """What `ainvoke` returns of a graph, which streams its updates too, to find interrupts: 50 µs for four
    no-op nodes (langgraph 1.2.22).
    """
    last = None
    async for each in values:
        last = each
    return last


async def _is_at_gate(graph: Pregel[Any, Any, Any, Any], config: RunnableConfig) -> bool:
    """Whether the graph, which has returned, has done so at a gate of its own. Reads its last checkpoint
    where it has one.
    """
    if not graph.interrupt_before_nodes and not graph.interrupt_after_nodes:
        return False
    try:
        return bool((await graph.aget_state(config)).next)
    except GraphInterrupt:
        return True


def _resumption(execution: Execution) -> Command[Any] | None:
    """The input with which the graph goes on from its last checkpoint."""
    resume = execution.gates.resume
    return None if resume is None else Command(resume=resume)


def _context_for(schema: type[Any] | None, execution: Execution) -> Any:
    """A RunContext; for a graph with a context schema of its own those fields of the schema that the run's
    context has. Where it has none of them, the schema's defaults, or else None, as in LangGraph.
    """
    if schema is None or issubclass(schema, RunContext):
        return context_of_step(execution, BegunStep(UUID(int=0), ""), "")
    if is_dataclass(schema):
        names = {each.name for each in fields(schema)}
    elif issubclass(schema, BaseModel):
        names = set(schema.model_fields)
    else:
        names = set(schema.__annotations__)
    given = {key: value for key, value in to_dict(execution.run.context).items() if key in names}
    if not given:
        try:
            schema()
        except Exception:  # it has fields without a default
            return None
    return given
