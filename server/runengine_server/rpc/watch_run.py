"""The stream of WatchRun."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from uuid import UUID

from runengine.v1.run_service_pb2 import GetRunResponse, WatchRunResponse

from runengine_server.domain import page_token
from runengine_server.domain.errors import Interrupted, RunNotFound
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.rpc.messages import event_message, step_message
from runengine_server.rpc.run_watches import RunWatch, RunWatches

# How often the transitions are read where no hint has come: hints may be lost, and some changes have none.
POLL_SECONDS = 2.0

# After so long a caller has to come again, so that its token is checked again.
MAX_SECONDS = 600.0

_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


async def watch_run(
    watches: RunWatches, runs: RunRepository, tenant_id: str, run_id: UUID, last_event: int | None
) -> AsyncIterator[WatchRunResponse]:
    """The snapshot, unless the caller knows the transitions up to `last_event`, and what happens from then on
    until the run has ended.

    Transitions are read from their table, by number, so that none is missed and none comes twice, whatever
    becomes of notifications. Raises RunNotFound, Unavailable, and Interrupted when the process stops, and
    after ten minutes.
    """
    until = time.monotonic() + MAX_SECONDS
    if last_event is None:
        watched = await runs.get_to_watch(run_id)
    else:
        watched = await runs.get_events_after(run_id, last_event)
    if watched is None:
        raise RunNotFound
    with watches.watch(tenant_id, run_id) as watch:
        await watches.wait_connected()
        watch.raise_epoch(watched.epoch)
        if last_event is None:
            last_event = watched.last_event
            yield WatchRunResponse(run=GetRunResponse.FromString(watched.response).run)
            for step in await runs.list_steps(run_id, None) or ():
                yield WatchRunResponse(step=step_message(step))
            token = page_token.encode_event(last_event, tenant_id, run_id)
            yield WatchRunResponse(snapshot_end=WatchRunResponse.SnapshotEnd(), resume_token=token)
        while True:
            for number, event in watched.events:
                has_ended = event.to_status in _ENDED
                if has_ended:
                    await watches.settle()
                for response in _progress(watch):
                    yield response
                last_event = number
                token = page_token.encode_event(number, tenant_id, run_id)
                yield WatchRunResponse(transition=event_message(event), resume_token=token)
                if has_ended:
                    return
            if watched.status in _ENDED:
                return
            may_have_changed = False
            while not may_have_changed:
                may_have_changed = await watch.wait(POLL_SECONDS)
                for response in _progress(watch):
                    yield response
            if watches.is_stopping or time.monotonic() >= until:
                raise Interrupted
            watched = await runs.get_events_after(run_id, last_event)
            if watched is None:
                raise RunNotFound
            watch.raise_epoch(watched.epoch)


def _progress(watch: RunWatch) -> list[WatchRunResponse]:
    return [WatchRunResponse(progress=event) for event in watch.take()]
