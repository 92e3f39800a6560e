"""Which runs have changed, for all who wait for runs by one client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

import grpc
from runengine.v1.watch_runs_pb2 import WatchRunsResponse

from runengine_client.connection import reconnect_pause
from runengine_client.errors import RunEngineError

# How long it is believed that the stream tells of every change.
_TRUSTED_SECONDS = 30.0


class ChangedRuns:
    """One stream of the tenant's runs, which is open while anybody waits for one.

    A caller may have 16 streams, and wait for thousands of runs. Where the server has no such stream, or
    grants none, those who wait have to ask again and again. A stream that broke off begins anew, and all ask
    once: with a token it would say nothing before something happens.
    """

    def __init__(self, watch: Callable[[], AsyncIterator[WatchRunsResponse]]) -> None:
        self._watch = watch
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._is_live = False

    @contextmanager
    def of(self, run_id: str) -> Iterator[RunChange]:
        """Listens for that run within the block."""
        event = asyncio.Event()
        self._waiting.setdefault(run_id, set()).add(event)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="changed runs")
        if self._is_live:
            event.set()  # what came before may have told of the run
        try:
            yield RunChange(self, event)
        finally:
            self._waiting[run_id].remove(event)
            if not self._waiting[run_id]:
                del self._waiting[run_id]
            if not self._waiting:
                self._listening.cancel()
                self._listening, self._is_live = None, False

    @property
    def is_live(self) -> bool:
        """Whether the stream tells of every change."""
        return self._is_live

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async for message in self._watch():
                    if message.HasField("transition"):
                        for event in self._waiting.get(message.transition.run_id, ()):
                            event.set()
                    elif message.HasField("snapshot_end"):
                        failures = 0
                        self._is_live = True
                        self._wake_all()
            except Exception as error:  # those who wait meet it in their own calls
                if isinstance(error, RunEngineError) and error.code is grpc.StatusCode.UNIMPLEMENTED:
                    return
            self._is_live = False
            self._wake_all()
            await asyncio.sleep(reconnect_pause(failures))
            failures += 1

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()


class RunChange:
    """Whether one run has changed."""

    def __init__(self, runs: ChangedRuns, event: asyncio.Event) -> None:
        self._runs = runs
        self._event = event

    async def wait(self, seconds: float) -> None:
        """Returns when the run may have changed; after that many seconds where no stream tells."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TRUSTED_SECONDS if self._runs.is_live else seconds):
                await self._event.wait()
        self._event.clear()
