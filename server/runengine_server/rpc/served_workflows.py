"""Says, to a caller and in the log, that a run waits for a worker that is not there."""

from __future__ import annotations

import asyncio
import time

import structlog

from runengine_server.domain.errors import Unavailable
from runengine_server.repositories.workflow_repository import WorkflowRepository

# Between two queries of which workflows are served; and of which have queued runs, which costs more.
_REFRESH_SECONDS = 1.0
REFRESH_QUEUED_SECONDS = 30.0

# Between two warnings about the same workflow.
WARNING_SECONDS = 60.0

_NO_WORKERS = (("runengine-workers", "0"),)

_log = structlog.get_logger()


class ServedWorkflows:
    """Which workflows there are, and which some worker serves, as of a second ago, so that no call queries
    the database for it.

    An unknown workflow counts as served, so that no caller gets a wrong warning.
    """

    def __init__(self, workflows: WorkflowRepository) -> None:
        self._workflows = workflows
        self.names: tuple[str, ...] = ()  # of all workflows, served or not
        self._unserved: frozenset[str] = frozenset()
        self._warned_at: dict[str, float] = {}  # of workflows that are not served
        self._next_queued_at = 0.0

    def metadata_for(self, workflow_name: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a response to a call that queued a run of the workflow, or is a replay of one."""
        if workflow_name not in self._unserved:
            return ()
        if time.monotonic() - self._warned_at.get(workflow_name, -WARNING_SECONDS) >= WARNING_SECONDS:
            self._warn(workflow_name)
        return _NO_WORKERS

    def _warn(self, workflow_name: str) -> None:
        self._warned_at[workflow_name] = time.monotonic()
        _log.warning("runs wait for a worker: none serves their workflow", workflow=workflow_name)

    async def keep_current(self) -> None:
        """Refreshes once a second, until it is cancelled."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Reads what is served now; keeps what was read last while the database is away."""
        now = time.monotonic()
        with_queued = now >= self._next_queued_at
        try:
            found = await self._workflows.served(with_queued)
        except Unavailable:
            return  # what watches the database logs it
        except Exception as error:
            _log.error("cannot see which workflows are served", exc_info=error)
            return
        if with_queued:
            self._next_queued_at = now + REFRESH_QUEUED_SECONDS
        self.names = tuple(each.name for each in found)
        unserved = frozenset(each.name for each in found if each.workers == 0)
        if unserved - self._unserved:
            self._next_queued_at = 0.0  # runs of it may be queued already
        self._unserved = unserved
        for each in found:
            if each.has_queued and each.name not in self._warned_at:
                self._warn(each.name)
        for name in self._warned_at.keys() - unserved:
            del self._warned_at[name]
            _log.info("a worker serves the workflow again", workflow=name)
