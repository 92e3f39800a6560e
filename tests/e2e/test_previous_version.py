"""The version before goes on working on the database that today's `migrate` has migrated, beside today's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
from runengine.v1.run_pb2 import Run, RunStatus
from runengine_client import RunEngineClient
from runengine_server.database.migrations.migrate import migrate

from tests.e2e.test_lifecycle import BRIEF
from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.previous_version import LAUNCHER, SOURCE_ROOTS, PreviousVersion, previous_commits
from tests.support.stack import ROOT, Stack

# Imported by the processes of both sides, each time with a side's name.
GRAPHS = "tests.support.graphs_of_two_versions"

COMMITS: list[str | None] = [*previous_commits()]
CLIENTS = 3
VALUES = "server/runengine_server/database/functions/values.sql"
COMPLETED, FAILED, CANCELLED = (
    RunStatus.RUN_STATUS_COMPLETED, RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED,
)  # fmt: skip


@pytest.fixture(scope="module", params=COMMITS or [None])
def previous(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreviousVersion:
    if request.param is None:
        pytest.skip("no history")
    directory = tmp_path_factory.mktemp("previous")
    version = PreviousVersion.extracted(request.param, directory)
    shutil.copy(ROOT / f"{GRAPHS.replace('.', '/')}.py", version.modules)
    return version


@dataclass
class Side:
    """The server and the worker of one version."""

    name: str
    stack: Stack
    client: RunEngineClient
    launcher: str | None
    settings: dict[str, str]

    async def start(self) -> None:
        await self.stack.start("serve", "worker", module=self.launcher, **self.settings)

    def executes(self, workflow: str) -> str:
        """What the workflow is called that this side's worker alone serves."""
        return f"{self.name}-{workflow}"


@dataclass
class Sides:
    owner_url: str
    url: str
    before: Side
    today: Side


def urls_of(name: str) -> tuple[str, str]:
    """Of a database: its owner's and the application's."""
    at = f"/{name}?host={quote(os.environ['RUNENGINE_TEST_POSTGRES'], safe='%')}"
    return f"postgresql://runengine_owner@{at}", f"postgresql://runengine_app@{at}"


@asynccontextmanager
async def new_database(template: str = "template1") -> AsyncIterator[str]:
    """Its name."""
    name, host = f"previous_{uuid4().hex}", os.environ["RUNENGINE_TEST_POSTGRES"]
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} OWNER runengine_owner TEMPLATE {template}")
    yield name
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="module")
async def schema(previous: PreviousVersion) -> AsyncIterator[str]:
    """The name of a database with the schema of the version before."""
    async with new_database() as name:
        owner_url, url = urls_of(name)
        await previous.run("migrate", DATABASE_URL=url, OWNER_DATABASE_URL=owner_url)
        yield name


@pytest.fixture
async def sides(
    previous: PreviousVersion, schema: str, state_dir: Path, organisation: str
) -> AsyncIterator[Sides]:
    """Nothing runs yet; the database has the schema of the version before."""
    async with new_database(schema) as name:
        owner_url, url = urls_of(name)

        def side(name: str, module: str, launcher: str | None, settings: dict[str, str]) -> Side:
            stack = Stack(url, state_dir)
            settings |= {"SIDE": name, "WORKFLOWS": f"{module}:WORKFLOWS", "DRAIN_SECONDS": "0"}
            return Side(name, stack, stack.client(stack.token(organisation)), launcher, settings)

        before = side("before", GRAPHS.rpartition(".")[2], LAUNCHER, previous.settings)
        today = side("today", GRAPHS, None, {})
        yield Sides(owner_url, url, before, today)
        for each in (before, today):
            await each.client.close()
            await each.stack.stop()


