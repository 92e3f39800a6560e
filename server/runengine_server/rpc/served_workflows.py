"""Tells a caller, and the log, that a run waits for a worker that is not there."""

from __future__ import annotations

import asyncio
import time

import structlog

from runengine_server.domain.errors import Unavailable
from runengine_server.repositories.workflow_repository import WorkflowRepository

# How old what is known may be; and how often it is seen whether runs wait, which costs more.
_LOOK_SECONDS = 1.0
_LOOK_FOR_QUEUED_SECONDS = 30.0

# How often one workflow's triggers are told of in the log.
_TELL_SECONDS = 60.0

_NO_WORKERS = (("runengine-workers", "0"),)

_log = structlog.get_logger()


class ServedWorkflows:
    """Which workflows some worker serves, as of a second ago: no call asks the database for it.

    What is not known is taken to be served, so that no caller is told what is wrong.
    """

    def __init__(self, workflows: WorkflowRepository) -> None:
        self._workflows = workflows
        self._unserved: frozenset[str] = frozenset()
        self._told: dict[str, float] = {}  # when, of those that are unserved
        self._look_for_queued_at = 0.0

    def metadata_for(self, workflow_name: str) -> tuple[tuple[str, str], ...]:
        """What goes with the response to a call that has queued a run, or found that it had been."""
        if workflow_name not in self._unserved:
            return ()
        if time.monotonic() - self._told.get(workflow_name, -_TELL_SECONDS) >= _TELL_SECONDS:
            self._tell(workflow_name)
        return _NO_WORKERS

    def _tell(self, workflow_name: str) -> None:
        self._told[workflow_name] = time.monotonic()
        _log.warning("runs wait for a worker: none serves their workflow", workflow=workflow_name)

    async def follow(self) -> None:
        """Goes on looking, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Sees what there is now, unless the database is away."""
        now = time.monotonic()
        look_for_queued = now >= self._look_for_queued_at
        try:
            found = await self._workflows.served(look_for_queued)
        except Unavailable:
            return  # the watch over the database tells of it
        except Exception as error:
            _log.error("cannot see which workflows are served", exc_info=error)
            return
        if look_for_queued:
            self._look_for_queued_at = now + _LOOK_FOR_QUEUED_SECONDS
        unserved = frozenset(each.name for each in found if each.workers == 0)
        if unserved - self._unserved:
            self._look_for_queued_at = 0.0  # runs of it may wait already
        self._unserved = unserved
        for each in found:
            if each.has_queued and each.name not in self._told:
                self._tell(each.name)
        for name in self._told.keys() - unserved:
            del self._told[name]
            _log.info("a worker serves the workflow again", workflow=name)
