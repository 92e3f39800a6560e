"""What is measured: the product's processes, its peers, and the PostgreSQL that they share, each on its core.

Three places on two cores. What is measured, a server or a worker, has a core for itself. The load generator,
which is this process, has the other, and PostgreSQL is on it too: so it is the same for both of a pair, the
peer whose answers come from memory shares its core with nobody either, and what a server waits for
PostgreSQL counts against it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

import asyncpg
from runengine.v1.run_service_pb2 import GetRunRequest, ListCampaignRunsRequest, ListCampaignRunsResponse
from runengine_client import RunEngineClient
from runengine_server.database.database import Database
from runengine_server.database.migrations.migrate import migrate
from runengine_server.processes.children import Child
from runengine_server.processes.embedded_postgres import EmbeddedPostgres
from runengine_server.repositories.queue_repository import QueueRepository

from tests.bench import data
from tests.bench.load import Missing, grpc_load
from tests.support.stack import ROOT, Stack, environment, logging_to

PEERS = Path(__file__).parent / "peers"

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]

LIST, GET, TRIGGER = (
    f"runengine.v1.RunService/{method}" for method in ("ListCampaignRuns", "GetRun", "TriggerRun")
)

# Triggered, and executed by nobody.
UNSERVED = "unserved"
WORKFLOWS = "tests.bench.graphs:WORKFLOWS"

_TEMPLATE = "runengine"
_LISTED = 1000
BIG = 1_000_000
_READY_SECONDS = 90
_ANSWER_SECONDS = 120


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """What is started in the block runs on this core; None: on any."""
    os.sched_setaffinity(0, _CORES if core is None else [core])
    try:
        yield
    finally:
        os.sched_setaffinity(0, [LOAD_CORE])


def peer_python(name: str) -> str:
    """The interpreter of a peer's virtual environment. Raises Missing."""
    python = PEERS / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        raise Missing(f"{name} is not installed: make bench-peers")
    return str(python)


