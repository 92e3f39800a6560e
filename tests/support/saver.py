"""Checkpoint savers of a run, and what they have stored."""

from __future__ import annotations

from uuid import UUID, uuid4

import asyncpg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointMetadata, empty_checkpoint
from runengine_server.domain.run import ClaimedRun
from runengine_server.repositories.artifact_store import ArtifactDirectory
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.graph.checkpointer import FencedCheckpointer
from runengine_server.worker.graph.execution import Execution

from tests.support.own_worker import Engine

METADATA: CheckpointMetadata = {"source": "loop", "step": 0, "parents": {}}


def saver_of(engine: Engine, run: ClaimedRun) -> FencedCheckpointer:
    held = HeldRunRepository(engine.database, run, "worker:test")
    progress = engine.processor.progress.open(run)
    return FencedCheckpointer(Execution(held, ArtifactDirectory(engine.directory), progress))


async def claimed(engine: Engine) -> ClaimedRun:
    await engine.trigger()
    return await engine.claim()


def config_of(run: ClaimedRun) -> RunnableConfig:
    return {"configurable": {"thread_id": str(run.id), "checkpoint_ns": ""}}


async def put(saver: FencedCheckpointer, run: ClaimedRun) -> RunnableConfig:
    """A checkpoint with what one task wrote on top of it."""
    stored = await saver.aput(config_of(run), empty_checkpoint(), METADATA, {})
    await saver.aput_writes(stored, [("seen", ["one"])], str(uuid4()))
    await saver.flush()
    return stored


async def rows(database: asyncpg.Connection, run_id: UUID) -> list[asyncpg.Record]:
    """All that is stored of a run's checkpoints, whoever asks."""
    return [
        row
        for table in ("checkpoints", "checkpoint_writes")
        for row in await database.fetch(f"SELECT * FROM {table} WHERE run_id = $1 ORDER BY {table}", run_id)
    ]
