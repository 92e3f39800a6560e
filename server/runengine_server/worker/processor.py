"""Executes one claimed run: drives its graph, and ends it together with its campaign."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any
from uuid import UUID

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.pregel._loop import PregelLoop
from langgraph.runtime import RunControl
from pydantic import BaseModel
from runengine.context import RunContext

from runengine_server.database.database import Database
from runengine_server.domain.errors import Fenced, StatementRefused, Unavailable
from runengine_server.domain.run import MAX_HAND_BACKS, MAX_LOSSES, CampaignStatus, ClaimedRun, Failure
from runengine_server.domain.struct import to_dict
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.settings import DEFAULT_MAX_STATE_BYTES
from runengine_server.worker.campaign_service import CampaignService
from runengine_server.worker.graph import wide_supersteps
from runengine_server.worker.graph.checkpointer import FencedCheckpointer
from runengine_server.worker.graph.due import undone
from runengine_server.worker.graph.failures import (
    RunTimedOut,
    WorkflowChanged,
    WorkflowError,
    describe,
    is_retryable,
    run_code,
    within,
)
from runengine_server.worker.graph.load import Workflow
from runengine_server.worker.graph.recorded_node import EXECUTION, Execution

# How long a node that was cancelled may take to clean up.
_GRACE_SECONDS = 2.0

# How long a run that is let go may take to store what it has done.
_FLUSH_SECONDS = 1.0


class _NoCheckpoint:
    """A checkpoint that has been put as soon as it is waited for."""

    def __await__(self) -> Iterator[None]:
        return iter(())

    def result(self) -> None: ...


# A graph that keeps no checkpoints, within one that waits for each (durability "sync"), waits for one that
# it has never put: AttributeError in langgraph 1.2.22.
PregelLoop._put_checkpoint_fut = _NoCheckpoint()  # type: ignore[assignment]

wide_supersteps.install()

_BUNDLE = "bundle_artifact_id"

_log = structlog.get_logger()


class LangGraphRunProcessor:
    """Takes a claimed run and its epoch to its end. It does not know who claimed it, or how.

    `left_behind` has the graphs whose nodes ignored that they were cancelled, for as long as they go on.
    """

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        workflows: dict[str, Workflow],
        artifact_url_base: str,
        worker: str,
        max_state_bytes: int = DEFAULT_MAX_STATE_BYTES,
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._workflows = workflows
        self._artifact_url_base = artifact_url_base
        self._worker = worker
        self._max_state_bytes = max_state_bytes
        self._controls: set[RunControl] = set()
        self.left_behind: set[asyncio.Task[Any]] = set()

    def drain(self) -> None:
        """Makes every graph stop once the nodes that it is in have ended, to be resumed elsewhere."""
        for control in self._controls:
            control.request_drain()

    async def process(self, run: ClaimedRun, holds: Callable[[], bool] = lambda: True) -> None:
        """Executes the run, from its last checkpoint where it has one, and ends it. `holds` says whether its
        lease is known not to have ended: no node is entered when it does not.

        Returns without effect once the run is no longer this worker's, or when it was drained. Raises
        Unavailable when the database has gone away: the run stays as it is, to be handed back.
        """
        held = HeldRunRepository(self._database, run, self._worker)
        log = _log.bind(run_id=str(run.id), workflow=run.workflow_name, attempt=run.attempt)
        execution = Execution(held, self._artifacts, self._max_state_bytes, holds=holds)
        try:
            if run.losses >= MAX_LOSSES:
                message = f"{run.losses} workers were lost while they executed this run."
                await self._fail(held, Failure("WORKER_LOST", message, None, run.attempt, True))
                return
            if run.hand_backs >= MAX_HAND_BACKS:
                message = f"{run.hand_backs} times in a row it was handed back without a step completed."
                await self._fail(held, Failure("WORKER_STOPPED", message, None, run.attempt, True))
                return
            try:
                bundle = await self._execute_until_lost(execution)
            except (Fenced, Unavailable):
                raise
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except GraphDrained:
                await held.flush()
                log.info("run drained")
                return
            except BaseException as error:
                failure = self._failure(execution, error)
                await self._fail(held, failure)
                log.info("run failed", step=failure.step_id, exc_info=error)
                for each in within(error):
                    log.info("failed within the run", step=failure.step_id, exc_info=each)
                return
            await self._complete(held, bundle)
            log.info("run completed")
        except Fenced:
            log.info("run is no longer ours")
        except (Unavailable, asyncio.CancelledError):
            # It goes on elsewhere, where what has been done and not stored would be done again.
            with suppress(Exception):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await held.flush()
            raise

    async def _execute_until_lost(self, execution: Execution) -> UUID | None:
        """As _execute, but when the run turns out to be lost here, is stopped, or runs out of time, all
        nodes are cancelled at once. One that ignores it is left behind after a grace period: it must not
        hold a place in the worker, and nothing it still writes counts.
        """
        run = execution.held.run
        limit = self._workflows[run.workflow_name].timeout_seconds
        left = None if limit is None else max(0.0, limit - run.running_seconds)
        graph = asyncio.create_task(self._execute(execution))
        graph.add_done_callback(self._forget)
        lost = asyncio.Event()
        execution.stop = lost.set
        waiting = asyncio.create_task(lost.wait())
        try:
            done, _ = await asyncio.wait({graph, waiting}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise RunTimedOut(f"The run was still running after its time limit of {limit:g} s.")
        finally:
            waiting.cancel()
            if not graph.done():
                graph.cancel()
                # Before the wait, which a second cancel cuts short: a graph that nobody holds is collected.
                self.left_behind.add(graph)
                await asyncio.wait({graph}, timeout=_GRACE_SECONDS)
        if execution.lost is not None:
            raise execution.lost
        return graph.result()

    def _forget(self, graph: asyncio.Task[Any]) -> None:
        self.left_behind.discard(graph)
        if not graph.cancelled():
            graph.exception()  # whatever it is, it is nobody's concern any more

    async def _execute(self, execution: Execution) -> UUID | None:
        """Drives the graph to its end; answers the artifact that is the bundle."""
        run = execution.held.run
        workflow = self._workflows[run.workflow_name]
        checkpointer = FencedCheckpointer(execution, workflow)
        graph = workflow.graph.copy({"checkpointer": checkpointer})
        config: RunnableConfig = {
            "configurable": {"thread_id": str(run.id), EXECUTION: execution},
            "run_name": run.workflow_name,
        }
        resumes = await checkpointer.aget_tuple(config) is not None
        control = RunControl()
        self._controls.add(control)
        try:
            await graph.ainvoke(
                None if resumes else to_dict(run.trigger_payload),
                config,
                context=_context_for(graph.context_schema, execution),
                durability="sync",
                control=control,
            )
        except Exception as error:
            await checkpointer.take_back(error)
            raise
        finally:
            self._controls.discard(control)
            await checkpointer.settle()
        if execution.asked is not None:
            raise execution.asked
        if left := undone(checkpointer.state):
            raise WorkflowChanged(f"It ended although it was due to go on with {', '.join(left)}.")
        return await self._bundle_of(execution.held, checkpointer.state.get(_BUNDLE))

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

    def _failure(self, execution: Execution, error: BaseException) -> Failure:
        if isinstance(error, StatementRefused):
            _log.error("the engine could not store what a run did", exc_info=error)
            error = WorkflowError("What the run did could not be stored.")
        step = execution.step_of_failure(error)
        policies = self._workflows[execution.held.run.workflow_name].retry_policies
        return Failure(
            code=run_code(error, step),
            message=describe(error, execution.begun),
            step_id=step,
            attempt=execution.held.run.attempt,
            retryable=is_retryable(error, policies.get(step, ()) if step else ()),
        )

    async def _complete(self, held: HeldRunRepository, bundle: UUID | None) -> None:
        url = f"{self._artifact_url_base}/artifacts/{bundle}" if bundle else None
        async with held.end() as ending:
            await ending.complete()
            if held.run.campaign_id is not None:
                await CampaignService(ending).update_status_from_run(
                    held.run.campaign_id,
                    status=CampaignStatus.LIVE,
                    bundle_url=url,
                    latest_run_id=held.run.id,
                )

    async def _fail(self, held: HeldRunRepository, error: Failure) -> None:
        async with held.end() as ending:
            await ending.fail(error)
            if held.run.campaign_id is not None:
                await CampaignService(ending).update_status_from_run(
                    held.run.campaign_id,
                    status=CampaignStatus.FAILED,
                    bundle_url=None,
                    latest_run_id=held.run.id,
                )


def _context_for(schema: type[Any] | None, execution: Execution) -> Any:
    """A RunContext, or, for a graph with a context schema of its own, what the run's context has
    of that schema's fields.
    """
    if schema is None or issubclass(schema, RunContext):
        return execution.context_of_step(UUID(int=0), 0)
    if is_dataclass(schema):
        names = {each.name for each in fields(schema)}
    elif issubclass(schema, BaseModel):
        names = set(schema.model_fields)
    else:
        names = set(schema.__annotations__)
    return {key: value for key, value in to_dict(execution.held.run.context).items() if key in names}
