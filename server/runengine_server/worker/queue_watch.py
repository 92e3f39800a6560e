"""Counts what is queued and what waits, of all tenants: one worker among those whose metrics are read."""

from __future__ import annotations

import asyncio

import structlog

from runengine_server.metrics import OLDEST_QUEUED, QUEUED, WAITING
from runengine_server.repositories.queue_repository import QueueRepository

# How often. The worker that counted last does so again; another only once it has missed this, so that the
# figures do not move from one to the other at each time.
_SECONDS = 15.0
_OWN_SECONDS, _OTHERS_SECONDS = _SECONDS / 2, _SECONDS * 1.5

_log = structlog.get_logger()


async def watch_queue(queue: QueueRepository, seconds: float = _SECONDS) -> None:
    """Counts every `seconds`, for ever. A worker that does not count any more shows nothing."""
    counts_now = False
    while True:
        try:
            counts_now = await queue.begin_chore(
                "count of the queue", _OWN_SECONDS if counts_now else _OTHERS_SECONDS
            )
            backlogs = await queue.count_backlog() if counts_now else []
        except Exception as error:
            _log.warning("the queue was not counted this time", error=type(error).__name__)
            counts_now, backlogs = False, []
        for gauge in (QUEUED, OLDEST_QUEUED, WAITING):
            gauge.clear()
        for each in backlogs:
            QUEUED.labels(each.workflow).set(each.queued)
            OLDEST_QUEUED.labels(each.workflow).set(each.oldest_seconds)
            WAITING.labels(each.workflow).set(each.waiting)
        await asyncio.sleep(seconds)
