"""Clients that go through stories side by side, and what the stories are made of."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
from runengine.v1.artifact_service_pb2 import DownloadArtifactRequest
from runengine.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runengine.v1.run_pb2 import RunStatus
from runengine_client import Overloaded, QuotaExceeded, RunEngineClient, RunEngineError

from tests.faults.arrivals import Arrivals
from tests.faults.watched import AGAIN_SECONDS, Watched
from tests.support.patience import SECONDS

_STORY_SECONDS = SECONDS
Story = Callable[["Load"], Coroutine[Any, Any, None]]


class Patient:
    """The client's calls, each made again for as long as the server has too much to do."""

    def __init__(self, client: RunEngineClient, load: Load) -> None:
        self._client = client
        self._load = load

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._client, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            while True:
                try:
                    return await method(*arguments, **named)
                except (Overloaded, QuotaExceeded):
                    self._load.hit("overloaded, by chance")
                    await asyncio.sleep(0.05)

        return call


class Load:
    """Stories that clients go through, each again and again, side by side."""

    def __init__(self, watched: Watched) -> None:
        self.hits: Counter[str] = Counter()
        self.watched = watched
        self.stack = watched.stack
        self.over = asyncio.Event()
        self.random = random.Random(0)
        self.free: set[str] = set()
        self.number = itertools.count()
        self.organisation = f"org_{uuid.uuid4().hex}"
        self.token = self.stack.token(self.organisation)
        self.others_token = self.stack.token(f"org_{uuid.uuid4().hex}")
        self.greedy_token = self.stack.token(f"org_{uuid.uuid4().hex}")

    def hit(self, kind: str) -> None:
        """Counts what has happened, so that it is known to have."""
        self.hits[kind] += 1

    async def go(self, stories: Sequence[Story], seconds: float) -> None:
        """Goes on for so long, and returns when every story has ended."""
        async with (
            self._patient(self.token) as client,
            self._patient(self.others_token) as other,
            self._patient(self.greedy_token) as greedy,
            self.stack.rest(self.token) as rest,
            Arrivals() as arrivals,
        ):
            self.client, self.other, self.rest = Patient(client, self), Patient(other, self), rest
            self.arrivals = arrivals
            rest.timeout = _STORY_SECONDS
            self.campaign = (await client.create_campaign()).id
            self.large, self.greedy_large = [await self._make_large(each) for each in (client, greedy)]
            letting_go = asyncio.create_task(self._let_the_free_go())
            async with asyncio.TaskGroup() as going:
                for story in stories:
                    going.create_task(self._again_and_again(story))
                await asyncio.sleep(seconds)
                self.over.set()
            await self.watched.until_all_runs_have_ended()
            # A node goes on although its run has ended: a deaf one, and one on a thread.
            async with asyncio.timeout(_STORY_SECONDS):
                while self.arrivals.all:  # noqa: ASYNC110
                    await asyncio.sleep(AGAIN_SECONDS)
            letting_go.cancel()
            await asyncio.gather(letting_go, return_exceptions=True)

    def _patient(self, token: str) -> RunEngineClient:
        return RunEngineClient(self.stack.grpc_address, token, timeout_seconds=_STORY_SECONDS)

    async def _again_and_again(self, story: Story) -> None:
        while not self.over.is_set():
            try:
                async with asyncio.timeout(_STORY_SECONDS):
                    await story(self)
            except Exception as error:
                error.add_note(f"in the story {story.__name__}")
                raise
            self.hit(story.__name__.replace("_", " "))

    async def ask(self, method: str, path: str, status: int, **given: Any) -> Any:
        while (answer := await self.rest.request(method, path, **given)).status_code == 429:
            self.hit("overloaded over REST, by chance")
            await asyncio.sleep(0.05)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer.json()

    async def ended(self, run_id: str) -> Any:
        pause = 0.02
        while (run := await self.client.get_run(run_id)).status in (
            RunStatus.RUN_STATUS_QUEUED,
            RunStatus.RUN_STATUS_RUNNING,
        ):
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.2)
        return run

    async def waiting(self, run_id: str) -> Any:
        pause = 0.02
        while not (run := await self.client.get_run(run_id)).waiting_for:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.2)
        return run

    async def arrived(self, run_id: str) -> None:
        await self.arrivals.until(lambda each: each.run_id == run_id, seconds=_STORY_SECONDS)

    async def _let_the_free_go(self) -> None:
        """Also those that arrive when their run has been cancelled: it does not reach a thread."""
        while True:
            for each in self.arrivals.all:
                if each.run_id in self.free:
                    each.let_go()
            await asyncio.sleep(0.02)

    async def _make_large(self, client: RunEngineClient) -> str:
        run = await client.trigger_run("leaks-large")
        await client.wait(run.id, timeout_seconds=SECONDS)
        (step,) = await client.list_run_steps(run.id)
        return step.output_artifact_ids[0]

    def download(self, channel: grpc.aio.Channel, artifact_id: str, token: str) -> Any:
        request = DownloadArtifactRequest(artifact_id=artifact_id)
        return ArtifactServiceStub(channel).DownloadArtifact(request, metadata=bearer(token))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.stack.rest_address.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    def head(self, method: str, path: str, length: int = 0) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "host: runengine", f"authorization: Bearer {self.token}"]
        if length:
            lines += ["content-type: application/json", f"content-length: {length}"]
        return "\r\n".join([*lines, "", ""]).encode()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@contextlib.contextmanager
def refused(*kinds: type[RunEngineError]) -> Any:
    """The block raises one of these."""
    try:
        yield
    except kinds:
        return
    raise AssertionError(f"It was not refused with {' or '.join(kind.__name__ for kind in kinds)}.")


@contextlib.contextmanager
def refused_or_not(*kinds: type[RunEngineError]) -> Any:
    with contextlib.suppress(*kinds):
        yield
