"""The Temporal cluster, as a worker of the engine uses it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from runengine_server.domain.handover import Handover
from runengine_server.worker.temporal.workflow import RunWorkflow

_ADDRESS = "localhost:7233"

# How long a call may take; Temporal's client tries again by itself, for up to ten seconds. Runs that are
# being executed do not wait for it.
_CALL_SECONDS = 2.0

# How long to wait before the next try to poll for runs, where Temporal refused.
_POLL_AGAIN_SECONDS = 1.0

# Temporal counts an executor as lost no sooner, so that a slow network is no reason.
_LEAST_HEARTBEAT_SECONDS = 5.0

_log = structlog.get_logger()

# What a call raises that was not answered; RuntimeError where there was no connection yet.
UNANSWERED = (RPCError, RuntimeError, TimeoutError)


def queue_of(prefix: str, workflow_names: list[str]) -> str:
    """The task queue of all workers that serve these workflows, and no others: each of them can execute
    whatever is handed over to it.
    """
    return f"{prefix}-{sha256(','.join(sorted(workflow_names)).encode()).hexdigest()[:8]}"


class Cluster:
    """Hands runs over to a task queue, and polls it. Address, namespace, TLS and API key are those of
    Temporal's own environment variables and configuration file.
    """

    def __init__(self, queue: str, lease_seconds: float) -> None:
        self.queue = queue
        self.heartbeat_seconds = lease_seconds / 3
        self._lost_seconds = max(lease_seconds, _LEAST_HEARTBEAT_SECONDS)
        forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio"))
        filter_ = TelemetryFilter(core_level="ERROR", other_level="ERROR")
        self._runtime = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter_, forwarding)))
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._trouble: str | None = None

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                config: dict[str, Any] = {
                    "target_host": _ADDRESS,
                    **ClientConfig.load_client_connect_config(),
                }
                async with asyncio.timeout(_CALL_SECONDS):
                    self._client = await Client.connect(**config, runtime=self._runtime)
            return self._client

    async def hand_over(self, handover: Handover) -> None:
        """Starts the workflow of the run, unless it is there. Raises one of UNANSWERED."""
        client = await self._connected()
        async with asyncio.timeout(_CALL_SECONDS):
            await client.start_workflow(
                RunWorkflow.run,
                args=[handover, self._lost_seconds],
                id=handover.workflow_id(self.queue),
                task_queue=self.queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                # One that has ended has not executed the run: nobody has claimed it as it is.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            )

    async def cancel(self, handover: Handover, queue: str) -> None:
        """Asks for the end of the workflow of a run that was cancelled. Raises one of UNANSWERED, also when
        it has ended by itself.
        """
        client = await self._connected()
        handle = client.get_workflow_handle(handover.workflow_id(queue))
        async with asyncio.timeout(_CALL_SECONDS):
            await handle.cancel()

    async def poll(self, execute: Callable[[Handover], Awaitable[None]], concurrency: int) -> None:
        """Has up to so many runs executed at a time, until `stop_polling`, and then until they have ended."""
        while not self._stopping.is_set():
            try:
                await self._poll(await self._connected(), execute, concurrency)
            except UNANSWERED as error:
                self.complain(error)
            except Exception as error:
                # Without runs the worker would look healthy.
                _log.error("polling Temporal failed; starting it again", exc_info=error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _POLL_AGAIN_SECONDS)

    async def _poll(
        self, client: Client, execute: Callable[[Handover], Awaitable[None]], concurrency: int
    ) -> None:
        worker = Worker(
            client,
            task_queue=self.queue,
            workflows=[RunWorkflow],
            activities=[execute],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_activities=concurrency,
            # As often as we say it: a heartbeat is how a worker hears that its run is to stop.
            max_heartbeat_throttle_interval=timedelta(seconds=self.heartbeat_seconds / 2),
            # They are stopped by the engine's worker, which hands their runs back.
            graceful_shutdown_timeout=timedelta(hours=1),
        )
        polling = asyncio.create_task(worker.run())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({polling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                await worker.shutdown()
            await polling
        finally:
            polling.cancel()
            stopping.cancel()

    def stop_polling(self) -> None:
        """Takes no more runs from now on."""
        self._stopping.set()

    def complain(self, error: Exception) -> None:
        """Logs that Temporal is away, once."""
        if self._trouble is None:
            self._trouble = str(error) or type(error).__name__
            _log.error("runs cannot be handed over: Temporal is away", error=self._trouble)

    def is_fine(self) -> None:
        """Logs that it is back, where it was away."""
        if self._trouble is not None:
            self._trouble = None
            _log.info("runs are handed over to Temporal again")