class Lives:
    """What callers do with runs, by a server and a worker that may be of two versions. No call may fail."""

    def __init__(self, server: Side, worker: Side, directory: Path, gates: Gates) -> None:
        self.runs: dict[str, RunStatus.ValueType] = {}
        self._client = server.client
        self._workflow = worker.executes("checked")
        self._sample = worker.executes("campaign-bundle")
        self._directory = directory
        self._gates = gates

    async def live(self) -> None:
        """One run completes; one fails, is retried and completes; one is cancelled; the campaign shows it."""
        client, workflow = self._client, self._workflow
        campaign = (await client.create_campaign()).id
        one = await client.trigger_run(workflow, campaign_id=campaign)
        other = await client.trigger_run(
            workflow, campaign_id=campaign, trigger_payload={"needs": str(self._directory / campaign)}
        )
        waiting = await client.trigger_run(
            workflow, campaign_id=campaign, trigger_payload={"gates": self._gates.path}
        )
        await client.cancel_run(waiting.id)
        assert await self._ended(one) == (COMPLETED, 1)
        assert await self._ended(other) == (FAILED, 1)
        (self._directory / campaign).touch()
        await client.retry_run(other.id)
        assert await self._ended(other) == (COMPLETED, 2)
        steps = await client.list_run_steps(other.id)
        assert [(step.step_id, step.attempt) for step in steps] == [("begin", 1), ("check", 2), ("end", 1)]
        page = await client.list_campaign_runs(campaign)
        found = {run.id: run.status for run in page.runs}
        assert found == {one.id: COMPLETED, other.id: COMPLETED, waiting.id: CANCELLED}
        counts = page.status_counts
        assert (page.total, counts.completed, counts.cancelled) == (3, 2, 1)
        assert (await client.get_campaign(campaign)).latest_run_id == other.id
        self.runs |= found

    async def bundle(self) -> None:
        """The sample makes its bundle, which its campaign shows and which can be had."""
        campaign = (await self._client.create_campaign()).id
        run = await self._client.trigger_run(self._sample, trigger_payload=BRIEF, campaign_id=campaign)
        assert await self._ended(run) == (COMPLETED, 1)
        url = (await self._client.get_campaign(campaign)).bundle_url
        artifact = await self._client.download_artifact(url.rpartition("/")[2])
        assert artifact.data.startswith(b"PK")
        self.runs[run.id] = COMPLETED

    async def live_until(self, enough: asyncio.Event) -> None:
        """One life after the other; the last begins after that."""
        is_last = False
        while not is_last:
            is_last = enough.is_set()
            await self.live()

    async def _ended(self, run: Run) -> tuple[RunStatus.ValueType, int]:
        ended = await self._client.wait(run.id, timeout_seconds=SECONDS)
        return ended.status, ended.attempt


async def all_of(*work: Awaitable[None]) -> None:
    """Waits for them, and ends the others as soon as one fails."""
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(_awaited(each))


async def _awaited(work: Awaitable[None]) -> None:
    await work


def test_the_version_before_finds_none_of_todays_code(previous: PreviousVersion) -> None:
    command = [str(previous.python), "-c", "import sys, runengine_server; print(*sys.path, sep='\\n')"]
    found = subprocess.run(command, cwd=previous.modules, check=True, capture_output=True, text=True).stdout
    today = {str(ROOT / each) for each in ("", *SOURCE_ROOTS)}
    assert today.isdisjoint(found.splitlines())


async def test_the_version_before_goes_on_while_and_after_today_migrates(
    sides: Sides, tmp_path: Path, gates: Gates
) -> None:
    before = sides.before
    await before.start()
    lives, migrated = Lives(before, before, tmp_path, gates), asyncio.Event()
    await lives.bundle()

    async def migrate_under_load() -> None:
        await lives.live()
        await migrate(sides.owner_url, sides.url)
        migrated.set()

    await all_of(migrate_under_load(), *(lives.live_until(migrated) for _ in range(CLIENTS)))
    await lives.bundle()
    assert len(lives.runs) >= 2 + 3 * (1 + CLIENTS)
    for run_id, status in lives.runs.items():
        assert (await before.client.get_run(run_id)).status == status


async def test_runs_triggered_by_one_version_are_executed_by_the_other(
    sides: Sides, tmp_path: Path, gates: Gates
) -> None:
    before, today = sides.before, sides.today
    await migrate(sides.owner_url, sides.url)
    await asyncio.gather(before.start(), today.start())
    crossed = [Lives(before, today, tmp_path, gates), Lives(today, before, tmp_path, gates)]
    await all_of(*(lives.live() for lives in crossed), *(lives.bundle() for lives in crossed))
    for run_id in crossed[0].runs | crossed[1].runs:
        for ask in (
            RunEngineClient.get_run,
            RunEngineClient.list_run_steps,
            RunEngineClient.list_run_events,
        ):
            assert await ask(before.client, run_id) == await ask(today.client, run_id)
    # One that has got no response from one server sends its call to the other.
    for first, second in ((before, today), (today, before)):
        run = await first.client.trigger_run("shared", idempotency_key=first.name)
        assert await second.client.trigger_run("shared", idempotency_key=first.name) == run


@pytest.mark.parametrize("is_upgrade", [True, False], ids=["upgrade", "roll-back"])
async def test_a_run_in_its_middle_is_handed_from_one_version_to_the_other(
    sides: Sides, previous: PreviousVersion, gates: Gates, is_upgrade: bool
) -> None:
    await migrate(sides.owner_url, sides.url)
    # A version from before there were values that are stored once a run does not find them.
    is_large = is_upgrade or (previous.source / VALUES).exists()
    brief = "brief" * (1000 if is_large else 1)
    first, second = (sides.before, sides.today) if is_upgrade else (sides.today, sides.before)
    await first.start()
    run = await first.client.trigger_run("shared", trigger_payload={"gates": gates.path, "brief": brief})
    await gates.next()
    await first.stack.stop()
    await second.start()
    (await gates.next()).open()
    done = await second.client.wait(run.id, timeout_seconds=SECONDS)
    assert (done.status, done.attempt) == (COMPLETED, 1)
    steps = await second.client.list_run_steps(run.id)
    assert [(step.step_id, step.attempt) for step in steps] == [("begin", 1), ("check", 2), ("end", 1)]
    for step in steps:
        assert (await second.client.get_step_data(run.id, step.id)).input["brief"] == brief
