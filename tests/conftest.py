"""One PostgreSQL a test run, one database and one set of processes a test worker, one tenant a test."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import httpx
import pytest
from runengine_client import RunEngineClient
from runengine_server import logs
from runengine_server.database.migrations.migrate import migrate
from runengine_server.processes.embedded_postgres import EmbeddedPostgres

from tests.faults import mutants
from tests.support.gates import Gates
from tests.support.stack import MUTANT, Stack

_TEMPLATE = "runengine"
_SOCKET_DIR = "RUNENGINE_TEST_POSTGRES"
_POSTGRES = (
    "max_connections = 1000", "shared_buffers = '256MB'", "fsync = off", "full_page_writes = off",
    "wal_level = minimal", "max_wal_senders = 0", "max_wal_size = '4GB'",
)  # fmt: skip

# A test that takes a minute: were it the last, the others would be waiting for it alone.
_FIRST = ("test_soak.py", "test_leaks.py")
# Of a workflow, wider than the screen of a telephone.
_WIDE_NAME = "unserved-" + "wide-" * 12


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # As the processes have it; structlog's own way renders every local variable, for a second each time.
    logs.configure_logging()
    if MUTANT in os.environ:
        mutants.apply(os.environ[MUTANT])
    if hasattr(config, "workerinput"):
        return
    directory = Path(tempfile.mkdtemp(prefix="runengine-tests-"))
    directory.chmod(0o755)
    # Before pytest reads it. Without, the directories of all sessions of a user lie in one, which each
    # session that starts closes to PostgreSQL's own user.
    config.option.basetemp = config.option.basetemp or directory / "tests"
    postgres = EmbeddedPostgres(directory)

    async def prepare() -> str:
        owner_url, url = await postgres.start()
        admin = await asyncpg.connect(url.replace("runengine_app@", "postgres@"))
        # Test workers with several sets of processes each; nothing here outlives its machine, and each
        # database that is dropped brings a checkpoint.
        for setting in _POSTGRES:
            await admin.execute(f"ALTER SYSTEM SET {setting}")
        await admin.close()
        postgres.stop()
        await postgres.start()
        await migrate(owner_url, url)
        return url

    url = asyncio.run(prepare())
    os.environ[_SOCKET_DIR] = url.partition("?host=")[2]

    def clean_up() -> None:
        postgres.stop()
        shutil.rmtree(directory)

    config.add_cleanup(clean_up)


def pytest_xdist_auto_num_workers() -> int:
    """Two a core: tests wait, for leases, processes and each other, for half of their time."""
    return min(2 * (os.cpu_count() or 1), 8)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # pytest parses each module. Where the collector, within ast.parse, comes to Python code (a finaliser, or
    # what hypothesis has in gc.callbacks) that lets another ast.parse begin, CPython 3.11.7 raises "AST
    # constructor recursion depth mismatch": the depth is counted once an interpreter.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _FIRST)  # a stable sort: else as collected


def pytest_runtest_teardown() -> None:
    # What a test has logged is written on a thread: while pytest still captures it for that test.
    logs.flush()


@pytest.fixture(scope="session")
async def database_url() -> AsyncIterator[str]:
    """A database of this test worker's own, as the application's role sees it."""
    name = f"test_{uuid.uuid4().hex}"
    host = os.environ[_SOCKET_DIR]
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} OWNER runengine_owner TEMPLATE {_TEMPLATE}")
    yield f"postgresql://runengine_app@/{name}?host={quote(host, safe='%')}"
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="session")
def state_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="runengine-state-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
async def stack(database_url: str, state_dir: Path) -> AsyncIterator[Stack]:
    """serve with REST, a gateway and a worker as real processes; the worker knows tests.support.graphs and
    the sample.
    """
    stack = Stack(database_url, state_dir)
    await stack.start("serve", "worker", rest_by="serve")
    await stack.start("gateway", REST_ADDRESS=stack.gateway_address)
    # Workflows that can be triggered, but that no worker takes: their runs stay queued.
    admin = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    await admin.execute("INSERT INTO workflows (name) VALUES ('unserved'), ($1)", _WIDE_NAME)
    await admin.close()
    yield stack
    await stack.stop()


@pytest.fixture
def organisation() -> str:
    """A tenant that no other test uses."""
    return f"org_{uuid.uuid4().hex}"


@pytest.fixture
def token(stack: Stack, organisation: str) -> str:
    return stack.token(organisation)


@pytest.fixture
async def client(stack: Stack, token: str) -> AsyncIterator[RunEngineClient]:
    async with stack.client(token) as client:
        yield client


@pytest.fixture
def rest_address(stack: Stack, request: pytest.FixtureRequest) -> str:
    """Where REST is: at serve, or in a test of OVER_BOTH at the gateway too."""
    return stack.gateway_address if getattr(request, "param", None) == "gateway" else stack.rest_address


@pytest.fixture
async def rest(stack: Stack, token: str, rest_address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.rest(token, rest_address) as rest:
        yield rest


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The same database as a superuser sees it: all rows of all tenants."""
    connection = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    yield connection
    await connection.close()


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    async with Gates() as gates:
        yield gates
