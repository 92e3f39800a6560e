"""The runs that a client reads while they go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property

from runengine.v1.run_pb2 import Run, RunStatus
from runengine.v1.run_service_pb2 import GetRunRequest, WatchRunRequest, WatchRunResponse
from runengine.v1.watch_runs_pb2 import WatchCampaignRunsRequest, WatchRunsRequest, WatchRunsResponse

from runengine_client.arguments import Id
from runengine_client.changed_runs import ChangedRuns
from runengine_client.connection import BREAKS, RECONNECT_SECONDS, reconnect_pause
from runengine_client.errors import DeadlineExceeded
from runengine_client.run_lists import RunLists

TERMINAL = frozenset(
    {RunStatus.RUN_STATUS_COMPLETED, RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED}
)
"""The statuses in which a run stays until it is retried."""


# How many of those who wait for runs ask for theirs at once.
_READ_AT_ONCE = 16


class RunWatches(RunLists):
    """The part of RunEngineClient that reads runs while they go."""

    async def get_run(self, run_id: Id) -> Run:
        """Returns the run as it is now. Raises RunNotFound."""
        return (await self._call(self._runs.GetRun, GetRunRequest(run_id=str(run_id)))).run

    async def watch_run(
        self, run_id: Id, *, resume_token: str | None = None
    ) -> AsyncIterator[WatchRunResponse]:
        """Yields the run and its steps as they are, then each transition of the run and of its steps as it
        happens, once and in order, and what the run tells of its progress; until it has ended.

        With the `resume_token` of an earlier message it begins after that instead. When the connection
        breaks off, it is made again by itself, and the token asked for again; progress of the meantime is
        lost. Where the server does not know any more what has happened since, the watch begins anew: a
        second `run` replaces all that came before. Raises RunNotFound, InvalidArgument for a token of
        another run, QuotaExceeded or Overloaded for too many watches, and Unavailable or Interrupted when
        the server is away at first, or for a minute.
        """
        request = WatchRunRequest(run_id=str(run_id), resume_token=resume_token)
        async for response in self._watch(self._runs.WatchRun, request, WatchRunResponse):
            yield response

    async def watch_campaign(
        self,
        campaign_id: Id,
        *,
        snapshot_limit: int | None = None,
        with_progress: bool = False,
        resume_token: str | None = None,
    ) -> AsyncIterator[WatchRunsResponse]:
        """Yields the most recent runs of the campaign as they are, with the steps of those that have not
        ended, then each transition of any of its runs and of their steps, once; it has no end.

        Those of one run come in order. `snapshot_limit` is how many runs come first, 0 to 100, by default
        100; `with_progress` is for what the runs tell of their progress. Otherwise as `watch_run`: where it
        begins anew, what comes up to a second `snapshot_end` replaces all that came before. Raises
        InvalidArgument.
        """
        request = WatchCampaignRunsRequest(
            campaign_id=str(campaign_id),
            snapshot_limit=snapshot_limit,
            with_progress=with_progress or None,
            resume_token=resume_token,
        )
        async for response in self._watch(self._runs.WatchCampaignRuns, request, WatchRunsResponse):
            yield response

    async def watch_runs(
        self,
        *,
        snapshot_limit: int | None = None,
        with_progress: bool = False,
        resume_token: str | None = None,
    ) -> AsyncIterator[WatchRunsResponse]:
        """Yields of all runs of the tenant what `watch_campaign` does of a campaign's."""
        request = WatchRunsRequest(
            snapshot_limit=snapshot_limit, with_progress=with_progress or None, resume_token=resume_token
        )
        async for response in self._watch(self._runs.WatchRuns, request, WatchRunsResponse):
            yield response

    async def follow_run(self, run_id: Id, *, poll: tuple[float, float] = (0.05, 1)) -> AsyncIterator[Run]:
        """Yields the run as it is now, and again when it has changed, until it has ended.

        The last one is completed, failed or cancelled. A run that waits for somebody has not ended; its
        `waiting_for` says what to resume it with. All runs that a client follows share one stream. Where the
        server grants none, the client asks for the run again and again: `poll` is the first pause and the
        longest, in seconds, and each is half as long again as the one before. Raises RunNotFound, and
        Unavailable when the server is away at first, or for a minute.
        """
        run = await self.get_run(run_id)
        yield run
        pause, longest = poll
        with self._changed_runs.of(run.id) as change:
            while run.status not in TERMINAL:
                await change.wait(pause)
                pause = min(pause * 1.5, longest)
                last, run = run, await self._get_run_again(run_id)
                if run != last:
                    yield run

    async def wait(
        self, run_id: Id, *, timeout_seconds: float | None = None, poll: tuple[float, float] = (0.05, 1)
    ) -> Run:
        """Returns the run once it is completed, failed or cancelled. `poll` is as for follow_run.

        Goes on while the run waits for somebody, for as long as that takes: follow_run shows it meanwhile.
        Raises TimeoutError when that takes longer than `timeout_seconds` (the run goes on), or RunNotFound.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                async for run in self.follow_run(run_id, poll=poll):
                    last = run
        except TimeoutError:
            raise TimeoutError(f"Run {run_id} has not ended within {timeout_seconds:g} s.") from None
        return last

    @cached_property
    def _changed_runs(self) -> ChangedRuns:
        request = WatchRunsRequest(snapshot_limit=0)
        return ChangedRuns(lambda: self._stream(self._runs.WatchRuns, request, WatchRunsResponse))

    @cached_property
    def _reading(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(_READ_AT_ONCE)

    async def _get_run_again(self, run_id: Id) -> Run:
        """The run, though the server be away for less than a minute."""
        loop = asyncio.get_running_loop()
        until = loop.time() + RECONNECT_SECONDS
        failures = 0
        while True:
            try:
                async with self._reading:
                    return await self.get_run(run_id)
            except (*BREAKS, DeadlineExceeded):
                if loop.time() >= until:
                    raise
            await asyncio.sleep(reconnect_pause(failures))
            failures += 1
