"""What an execution of a node may ask of the engine: its RunContext."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import structlog
import uuid_utils.compat
from runengine.context import RunContext

from runengine_server.domain.errors import Fenced, StatementRefused
from runengine_server.domain.ids import parse_uuid
from runengine_server.domain.run import Artifact
from runengine_server.domain.struct import to_dict
from runengine_server.worker.graph.execution import Execution, ExecutionStopped
from runengine_server.worker.graph.idempotency_key import idempotency_key
from runengine_server.worker.graph.steps import BegunStep

_log = structlog.get_logger()


class ArtifactNotStored(Exception):
    """The artifact store failed. What it said is in the log alone, because it has paths in it."""


class ArtifactNotRead(Exception):
    """As ArtifactNotStored."""


def context_of_step(execution: Execution, step: BegunStep, task_id: str) -> RunContext:
    """The RunContext of that execution of a node, which LangGraph knows as that task."""
    run = execution.run

    async def save_artifact(name: str, data: bytes, media_type: str) -> str:
        return await _save_artifact(execution, step, name, data, media_type)

    return RunContext(
        run_id=run.id,
        tenant_id=run.tenant_id,
        campaign_id=run.campaign_id,
        attempt=run.attempt,
        _context=lambda: None if run.context is None else to_dict(run.context),
        _idempotency_key=partial(idempotency_key, run.id, step.id, task_id),
        _save_artifact=save_artifact,
        _read_artifact=partial(_read_artifact, execution),
    )


async def _save_artifact(
    execution: Execution, step: BegunStep, name: str, data: bytes, media_type: str
) -> str:
    """The id of the artifact. Raises ValueError, ArtifactNotStored and ExecutionStopped."""
    for word in (name, media_type):
        if not 0 < len(word) <= 255 or not word.isprintable():
            raise ValueError("An artifact's name and media type are 1 to 255 printable characters.")
    if "/" in name:
        raise ValueError("The name of an artifact has no slash.")
    run, store = execution.run, execution.artifacts
    artifact_id = uuid_utils.compat.uuid7()
    key = store.key(run.tenant_id, run.id, artifact_id)
    try:
        await store.put(key, data, name, media_type)
    except Exception as error:
        _log.error("artifact not stored", run_id=str(run.id), exc_info=error)
        raise ArtifactNotStored("The artifact could not be stored.") from None
    artifact = Artifact(id=artifact_id, name=name, media_type=media_type, size=len(data), key=key)
    try:
        await execution.fenced(execution.held.save_artifact(artifact, step.id, step.attempt))
    except ExecutionStopped as stopped:
        # Not after Unavailable: the row may have been committed, and only the response lost.
        if isinstance(stopped.__cause__, Fenced | StatementRefused):
            # Shielded, because the node is cancelled as soon as the run is known not to be held any more.
            with contextlib.suppress(Exception):
                await asyncio.shield(store.delete(key))
        raise
    return str(artifact_id)


async def _read_artifact(execution: Execution, artifact_id: str) -> bytes:
    """The bytes of the artifact. Raises ValueError, ArtifactNotRead and ExecutionStopped."""
    artifact = None
    if (parsed := parse_uuid(artifact_id)) is not None:
        artifact = await execution.fenced(execution.held.get_artifact(parsed))
    if artifact is None:
        raise ValueError("There is no artifact of that id.")
    try:
        return b"".join([chunk async for chunk in execution.artifacts.read(artifact.key)])
    except Exception as error:
        _log.error("artifact not read", run_id=str(execution.run.id), exc_info=error)
        raise ArtifactNotRead("The artifact could not be read.") from None
