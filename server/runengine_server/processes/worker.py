"""Builds a worker. Of all processes, only this one imports LangGraph and users' graphs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec

import structlog

from runengine_server import logs
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.lifecycle import ProcessLifecycle, terminate_leftovers
from runengine_server.processes.forks import detach_forked_children
from runengine_server.processes.metrics_server import serve_metrics
from runengine_server.processes.open_artifacts import open_artifact_store
from runengine_server.processes.open_database import (
    cannot_connect,
    database_urls,
    ensure_listening_works,
    open_database,
)
from runengine_server.processes.tracing_sdk import export_traces
from runengine_server.processes.watch_database import record_use, watch_database
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.handover_repository import HandoverRepository
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.settings import Settings, SettingsError
from runengine_server.worker.chores import hourly_chores
from runengine_server.worker.graph.entries import load_workflows
from runengine_server.worker.graph.load import Timeouts, Workflow
from runengine_server.worker.graph.log_fields import fields_of_node
from runengine_server.worker.loop_watch import INTERRUPTING
from runengine_server.worker.node_threads import NodeThreads
from runengine_server.worker.processor import LangGraphRunProcessor
from runengine_server.worker.queue_watch import watch_queue
from runengine_server.worker.worker import Worker

_log = structlog.get_logger()

# How long the context managers in which graphs were made may take to close.
_CLOSE_SECONDS = 2.0


async def worker(settings: Settings) -> None:
    """One worker, until it is told to stop. It then hands its runs back, for other workers."""
    if settings.dispatch == "temporal" and find_spec("temporalio") is None:
        raise SettingsError(
            "RUNENGINE_DISPATCH=temporal needs one more package: pip install 'runengine[temporal]'"
        )
    logs.log_users_code(settings.log_level, fields_of_node)
    artifacts = await open_artifact_store(settings)
    opened = AsyncExitStack()
    try:
        workflows = await load_workflows(
            settings.workflows,
            Timeouts(settings.run_timeout_seconds, settings.step_timeout_seconds),
            opened,
            skip_unusable=settings.skip_unusable_workflows,
        )
        has_stopped = await _work(settings, artifacts, workflows)
    finally:
        await _close(opened)
    # A thread or process that cannot be stopped must not keep this process alive: its run has been handed
    # back, and another worker may be executing it.
    if leftovers := terminate_leftovers():
        _log.warning("the worker ends, whatever its nodes have left running", leftovers=leftovers)
    if leftovers or not has_stopped:
        _exit_at_once(0)


async def _close(opened: AsyncExitStack) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await opened.aclose()
    except Exception as error:
        _log.warning("what a workflow was made with did not close", error=type(error).__name__)


async def _work(settings: Settings, artifacts: ArtifactStore, workflows: dict[str, Workflow]) -> bool:
    """Executes runs until the process is told to stop. Returns whether all their nodes have stopped too."""
    lifecycle = ProcessLifecycle()
    detach_forked_children(database_urls(settings)[1], lifecycle.close_parent_socket)
    name = f"worker:{socket.gethostname()}:{os.getpid()}"
    database = await open_database(
        settings, "worker", connections=settings.worker_concurrency + 2, kept_for_reads=1
    )
    await ensure_listening_works(settings, database)
    is_read = serve_metrics(settings, database)
    export_traces("worker")
    queue = QueueRepository(
        database, name, list(workflows), settings.lease_seconds, settings.tenant_running_limit
    )
    processor = LangGraphRunProcessor(
        database,
        artifacts,
        workflows,
        settings.artifact_url_base,
        name,
        settings.max_state_bytes,
        settings.step_data_bytes,
    )
    claiming = _kind_of_worker(settings, database, list(workflows))(
        queue,
        processor.process,
        processor.drain,
        concurrency=settings.worker_concurrency,
        lease_seconds=settings.lease_seconds,
        drain_seconds=settings.drain_seconds,
        blocked_seconds=settings.blocked_seconds,
        end_process=lambda: _exit_at_once(1),
        is_stop_requested=lifecycle.stop_requested.is_set,
        hourly=hourly_chores(database, artifacts, queue, settings.retention_days),
        on_watched=processor.progress.on_watched,
    )
    _use_node_threads(settings.worker_concurrency, lifecycle)
    if signal.getsignal(INTERRUPTING) is signal.SIG_DFL:
        signal.signal(INTERRUPTING, lambda number, frame: None)
    with lifecycle.handle_signals():
        try:
            await queue.register_workflows()
            await queue.describe_workflows({each.name: each.description for each in workflows.values()})
        except Unavailable as error:
            raise cannot_connect("RUNENGINE_DATABASE_URL", database_urls(settings)[1], error) from None
        watching = [asyncio.create_task(each) for each in (watch_database(database), record_use(database))]
        if is_read:
            watching.append(asyncio.create_task(watch_queue(queue)))
        working = asyncio.create_task(claiming.work())
        lifecycle.announce_ready("working", workflows=sorted(workflows))
        stopping = asyncio.create_task(lifecycle.stopping.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        claiming.stop()
        stopping.cancel()
        await working
        for task in watching:
            task.cancel()
        await database.close()
    return not claiming.has_uncancellable and not processor.abandoned


def _kind_of_worker(
    settings: Settings, database: Database, workflow_names: list[str]
) -> Callable[..., Worker]:
    """Who claims runs, as RUNENGINE_DISPATCH has it."""
    if settings.dispatch == "postgres":
        return Worker
    # 0.3 s and 20 MiB, and only for those who have it installed.
    from runengine_server.worker.temporal.cluster import Cluster, queue_of
    from runengine_server.worker.temporal.worker import TemporalWorker

    task_queue = queue_of(settings.temporal_task_queue, workflow_names)
    handovers = HandoverRepository(
        database, workflow_names, settings.lease_seconds, task_queue, settings.tenant_running_limit
    )
    return partial(TemporalWorker, handovers, Cluster(task_queue, settings.lease_seconds))


def _use_node_threads(count: int, lifecycle: ProcessLifecycle) -> None:
    """Gives sync nodes as many threads as there may be runs: asyncio's own default is four more than there
    are cores.
    """
    loop = asyncio.get_running_loop()

    def restart() -> None:
        _log.error("too many sync nodes left threads behind; the worker ends, to be started anew")
        loop.call_soon_threadsafe(lifecycle.stopping.set)

    loop.set_default_executor(NodeThreads(count, restart))


def _exit_at_once(code: int) -> None:
    """Ends the process without waiting for its threads."""
    logs.flush()
    os._exit(code)