class Script:
    """A module of `peers` on the server's core; it says that it is ready, and then answers line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(
        cls, module: str, *arguments: str, python: str = sys.executable
    ) -> AsyncIterator[Script]:
        with pinned(SERVER_CORE):
            process = await asyncio.create_subprocess_exec(
                python, "-m", f"tests.bench.peers.{module}", *arguments, cwd=ROOT, env=environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        script = cls(process)
        try:
            await script._line()
            yield script
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def ask(self, question: float) -> float:
        """The number that it answers to a number."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n".encode())
        return float(await self._line())

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(_ANSWER_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer ended with {await self._process.wait()}")
        return line.decode()


def _spawn(command: list[str], log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    with pinned(SERVER_CORE), log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=log.parent, env={**environment(), **environ}, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def _tail(log: Path) -> str:
    """The end of what it says that a worker does not say of each run."""
    lines = [line for line in log.read_text().splitlines(keepends=True) if '"level":"info"' not in line]
    return "".join(lines)[-2000:]


def _directory() -> Path:
    """A new one, which PostgreSQL's user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="runengine-bench-"))
    directory.chmod(0o755)
    return directory


@asynccontextmanager
async def listening(command: list[str], address: str, directory: str, **environ: str) -> AsyncIterator[None]:
    """A command on the server's core that listens on `address`, from when it does until it is stopped.

    In a session of its own, so that what it has started ends with it.
    """
    log = Path(directory) / "log"
    process = _spawn(command, log, {"HOME": directory, **environ})
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                if process.poll() is not None:
                    raise RuntimeError(_tail(log))
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    await asyncio.sleep(0.2)
                else:
                    writer.close()
                    break
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class Served:
    """A stack with a tenant that has one campaign of a thousand runs that were executed."""

    stack: Stack
    database: str
    token: str
    campaign_id: UUID
    run_id: UUID
    serve_pid: int
    gateway_pid: int

    @property
    def address(self) -> str:
        """Where gRPC is."""
        return self.stack.grpc_address

    @property
    def memory(self) -> float:
        """The resident memory of serve in MiB."""
        status = Path(f"/proc/{self.serve_pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def list_path(self) -> str:
        """Page 1 of the campaign over REST."""
        return f"/campaigns/{self.campaign_id}/runs"

    @property
    def list_request(self) -> bytes:
        """Page 1 of the campaign."""
        return ListCampaignRunsRequest(campaign_id=str(self.campaign_id)).SerializeToString()

    @property
    def get_request(self) -> bytes:
        """One of the runs."""
        return GetRunRequest(run_id=str(self.run_id)).SerializeToString()


@dataclass(frozen=True)
class Working:
    """A stack whose workers are on the server's core, or on any, and whose serve is on the load's."""

    stack: Stack
    token: str
    worker_pids: tuple[int, ...]

    def pause(self) -> None:
        """Stops the workers where they are."""
        for pid in self.worker_pids:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> float:
        """Lets them go on; answers when."""
        for pid in self.worker_pids:
            os.kill(pid, signal.SIGCONT)
        return perf_counter()


class Bench:
    """One PostgreSQL, and what the rows have asked for, each made once and stopped at the end."""

    def __init__(self, directory: Path, socket_dir: str) -> None:
        self.directory = directory
        self.socket_dir = socket_dir
        self.notes: list[str] = []
        # Where its PostgreSQL has its data, and those that a row starts besides.
        self.directories = [directory]
        self._log = directory / "log"
        self._log.touch()
        self._exit = AsyncExitStack()
        self._served: Served | None = None
        self._working: Working | None = None
        self._big: UUID | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Bench]:
        """A bench, from when its PostgreSQL runs; this process is the load generator."""
        directory = _directory()
        postgres = EmbeddedPostgres(directory)
        try:
            with pinned(LOAD_CORE):
                owner_url, url = await postgres.start()
            await migrate(owner_url, url)
            bench = cls(directory, unquote(url.partition("?host=")[2]))
            try:
                async with bench._exit:
                    yield bench
            except BaseException:
                sys.stderr.write(_tail(bench._log))
                raise
        finally:
            postgres.stop()
            shutil.rmtree(directory)

    def url(self, database: str, role: str = "postgres") -> str:
        """Where a database is; the superuser sees all tenants."""
        return f"postgresql://{role}@/{database}?host={quote(self.socket_dir)}"

    @asynccontextmanager
    async def admin(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection."""
        connection = await asyncpg.connect(self.url(database))
        try:
            yield connection
        finally:
            await connection.close()

    async def create_database(self, template: str = _TEMPLATE) -> str:
        """The name of a new database, with the schema unless `template` has none."""
        name = f"bench_{uuid4().hex}"
        async with self.admin() as admin:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    async def facts(self) -> str:
        """What PostgreSQL is, and how careful."""
        async with self.admin() as admin:
            shown = [
                f"{name} {await admin.fetchval(f'SHOW {name}')}"
                for name in ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
            ]
            return ", ".join([f"PostgreSQL {await admin.fetchval('SHOW server_version')}", *shown])

    @asynccontextmanager
    async def stack(self, name: str) -> AsyncIterator[Stack]:
        """A stack on a database of that name, nothing of it started."""
        state = Path(tempfile.mkdtemp(prefix="state-", dir=self.directory))
        stack = Stack(self.url(name, "runengine_app"), state)
        stack.settings["WORKFLOWS"] = WORKFLOWS
        try:
            yield stack
        finally:
            await stack.stop()

    async def start(
        self, stack: Stack, core: int | None, *commands: str, rest_by: str = "gateway", **settings: str
    ) -> list[Child]:
        """Starts processes of the stack on a core, or on any, with settings that differ."""
        with pinned(core), logging_to(self._log):
            return await stack.start(*commands, rest_by=rest_by, **settings)

    async def served(self) -> Served:
        """The one of this bench."""
        if self._served is None:
            self._served = await self._exit.enter_async_context(self.serving())
        return self._served

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Served]:
        """serve, with REST, and a gateway apart on the server's core."""
        name = await self.create_database()
        campaign_id = uuid4()
        await self.register(name, UNSERVED)
        async with self.stack(name) as stack:
            (serve,) = await self.start(stack, SERVER_CORE, "serve", rest_by="serve")
            (gateway,) = await self.start(stack, SERVER_CORE, "gateway", REST_ADDRESS=stack.gateway_address)
            token = stack.token("org_bench")
            (worker,) = await self.start(stack, None, "worker")
            await trigger(stack, token, campaign_id, "four-steps", _LISTED)
            await until_completed(stack, token, campaign_id, _LISTED)
            await worker.stop()
            async with self.admin(name) as admin:
                await data.settle(admin)
            listed = await list_runs(stack, token, campaign_id)
            yield Served(stack, name, token, campaign_id, UUID(listed.runs[0].id), serve.pid, gateway.pid)

    async def one_working(self) -> Working:
        """The one of this bench."""
        if self._working is None:
            self._working = await self._exit.enter_async_context(self.working(SERVER_CORE))
        return self._working

    @asynccontextmanager
    async def working(self, core: int | None, workers: int = 1, **settings: str) -> AsyncIterator[Working]:
        """Workers on a core, or on any, with a database of their own, and settings that differ."""
        async with self.stack(await self.create_database()) as stack:
            await self.start(stack, LOAD_CORE, "serve")
            children = await self.start(stack, core, *["worker"] * workers, **settings)
            yield Working(stack, stack.token("org_bench"), tuple(child.pid for child in children))

    async def big_campaign(self) -> UUID:
        """A campaign of BIG runs beside that of `served`."""
        if self._big is None:
            served, begin = await self.served(), perf_counter()
            self._big = uuid4()
            async with self.admin(served.database) as admin:
                await data.fill_campaign(admin, served.run_id, self._big, BIG)
            self.notes.append(f"{BIG:,} runs were stored by SQL in {perf_counter() - begin:.0f} s.")
        return self._big

    async def register(self, name: str, *workflows: str) -> None:
        """Makes that workflows can be triggered in a database."""
        async with self.database(name) as database:
            await QueueRepository(database, "bench", workflows, 30).register_workflows()

    @asynccontextmanager
    async def database(self, name: str) -> AsyncIterator[Database]:
        """The application's own pool on a database."""
        database = Database(self.url(name, "runengine_app"), 4)
        await database.open()
        try:
            yield database
        finally:
            await database.close()


async def trigger(
    stack: Stack, token: str, campaign_id: UUID, workflow: str, runs: int,
    payload: dict[str, Any] = data.PAYLOAD,
) -> None:  # fmt: skip
    """Queues runs in a campaign."""
    request = data.trigger_request(workflow, campaign_id, payload)
    # Within half of the 64 KiB that HTTP/2 grants a connection: the generator waits for no more.
    in_flight = min(16, 2**15 // len(request))
    await grpc_load(stack.grpc_address, TRIGGER, [request], token, in_flight, calls=runs)


async def list_runs(
    stack: Stack, token: str, campaign_id: UUID, limit: int = 20, offset: int = 0
) -> ListCampaignRunsResponse:
    """A page of a campaign."""
    async with RunEngineClient(stack.grpc_address, token) as client:
        return await client.list_campaign_runs(campaign_id, limit=limit, offset=offset)


async def until_completed(stack: Stack, token: str, campaign_id: UUID, runs: int) -> None:
    """Returns when so many runs of the campaign have completed."""
    async with RunEngineClient(stack.grpc_address, token) as client, asyncio.timeout(_ANSWER_SECONDS):
        while True:
            page = await client.list_campaign_runs(campaign_id, limit=1)
            if page.status_counts.completed >= runs:
                return
            # Of the seconds that are measured; and a poll costs the load's core a millisecond.
            await asyncio.sleep(0.02)
