"""The streams of those who watch runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from functools import lru_cache

from runengine.v1.run_service_pb2 import WatchRunResponse
from runengine.v1.watch_runs_pb2 import RunTransition, StepOfRun, WatchRunsResponse

from runengine_server.domain import page_token
from runengine_server.domain.caller import Caller
from runengine_server.domain.changes import Change, Position, Scope
from runengine_server.domain.errors import Interrupted, ResumeTokenExpired, RunNotFound
from runengine_server.domain.run import ENDED
from runengine_server.repositories.change_repository import Snapshot
from runengine_server.rpc.messages import event_message, step_message
from runengine_server.rpc.run_watch import RunWatch
from runengine_server.rpc.run_watches import RunWatches

# How many transitions, and tokens, are kept encoded: those that have just been read, for all who watch them.
_KEPT = 4096


async def watch_runs(
    watches: RunWatches,
    caller: Caller,
    scope: Scope,
    position: Position | None,
    *,
    limit: int = 1,
    with_progress: bool = True,
) -> AsyncGenerator[bytes | None]:
    """A snapshot, of several runs of up to `limit`, unless the caller goes on from a position; then what
    happens from there on. The stream of one run ends when the run has.

    Yields encoded messages, of WatchRunResponse or WatchRunsResponse, and None where it goes on and has
    nothing to send yet. Raises RunNotFound, ResumeTokenExpired, Unavailable, and Interrupted when the process
    stops and when the caller's token expires.
    """
    is_of_one = scope.run_id is not None
    with watches.watch(scope, with_progress=with_progress, until=caller.expires) as watch:
        await watches.wait_connected()
        if position is None:
            async with watches.beginning:
                snapshot = await watches.changes.begin(scope, limit)
            if is_of_one and not snapshot.runs:
                raise RunNotFound
            for response in _begin(watch, snapshot):
                yield response
            watch.position = snapshot.position
            has_ended = is_of_one and snapshot.runs[0].status in ENDED
        else:
            async with watches.beginning:
                resumed = await watches.changes.resume(scope, position)
            if is_of_one and resumed.status is None:
                raise RunNotFound
            if not resumed.can_go_on:
                raise ResumeTokenExpired
            watch.position = position
            has_ended = resumed.status in ENDED
            if not has_ended:
                yield None
        watches.reader.add(watch)
        # Of a run that had ended nothing but what was before that is still to come.
        while not (has_ended and watch.is_current):
            await watch.wait()
            if not has_ended:
                for response in _progress(watch):
                    yield response
            for changes, change in watch.take_changes():
                is_last = is_of_one and change.event is not None and change.event.to_status in ENDED
                if is_last:
                    await watches.settle()
                    for response in _progress(watch):
                        yield response
                encoded = _encoded_of_run(change) if is_of_one else _encoded_of_runs(change)
                yield encoded + _encoded_token(changes.after(change), scope)
                if is_last:
                    return
            if watch.is_behind:
                watch.is_behind = False
                watches.reader.hint(scope.tenant_id)
            if watch.is_over:
                raise Interrupted


def _begin(watch: RunWatch, snapshot: Snapshot) -> Iterator[bytes]:
    is_of_one = watch.scope.run_id is not None
    for run in snapshot.runs:
        if is_of_one or run.status not in ENDED:
            watch.know(run.id, run.epoch)
        yield run.response  # which has the run in field 1, as both messages have
    for run_id, step in snapshot.steps:
        message = step_message(step)
        yield (
            WatchRunResponse(step=message)
            if is_of_one
            else WatchRunsResponse(step=StepOfRun(run_id=str(run_id), step=message))
        ).SerializeToString()
    end = WatchRunsResponse(snapshot_end=WatchRunsResponse.SnapshotEnd())
    yield end.SerializeToString() + _encoded_token(snapshot.position, watch.scope)


def _progress(watch: RunWatch) -> Iterator[bytes]:
    # All of them at once: what comes while they are sent waits for the next time.
    yield from [WatchRunsResponse(progress=each).SerializeToString() for each in watch.take_progress()]


@lru_cache(_KEPT)
def _encoded_of_run(change: Change) -> bytes:
    if change.step is not None:
        return WatchRunResponse(step_transition=step_message(change.step)).SerializeToString()
    assert change.event is not None
    return WatchRunResponse(transition=event_message(change.event)).SerializeToString()


@lru_cache(_KEPT)
def _encoded_of_runs(change: Change) -> bytes:
    run_id = str(change.run_id)
    if change.step is not None:
        step = StepOfRun(run_id=run_id, step=step_message(change.step))
        return WatchRunsResponse(step_transition=step).SerializeToString()
    assert change.event is not None
    transition = RunTransition(
        run_id=run_id,
        workflow_name=change.workflow_name,
        campaign_id=None if change.campaign_id is None else str(change.campaign_id),
        event=event_message(change.event),
    )
    return WatchRunsResponse(transition=transition).SerializeToString()


@lru_cache(_KEPT)
def _encoded_token(position: Position, scope: Scope) -> bytes:
    # Encoded messages of one type, one after the other, are the message that has all their fields.
    token = page_token.encode_position(position, scope)
    return WatchRunsResponse(resume_token=token).SerializeToString()
