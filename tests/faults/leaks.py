"""What do the processes of the product keep of a mixed load? `python -m tests.faults.leaks --seconds 60`

One load warms them up and fills their pools, and what they have then, once they are quiet, is the baseline.
The same load goes on for so long, the pools are filled again (a call that is cut off in the middle of a
statement takes its connection with it), and then everything must be exactly as it was: tasks, threads,
descriptors, connections, each by its kind, so that one more of this does not make up for one less of that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import random
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
from rich.console import Console
from rich.table import Table
from runengine.v1.artifact_service_pb2 import DownloadArtifactRequest
from runengine.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runengine.v1.run_pb2 import RunStatus
from runengine_client import (
    ArtifactNotFound,
    CampaignNotFound,
    DeadlineExceeded,
    IdempotencyKeyReused,
    InvalidArgument,
    Overloaded,
    QuotaExceeded,
    RunActive,
    RunEngineClient,
    RunEngineError,
    RunNotFound,
    RunNotRetryable,
    RunTerminal,
    Unauthenticated,
)
from runengine_server.auth import development
from runengine_server.database.migrations.migrate import migrate
from runengine_server.processes.children import Child
from runengine_server.processes.embedded_postgres import EmbeddedPostgres

from tests.faults.arrivals import Arrivals
from tests.faults.leak_graphs import LARGE
from tests.faults.pools import fill_server, fill_worker, locked, until_waiting, wide_payload
from tests.faults.reporting import REPORTS
from tests.faults.resources import Reading, Reports, connections_of, differences, ports_of
from tests.support.patience import SECONDS
from tests.support.stack import Stack, logging_to

PROCESSES = ("serve", "gateway", "worker")
WORKFLOWS = "tests.faults.leak_graphs:WORKFLOWS"

# For so long does the thread pool of the artifact store, tokio's, keep a thread that has nothing to do: 10 s,
# and half as many again for a machine that has much else to do.
IDLE_SECONDS = 15.0
_AGAIN_SECONDS = 0.25
_STORY_SECONDS = SECONDS

# What no log may have: asyncio's words for what nobody waited for, with which it calls its exception
# handler, the words of ours, and Python's own.
_COMPLAINTS = re.compile(
    r"never retrieved|was destroyed but|unhandled|never awaited|unclosed|Exception ignored", re.IGNORECASE
)
_UNAWAITED = re.compile("never retrieved|was destroyed but|unhandled|never awaited", re.IGNORECASE)
_STOPPED = "--- told to stop\n"


class Watched:
    """serve, gateway and worker, with what each has and what it logs."""

    def __init__(self, database_url: str, state_dir: Path, directory: Path) -> None:
        self.stack = Stack(database_url, state_dir)
        self._database_url = database_url
        self._superuser_url = database_url.replace("runengine_app@", "postgres@")
        self._directory = directory
        self._children: dict[str, Child] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Watched]:
        """The processes, while the block runs."""
        separator = "&" if "?" in self._database_url else "?"
        path = self._directory / "reports"
        with Reports(path) as self._reports:
            self._admin = await asyncpg.create_pool(self._superuser_url, min_size=1)
            try:
                await self._admin.execute(
                    "INSERT INTO workflows (name) VALUES ('leaks-unserved') ON CONFLICT DO NOTHING"
                )
                for each in PROCESSES:
                    with logging_to(self._directory / f"{each}.log"):
                        (self._children[each],) = await self.stack.start(
                            each,
                            module="tests.faults.reporting",
                            DATABASE_URL=f"{self._database_url}{separator}application_name=leaks-{each}",
                            WORKFLOWS=WORKFLOWS,
                            **{REPORTS.removeprefix("RUNENGINE_"): str(path)},
                        )
                yield self
                for each in PROCESSES:
                    with (self._directory / f"{each}.log").open("a") as log:
                        log.write(_STOPPED)
            except BaseException:
                # What the load has met, with the server's own words for it.
                for each in PROCESSES:
                    lines = (self._directory / f"{each}.log").read_text().splitlines(keepends=True)
                    sys.stderr.writelines(line for line in lines if '"level":"error"' in line)
                raise
            finally:
                await self.stack.stop()
                await self._admin.close()

    async def read(self, collect: bool = False) -> Reading:
        """What each process has now; `collect`: after all garbage was collected, our own first, as a call
        that only a traceback keeps holds its connection to the server.
        """
        if collect:
            gc.collect()
        pids = {child.pid: name for name, child in self._children.items()}
        addresses = (self.stack.grpc_address, self.stack.rest_address)
        reading = await self._reports.read(pids, ports_of(addresses), collect)
        for name, connections in (await connections_of(self._admin, "leaks-")).items():
            reading[name]["connections"] = connections
        return reading

    async def quiet(self, seconds: float) -> Reading:
        """What they have once it has been the same for so long, the time for which idle threads stay."""
        last, since = await self.read(collect=True), time.monotonic()
        async with asyncio.timeout(seconds + SECONDS):
            while time.monotonic() - since < seconds:
                await asyncio.sleep(_AGAIN_SECONDS)
                # Twice: a look for runs, or for the database's health, may be under way.
                if await self.read(collect=True) != last and (now := await self.read(collect=True)) != last:
                    last, since = now, time.monotonic()
        return last

    async def until(self, baseline: Reading) -> Reading:
        """What they have as soon as that is the baseline, or what they have when it does not become it."""
        until = time.monotonic() + SECONDS
        while (now := await self.read(collect=True)) != baseline and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_AGAIN_SECONDS)
        return now

    def locked(self, table: str) -> AbstractAsyncContextManager[None]:
        """Whatever reads or writes the table waits until the end of the block."""
        return locked(self._superuser_url, table)

    async def until_waiting(self, process: str, count: int) -> None:
        """Returns when so many connections of the process wait for a lock."""
        await until_waiting(self._admin, f"leaks-{process}", count)

    async def until_all_runs_have_ended(self) -> None:
        """But for those that nobody takes."""
        async with asyncio.timeout(SECONDS):
            while await self._admin.fetchval(  # noqa: ASYNC110
                """SELECT count(*) FROM runs WHERE status IN ('queued', 'running')
                AND workflow_name LIKE 'leaks-%' AND workflow_name <> 'leaks-unserved'"""
            ):
                await asyncio.sleep(_AGAIN_SECONDS)

    async def fill(self) -> None:
        """Brings each pool to its size: connections of serve and of worker, and threads for nodes."""
        token = self.stack.token(f"org_{uuid.uuid4().hex}")
        async with self.stack.client(token) as client:
            await fill_server(client, self._superuser_url, "leaks-serve")
            await fill_worker(client, self._superuser_url, "leaks-worker", "leaks-wide")

    def complaints(self) -> list[str]:
        """The lines of all logs that tell of something that nobody waited for or closed."""
        found = []
        for name in PROCESSES:
            # The socket by which a process hears of its parent's death is open to its own end.
            lines = (self._directory / f"{name}.log").read_text().split(_STOPPED)
            found += [f"{name}: {each}" for each in lines[0].splitlines() if _COMPLAINTS.search(each)]
            found += [
                f"{name}, stopping: {each}" for each in lines[-1].splitlines() if _UNAWAITED.search(each)
            ]
        return found


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
        self._watched = watched
        self._stack = watched.stack
        self._over = asyncio.Event()
        self._random = random.Random(0)
        self._free: set[str] = set()
        self._number = itertools.count()
        self._organisation = f"org_{uuid.uuid4().hex}"
        self._token = self._stack.token(self._organisation)
        self._others_token = self._stack.token(f"org_{uuid.uuid4().hex}")
        self._greedy_token = self._stack.token(f"org_{uuid.uuid4().hex}")

    def hit(self, kind: str) -> None:
        """Counts what has happened, so that it is known to have."""
        self.hits[kind] += 1

    async def go(self, seconds: float) -> None:
        """Goes on for so long, and returns when every story has ended."""
        async with (
            self._patient(self._token) as client,
            self._patient(self._others_token) as other,
            self._patient(self._greedy_token) as greedy,
            self._stack.rest(self._token) as rest,
            Arrivals() as arrivals,
        ):
            self._client, self._other, self._rest = Patient(client, self), Patient(other, self), rest
            self._arrivals = arrivals
            rest.timeout = _STORY_SECONDS
            self._campaign = (await client.create_campaign()).id
            self._large, self._greedy_large = [await self._make_large(each) for each in (client, greedy)]
            letting_go = asyncio.create_task(self._let_the_free_go())
            async with asyncio.TaskGroup() as stories:
                for story in (
                    self._runs_complete,
                    self._runs_complete_over_rest,
                    self._runs_fail,
                    self._runs_time_out,
                    self._queued_runs_are_cancelled,
                    self._running_runs_are_cancelled,
                    self._deaf_runs_are_cancelled,
                    self._lists,
                    self._downloads,
                    self._downloads_are_abandoned,
                    self._downloads_are_abandoned_over_rest,
                    self._too_many_downloads,
                    self._wrong_input,
                    self._wrong_input_over_rest,
                    self._ids_of_other_tenants,
                    self._bad_tokens,
                    self._tiny_deadlines,
                    self._clients_vanish,
                    self._clients_vanish_over_rest,
                    self._cut_off_in_a_statement,
                    self._too_many_at_once,
                ):
                    stories.create_task(self._again_and_again(story))
                await asyncio.sleep(seconds)
                self._over.set()
            await self._watched.until_all_runs_have_ended()
            # A node goes on although its run has ended: a deaf one, and one on a thread.
            async with asyncio.timeout(_STORY_SECONDS):
                while self._arrivals.all:  # noqa: ASYNC110
                    await asyncio.sleep(_AGAIN_SECONDS)
            letting_go.cancel()
            await asyncio.gather(letting_go, return_exceptions=True)

    def _patient(self, token: str) -> RunEngineClient:
        return RunEngineClient(self._stack.grpc_address, token, timeout_seconds=_STORY_SECONDS)

    async def _again_and_again(self, story: Callable[[], Awaitable[None]]) -> None:
        while not self._over.is_set():
            try:
                async with asyncio.timeout(_STORY_SECONDS):
                    await story()
            except Exception as error:
                error.add_note(f"in the story {story.__name__}")
                raise
            self.hit(story.__name__.strip("_").replace("_", " "))

    # Runs

    async def _runs_complete(self) -> None:
        campaign = await self._client.create_campaign()
        for name in ("everything", "two-artifacts", "bundling", "context", "cached"):
            key, number = str(uuid.uuid4()), next(self._number)
            given = {"trigger_payload": {"count": number % 7}, "campaign_id": campaign.id}
            run = await self._client.trigger_run(f"leaks-{name}", idempotency_key=key, **given)
            again = await self._client.trigger_run(f"leaks-{name}", idempotency_key=key, **given)
            assert again.id == run.id
            with _refused(IdempotencyKeyReused):
                await self._client.trigger_run("leaks-bundling", idempotency_key=key)
            with _refused_or_not(RunActive, RunNotRetryable):
                await self._client.retry_run(run.id)
            run = await self._ended(run.id)
            assert run.status == RunStatus.RUN_STATUS_COMPLETED, run
            assert await self._client.list_run_steps(run.id)
            assert await self._client.list_run_events(run.id)
            with _refused(RunTerminal):
                await self._client.cancel_run(run.id)
        assert (await self._client.get_campaign(campaign.id)).bundle_url

    async def _runs_complete_over_rest(self) -> None:
        campaign = (await self._ask("POST", "/campaigns", 201, json={}))["id"]
        context = {"campaignId": campaign}
        for name in ("everything", "bundling"):
            given = {
                "json": {"workflowName": f"leaks-{name}", "context": context},
                "headers": {"idempotency-key": str(uuid.uuid4())},
            }
            run = (await self._ask("POST", "/runs", 201, **given))["id"]
            assert (await self._ask("POST", "/runs", 201, **given))["id"] == run
            await self._ended(run)
            assert (await self._ask("GET", f"/runs/{run}", 200))["status"] == "completed"
            for part in ("steps", "events"):
                assert (await self._ask("GET", f"/runs/{run}/{part}", 200))[part]
            await self._ask("DELETE", f"/runs/{run}", 409)
        await self._ask("GET", f"/campaigns/{campaign}", 200)

    async def _runs_fail(self) -> None:
        for name in ("rejecting", "bad-edge", "false-bundle", "asking"):
            run = await self._client.trigger_run(f"leaks-{name}", campaign_id=self._campaign)
            for _ in range(2):
                ended = await self._ended(run.id)
                assert ended.status == RunStatus.RUN_STATUS_FAILED, ended
                await self._ask("POST", f"/runs/{run.id}/retry", 200)
            await self._ended(run.id)

    async def _runs_time_out(self) -> None:
        for name in ("slow-step", "slow-thread", "slow-run"):
            payload = {"gates": self._arrivals.path}
            run = await self._client.trigger_run(f"leaks-{name}", trigger_payload=payload)
            run = await self._ended(run.id)
            self._free.add(run.id)
            assert run.status == RunStatus.RUN_STATUS_FAILED, run
            self.hit(f"{run.error.code} in {name}")

    async def _queued_runs_are_cancelled(self) -> None:
        run = await self._client.trigger_run("leaks-unserved", campaign_id=self._campaign)
        for _ in range(2):
            await self._client.cancel_run(run.id)
            await self._client.cancel_run(run.id, idempotency_key=str(uuid.uuid4()))
            await self._client.retry_run(run.id)
        assert (await self._ask("DELETE", f"/runs/{run.id}", 200))["status"] == "cancelled"

    async def _running_runs_are_cancelled(self) -> None:
        for retry in (True, False):
            payload = wide_payload(self._arrivals)
            run = await self._client.trigger_run("leaks-wide", trigger_payload=payload)
            await self._arrived(run.id)
            await self._client.cancel_run(run.id)
            self._free.add(run.id)
            if retry:
                await self._client.retry_run(run.id)
                ended = await self._ended(run.id)
                assert ended.status == RunStatus.RUN_STATUS_COMPLETED, ended

    async def _deaf_runs_are_cancelled(self) -> None:
        payload = {"gates": self._arrivals.path}
        run = await self._client.trigger_run("leaks-deaf", trigger_payload=payload)
        await self._arrived(run.id)
        await self._client.cancel_run(run.id)
        # Longer than the worker waits for it, so that it is left behind.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), 4)
        self._free.add(run.id)

    # Reading

    async def _lists(self) -> None:
        path = f"/campaigns/{self._campaign}/runs"
        for status in ((), ("failed",), ("failed", "cancelled")):
            seen = [each.id async for each in self._pages(status)]
            assert len(seen) == len(set(seen))
        for offset in range(0, 60, 20):
            await self._client.list_campaign_runs(self._campaign, limit=20, offset=offset)
            page = await self._ask("GET", f"{path}?limit=20&offset={offset}&status=failed", 200)
        if page["nextPageToken"] is not None:
            await self._ask("GET", path, 200, params={"status": "failed", "pageToken": page["nextPageToken"]})
        await self._client.get_campaign(self._campaign)
        for each in ("/healthz", "/readyz", "/openapi.json", "/docs"):
            await self._rest.get(each)

    async def _pages(self, status: tuple[str, ...]) -> AsyncIterator[Any]:
        token = None
        while True:
            page = await self._client.list_campaign_runs(
                self._campaign, status=status, limit=50, page_token=token
            )
            for run in page.runs:
                yield run
            if not page.HasField("next_page_token"):
                return
            token = page.next_page_token

    async def _downloads(self) -> None:
        assert len((await self._client.download_artifact(self._large)).data) == LARGE
        answer = await self._rest.get(f"/artifacts/{self._large}")
        assert (answer.status_code, len(answer.content)) in ((200, LARGE), (429, len(answer.content)))
        await self._rest.head(f"/artifacts/{self._large}")

    async def _downloads_are_abandoned(self) -> None:
        for way in ("cancelled", "forgotten", "channel closed"):
            async with grpc.aio.insecure_channel(self._stack.grpc_address) as channel:
                call = self._download(channel, self._large, self._token)
                for _ in range(3):
                    await call.read()
                if way == "cancelled":
                    call.cancel()
                elif way == "forgotten":
                    del call

    async def _downloads_are_abandoned_over_rest(self) -> None:
        async with self._rest.stream("GET", f"/artifacts/{self._large}") as answer:
            parts = answer.aiter_raw()
            await anext(parts)
            await parts.aclose()  # type: ignore[attr-defined]
        for how in ("at once", "after some", "frozen"):
            reader, writer = await self._connect()
            writer.write(self._head("GET", f"/artifacts/{self._large}"))
            if how != "at once":
                await reader.readexactly(4096)
            if how == "frozen":
                await asyncio.sleep(0.5)
            writer.transport.abort()

    async def _too_many_downloads(self) -> None:
        async with grpc.aio.insecure_channel(self._stack.grpc_address) as channel:
            calls = [self._download(channel, self._greedy_large, self._greedy_token) for _ in range(20)]
            for each in await asyncio.gather(*(call.read() for call in calls), return_exceptions=True):
                if isinstance(each, grpc.aio.AioRpcError):
                    assert each.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, each
                    self.hit("too many downloads refused")

    # Calls that are refused

    async def _wrong_input(self) -> None:
        for call in (
            self._client.get_run("nonsense"),
            self._client.list_campaign_runs(self._campaign, limit=0),
            self._client.list_campaign_runs(self._campaign, page_token="nonsense"),
            self._client.trigger_run("no such workflow"),
            self._client.trigger_run("leaks-bundling", context={"campaignId": 5}),
            self._client.download_artifact("nonsense"),
        ):
            with _refused(InvalidArgument):
                await call
        with _refused(RunNotFound):
            await self._client.get_run(uuid.uuid4())
        with _refused(ArtifactNotFound):
            await self._client.download_artifact(uuid.uuid4())
        async with grpc.aio.insecure_channel(self._stack.grpc_address) as channel:
            garbage: Any = channel.unary_unary("/runengine.v1.RunService/GetRun")
            nowhere: Any = channel.unary_unary("/runengine.v1.RunService/None")
            for token in (self._token, "nonsense"):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await garbage(b"\xff\xff\xff", metadata=_bearer(token))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await nowhere(b"", metadata=_bearer(self._token))

    async def _wrong_input_over_rest(self) -> None:
        runs = f"/campaigns/{self._campaign}/runs"
        for method, path, status, body in (
            ("POST", "/runs", 400, b"{"),
            ("POST", "/runs", 400, b'{"workflowName": "leaks-bundling", "unknown": 1}'),
            ("POST", "/runs", 400, b'{"workflowName": "leaks-bundling", "triggerPayload": {"a": NaN}}'),
            ("POST", "/runs", 413, b'{"workflowName": "' + bytes(300_000).replace(b"\0", b"x") + b'"}'),
            ("GET", "/runs/nonsense", 400, b""),
            ("GET", f"/runs/{uuid.uuid4()}", 404, b""),
            ("GET", f"{runs}?limit=101", 400, b""),
            ("GET", f"{runs}?status=odd", 400, b""),
            ("GET", f"{runs}?pageToken=nonsense", 400, b""),
            ("GET", "/nowhere", 404, b""),
            ("PUT", "/runs", 405, b""),
        ):
            headers = {"content-type": "application/json"} if body else None
            await self._ask(method, path, status, content=body, headers=headers)
        reader, writer = await self._connect()
        writer.write(b"This is not HTTP\r\n\r\n")
        await reader.read()
        writer.close()

    async def _ids_of_other_tenants(self) -> None:
        run = await self._client.trigger_run("leaks-unserved")
        for name in ("get_run", "list_run_steps", "list_run_events", "cancel_run", "retry_run"):
            with _refused(RunNotFound):
                await getattr(self._other, name)(run.id)
        with _refused(CampaignNotFound):
            await self._other.get_campaign(self._campaign)
        with _refused(ArtifactNotFound):
            await self._other.download_artifact(self._large)
        assert (await self._other.list_campaign_runs(self._campaign)).total == 0
        async with self._stack.rest(self._others_token) as rest:
            for path in (f"/runs/{run.id}", f"/campaigns/{self._campaign}", f"/artifacts/{self._large}"):
                assert (await rest.get(path)).status_code in (404, 429)
        await self._client.cancel_run(run.id)

    async def _bad_tokens(self) -> None:
        expired = development.sign(self._stack.state_dir, self._organisation, "user_test", ttl_seconds=-60)
        for token in (expired, "nonsense", self._token + "x"):
            async with self._stack.client(token) as client:
                for call in (
                    Patient(client, self).get_run(uuid.uuid4()),
                    client.download_artifact(self._large),
                ):
                    with _refused(Unauthenticated):
                        await call
            headers = {"authorization": f"Bearer {token}"}
            await self._ask("GET", f"/runs/{uuid.uuid4()}", 401, headers=headers)
            await self._ask("GET", f"/artifacts/{self._large}", 401, headers=headers)
            await self._ask("POST", "/runs", 401, headers=headers, content=b"{")

    # Calls that are cut off

    async def _tiny_deadlines(self) -> None:
        seconds = self._random.choice([0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
        async with RunEngineClient(self._stack.grpc_address, self._token, timeout_seconds=seconds) as client:
            calls = [
                client.list_campaign_runs(self._campaign, limit=100),
                client.trigger_run("leaks-bundling", idempotency_key=str(uuid.uuid4())),
                client.get_campaign(self._campaign),
                client.trigger_run("leaks-bundling"),
                client.download_artifact(self._large),
            ]
            for each in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(each, DeadlineExceeded):
                    self.hit("deadline exceeded")
                elif isinstance(each, BaseException) and not isinstance(each, Overloaded):
                    raise each

    async def _clients_vanish(self) -> None:
        client = self._stack.client(self._token)
        calls = [
            asyncio.create_task(call)
            for call in (
                client.trigger_run("leaks-bundling", idempotency_key=str(uuid.uuid4())),
                client.list_campaign_runs(self._campaign, limit=100),
                client.download_artifact(self._large),
                client.cancel_run(uuid.uuid4()),
            )
        ]
        await asyncio.wait(calls, timeout=self._random.uniform(0, 0.02))
        if self._random.random() < 0.5:
            for call in calls:
                call.cancel()
        await client.close()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _clients_vanish_over_rest(self) -> None:
        body = json.dumps({"workflowName": "leaks-bundling"}).encode()
        post = self._head("POST", "/runs", len(body)) + body
        gets = self._head("GET", f"/campaigns/{self._campaign}/runs?limit=100")
        for sent in (b"", post[:20], post[:-5], post, gets, gets * 5):
            for how in ("abort", "close"):
                _, writer = await self._connect()
                writer.write(sent)
                await writer.drain()
                if self._random.random() < 0.5:
                    await asyncio.sleep(0.002)
                if how == "abort":
                    writer.transport.abort()
                else:
                    writer.close()

    async def _cut_off_in_a_statement(self) -> None:
        token = self._token
        async with self._watched.locked("campaigns"):
            async with (
                self._stack.client(token) as client,
                RunEngineClient(self._stack.grpc_address, token, timeout_seconds=0.1) as hasty,
            ):
                calls = [
                    asyncio.create_task(each.get_campaign(self._campaign))
                    for each in (client, client, client, hasty, hasty)
                ]
                _, writer = await self._connect()
                writer.write(self._head("GET", f"/campaigns/{self._campaign}"))
                with contextlib.suppress(TimeoutError):
                    await self._watched.until_waiting("serve", 2)
                await asyncio.wait(calls[3:])
                writer.transport.abort()
                calls[0].cancel()
            for each in await asyncio.gather(*calls, return_exceptions=True):
                self.hit(f"cut off in a statement: {type(each).__name__}")
        await asyncio.sleep(0.2)

    async def _too_many_at_once(self) -> None:
        async with self._stack.client(self._token) as client:
            async with self._watched.locked("campaigns"):
                calls = [
                    *(asyncio.create_task(client.get_campaign(self._campaign)) for _ in range(280)),
                    *(asyncio.create_task(self._rest.get(f"/campaigns/{self._campaign}")) for _ in range(20)),
                ]
                # None of those that were admitted can end.
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for each in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(each, Overloaded):
                    self.hit("overloaded")
                elif isinstance(each, httpx.Response):
                    assert each.status_code in (200, 429), each.text
                elif isinstance(each, BaseException):
                    raise each
        await asyncio.sleep(0.5)

    # What stories are made of

    async def _ask(self, method: str, path: str, status: int, **given: Any) -> Any:
        while (answer := await self._rest.request(method, path, **given)).status_code == 429:
            self.hit("overloaded over REST, by chance")
            await asyncio.sleep(0.05)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer.json()

    async def _ended(self, run_id: str) -> Any:
        pause = 0.02
        while (run := await self._client.get_run(run_id)).status in (
            RunStatus.RUN_STATUS_QUEUED,
            RunStatus.RUN_STATUS_RUNNING,
        ):
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.2)
        return run

    async def _arrived(self, run_id: str) -> None:
        await self._arrivals.until(lambda each: each.run_id == run_id, seconds=_STORY_SECONDS)

    async def _let_the_free_go(self) -> None:
        """Also those that arrive when their run has been cancelled: it does not reach a thread."""
        while True:
            for each in self._arrivals.all:
                if each.run_id in self._free:
                    each.let_go()
            await asyncio.sleep(0.02)

    async def _make_large(self, client: RunEngineClient) -> str:
        run = await client.trigger_run("leaks-large")
        await client.wait(run.id, timeout_seconds=SECONDS)
        (step,) = await client.list_run_steps(run.id)
        return step.output_artifact_ids[0]

    def _download(self, channel: grpc.aio.Channel, artifact_id: str, token: str) -> Any:
        request = DownloadArtifactRequest(artifact_id=artifact_id)
        return ArtifactServiceStub(channel).DownloadArtifact(request, metadata=_bearer(token))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._stack.rest_address.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    def _head(self, method: str, path: str, length: int = 0) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "host: runengine", f"authorization: Bearer {self._token}"]
        if length:
            lines += ["content-type: application/json", f"content-length: {length}"]
        return "\r\n".join([*lines, "", ""]).encode()


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@contextlib.contextmanager
def _refused(*kinds: type[RunEngineError]) -> Any:
    """The block raises one of these."""
    try:
        yield
    except kinds:
        return
    raise AssertionError(f"It was not refused with {' or '.join(kind.__name__ for kind in kinds)}.")


@contextlib.contextmanager
def _refused_or_not(*kinds: type[RunEngineError]) -> Any:
    with contextlib.suppress(*kinds):
        yield


@dataclass(frozen=True)
class Measured:
    """What they had before, at most and after; what happened meanwhile; what they complained of."""

    baseline: Reading
    peak: dict[str, dict[str, int]]
    end: Reading
    hits: Counter[str]
    complaints: list[str]


# Each must have happened, or it proves nothing.
_KINDS = (
    "RUN_TIMED_OUT in slow-run",
    "STEP_TIMED_OUT in slow-step",
    "STEP_TIMED_OUT in slow-thread",
    "bad tokens",
    "clients vanish",
    "clients vanish over rest",
    "cut off in a statement: CancelledError",
    "cut off in a statement: DeadlineExceeded",
    "deadline exceeded",
    "deaf runs are cancelled",
    "downloads",
    "downloads are abandoned",
    "downloads are abandoned over rest",
    "ids of other tenants",
    "lists",
    "overloaded",
    "queued runs are cancelled",
    "running runs are cancelled",
    "runs complete",
    "runs complete over rest",
    "runs fail",
    "too many at once",
    "too many downloads refused",
    "wrong input",
    "wrong input over rest",
)


def missing(hits: Counter[str], least: int = 1) -> list[str]:
    """What has happened less often than that."""
    return [f"{kind}: {hits[kind]} times" for kind in _KINDS if hits[kind] < least]


async def measure(
    database_url: str, state_dir: Path, *, warm_up: float, seconds: float, idle_seconds: float
) -> Measured:
    """One measurement, on processes of its own."""
    with tempfile.TemporaryDirectory(prefix="leaks-") as name:
        watched = Watched(database_url, state_dir, Path(name))
        async with watched.running():
            await _load(watched, warm_up)
            baseline = await watched.quiet(idle_seconds)
            peak = {name: {key: kinds.total() for key, kinds in baseline[name].items()} for name in PROCESSES}
            load = asyncio.create_task(_load(watched, seconds))
            while not load.done():
                for name, figures in (await watched.read()).items():
                    for key, kinds in figures.items():
                        peak[name][key] = max(peak[name][key], kinds.total())
                await asyncio.wait({load}, timeout=1)
            hits = load.result()
            end = await watched.until(baseline)
        # Once they have stopped: much is complained of only then.
        return Measured(baseline, peak, end, hits, watched.complaints())


async def _load(watched: Watched, seconds: float) -> Counter[str]:
    load = Load(watched)
    await load.go(seconds)
    await watched.fill()
    return load.hits


async def _measure_here(warm_up: float, seconds: float) -> Measured:
    directory = Path(tempfile.mkdtemp(prefix="leaks-"))
    directory.chmod(0o755)  # noqa: ASYNC240
    postgres = EmbeddedPostgres(directory)
    try:
        owner_url, url = await postgres.start()
        await migrate(owner_url, url)
        return await measure(url, directory, warm_up=warm_up, seconds=seconds, idle_seconds=IDLE_SECONDS)
    finally:
        postgres.stop()
        shutil.rmtree(directory)


def main() -> None:
    """Measures on a PostgreSQL of its own, prints what there was, and fails when it is not the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=10)
    given = parser.parse_args()
    measured = asyncio.run(_measure_here(given.warm_up, given.seconds))
    console = Console()
    table = Table("process", "figure", "baseline", "peak", "end", title=f"{given.seconds:g} s of mixed load")
    for name in PROCESSES:
        for key, kinds in measured.baseline[name].items():
            figures = (kinds.total(), measured.peak[name][key], measured.end[name][key].total())
            table.add_row(name, key, *map(str, figures))
    console.print(table)
    console.print("\n".join(f"{count:7} {kind}" for kind, count in sorted(measured.hits.items())))
    wrong = [
        *differences(measured.baseline, measured.end),
        *measured.complaints,
        *missing(measured.hits, 3 if given.seconds >= 30 else 1),
    ]
    console.print("\n".join(wrong) or "Everything is exactly as it was.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
