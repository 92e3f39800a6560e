"""Runs a workflow in a test: what `runengine.testing` has."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from runengine.v1.run_service_pb2 import (
    GetRunOutputResponse,
    GetRunResponse,
    ResumeRunRequest,
    TriggerRunRequest,
)
from runengine_client import to_struct
from runengine_client.structs import to_value

from runengine_server import logs
from runengine_server.commands.resume_run import check_resume, resume_run
from runengine_server.commands.retry_run import retry_run
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.database.database import Database
from runengine_server.domain.caller import Actor
from runengine_server.domain.encoded_run import failure_of
from runengine_server.domain.run import Artifact, Failure, RunStatus, RunStep
from runengine_server.processes.shared_postgres import shared_postgres
from runengine_server.repositories.artifact_repository import ArtifactRepository
from runengine_server.repositories.artifact_store import ArtifactDirectory
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.repositories.run_repository import MutationResult, RunRepository
from runengine_server.worker.graph.entries import workflow_of
from runengine_server.worker.graph.load import Workflow
from runengine_server.worker.processor import LangGraphRunProcessor

_ACTOR = Actor("user_test", None)
_WORKER = "worker:testing"
_CONNECTIONS = 4

# Nobody else claims the runs of such a workflow, so that no lease has to be renewed.
_LEASE_SECONDS = 3600.0


@dataclass(frozen=True)
class WorkflowArtifact:
    """What a step has saved."""

    id: UUID
    step_id: str
    name: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class WorkflowGate:
    """Something that a run waits for: `value` is what `interrupt()` was called with, as JSON has it."""

    id: str
    step_id: str
    value: Any


@dataclass(frozen=True)
class WorkflowRun:
    """A run after it was executed, as a caller would see it. `status` and those of the steps are the words of
    REST, such as "completed". `output` is what the graph returned, as JSON has it; None unless completed.
    `steps` are in the order of their execution, each at its current attempt; `artifacts` are theirs. One that
    waits for somebody is "running", and `waiting_for` says for what.
    """

    id: UUID
    status: RunStatus
    attempt: int
    output: Any
    error: Failure | None
    steps: list[RunStep]
    artifacts: list[WorkflowArtifact]
    waiting_for: list[WorkflowGate]

    def artifact(self, name: str) -> bytes:
        """The bytes of the artifact of that name, the last where there are several. Raises KeyError."""
        found = {each.name: each.data for each in self.artifacts}
        if name not in found:
            raise KeyError(f"{name!r} was not saved; there are {list(found)}")
        return found[name]

    def step(self, step_id: str) -> RunStep:
        """The step of that name, the last where there are several. Raises KeyError."""
        found = {each.step_id: each for each in self.steps}
        if step_id not in found:
            raise KeyError(f"{step_id!r} was not reached; there are {list(found)}")
        return found[step_id]


class WorkflowRunner:
    """Executes runs of one workflow, of a tenant of its own, in this event loop."""

    def __init__(self, database: Database, directory: Path, workflow: Workflow) -> None:
        tenant = database.tenant(f"org_{uuid4().hex}")
        self._workflow = workflow.name
        self._runs = RunRepository(tenant)
        self._artifacts = ArtifactRepository(tenant)
        self._store = ArtifactDirectory(directory)
        self.queue = QueueRepository(database, _WORKER, [workflow.name], _LEASE_SECONDS)
        self._processor = LangGraphRunProcessor(
            database, self._store, {workflow.name: workflow}, "http://127.0.0.1:8080", _WORKER
        )
        self._claiming = asyncio.Lock()

    async def run(
        self, payload: Mapping[str, Any] | None = None, *, context: Mapping[str, Any] | None = None
    ) -> WorkflowRun:
        """A new run, after it was executed. Raises ValueError, InvalidArgument or PayloadTooLarge for a
        payload or a context that no caller could send.
        """
        structs = [None if each is None else to_struct(each) for each in (payload, context)]
        request = TriggerRunRequest(
            workflow_name=self._workflow, trigger_payload=structs[0], context=structs[1]
        )
        new = check_trigger(request)
        return await self._execute(trigger_run(self._runs, new, _ACTOR, None, None))

    async def retry(self, run: WorkflowRun) -> WorkflowRun:
        """The run, retried and executed. Raises RunNotRetryable for one that has completed."""
        return await self._execute(retry_run(self._runs, run.id, _ACTOR, None, None))

    async def resume(self, run: WorkflowRun, value: Any) -> WorkflowRun:
        """The run, which waits for one thing, resumed with that value and executed; or, where it waits for
        several, with a dict from the ids of some or all of them. Raises RunNotWaiting and InvalidArgument.
        """
        request = ResumeRunRequest(run_id=str(run.id))
        if len(run.waiting_for) > 1:
            for key, each in value.items():
                request.values[key].CopyFrom(to_value(each))
        else:
            request.value.CopyFrom(to_value(value))
        resumption = resume_run(self._runs, run.id, check_resume(request), _ACTOR, None)
        return await self._execute(resumption, resumes=True)

    async def _execute(
        self, queue: Coroutine[Any, Any, MutationResult], *, resumes: bool = False
    ) -> WorkflowRun:
        async with self._claiming:  # so that each call gets its own run
            await queue
            claim = self.queue.claim_expired if resumes else self.queue.claim_queued
            (run,) = await claim(1)
        await self._processor.process(run)
        return await self._read(run.id)

    async def _read(self, run_id: UUID) -> WorkflowRun:
        response, stored = await self._runs.get(run_id), await self._runs.get_output(run_id)
        steps = await self._runs.list_steps(run_id, None)
        assert response is not None
        assert stored is not None
        assert steps is not None
        run = GetRunResponse.FromString(response).run
        return WorkflowRun(
            id=run_id,
            status=stored.status,
            attempt=run.attempt,
            output=await self._output(stored.encoded),
            error=failure_of(run),
            steps=steps,
            artifacts=[
                await self._artifact(each, step) for step in steps for each in step.output_artifact_ids
            ],
            waiting_for=[
                WorkflowGate(each.id, each.step_id, json.loads(each.value)) for each in run.waiting_for
            ],
        )

    async def _output(self, encoded: bytes | None) -> Any:
        response = GetRunOutputResponse.FromString(encoded or b"")
        if response.HasField("artifact_id"):
            return json.loads((await self._bytes_of(UUID(response.artifact_id)))[1])
        return json.loads(response.output) if response.HasField("output") else None

    async def _artifact(self, artifact_id: UUID, step: RunStep) -> WorkflowArtifact:
        artifact, data = await self._bytes_of(artifact_id)
        return WorkflowArtifact(artifact_id, step.step_id, artifact.name, artifact.media_type, data)

    async def _bytes_of(self, artifact_id: UUID) -> tuple[Artifact, bytes]:
        artifact = await self._artifacts.get(artifact_id)
        assert artifact is not None
        return artifact, b"".join([chunk async for chunk in self._store.read(artifact.key)])


@asynccontextmanager
async def workflow_runner(graph: Any) -> AsyncIterator[WorkflowRunner]:
    """Executes runs of `graph`, which is whatever a workflow may be: a graph, compiled or not, or a function
    that returns one.

    Raises ValueError, in one line, for what is no workflow, and RuntimeError when PostgreSQL cannot start.
    """
    logs.log_by_logging()
    async with AsyncExitStack() as opened:
        # Unique, so that no other test claims its runs.
        workflow = await workflow_of(f"workflow-{uuid4().hex}", graph, opened)
        database = Database(await shared_postgres(), _CONNECTIONS, process="testing")
        await database.open()
        opened.push_async_callback(database.close)
        directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="runengine-artifacts-"))
        runner = WorkflowRunner(database, Path(directory), workflow)
        await runner.queue.register_workflows()
        await runner.queue.describe_workflows({workflow.name: workflow.description})
        opened.push_async_callback(runner.queue.withdraw_workflows)
        yield runner


async def run_workflow(
    graph: Any, payload: Mapping[str, Any] | None = None, *, context: Mapping[str, Any] | None = None
) -> WorkflowRun:
    """One run of `graph`, after it was executed; see workflow_runner and WorkflowRunner.run."""
    async with workflow_runner(graph) as runner:
        return await runner.run(payload, context=context)
