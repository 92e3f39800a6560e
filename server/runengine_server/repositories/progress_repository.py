"""Sends what runs tell of their progress to the processes that watch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runengine_server.database.functions import dispatch_function
from runengine_server.database.scopes import DispatchScope
from runengine_server.domain.run import ClaimedRun

_SEND = dispatch_function("send_progress")


@dataclass(frozen=True, slots=True)
class Notification:
    """A payload for the process that listens on that channel, from the worker that holds the run."""

    run: ClaimedRun
    channel: str
    payload: str


class ProgressRepository:
    """The progress of all runs of a worker."""

    def __init__(self, dispatch: DispatchScope) -> None:
        self._dispatch = dispatch

    async def send(self, notifications: Sequence[Notification]) -> None:
        """Sends them in order, by one statement, without those of runs that are no longer the worker's."""
        await self._dispatch.call(
            _SEND,
            [each.run.tenant_id for each in notifications],
            [each.run.id for each in notifications],
            [each.run.epoch for each in notifications],
            [each.channel for each in notifications],
            [each.payload for each in notifications],
        )

    def tell_changed(self, channel: str, payload: str) -> None:
        """Tells the process that a run has changed, after the commit: a hint, as all of the notifier."""
        self._dispatch.notifier.notify(channel, payload)
