"""The processes of the product, as the tests start them."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from runengine_client import RunEngineClient
from runengine_server.auth import development
from runengine_server.database.migrations.migrate import migrate
from runengine_server.processes.children import Child
from runengine_server.processes.embedded_postgres import EmbeddedPostgres

from tests import NO_FORK_SUPPORT
from tests.support.patience import SECONDS

ROOT = Path(__file__).parents[2]
WORKFLOWS = "runengine_samples.campaign_bundle:WORKFLOWS,tests.support.graphs:WORKFLOWS"

# A guard of the product that its processes are to be without, so that a test can be seen to fail.
MUTANT = "RUNENGINE_MUTANT"
UNDER_TEST = "tests.faults.process"

# Who dispatches runs to the processes, where it is not PostgreSQL; see temporal_server.py.
DISPATCH = "RUNENGINE_DISPATCH"

# Has a test done with the REST of serve, and with that of a gateway.
OVER_BOTH = pytest.mark.parametrize("rest_address", ["serve", "gateway"], indirect=True)


def free_address() -> str:
    """HOST:PORT of a port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without its own settings of runengine, and with `settings`."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if (not key.startswith("RUNENGINE_") or key in (MUTANT, DISPATCH)) and key != NO_FORK_SUPPORT
    }
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        **{f"RUNENGINE_{key}": value for key, value in settings.items()},
    }


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Whatever is started in the block has the file for its standard error."""
    before = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary one that PostgreSQL gets to, which may run as a user of its own. Not one of pytest's: each
    pytest that starts, of whatever project, closes the directory of all of these to other users.
    """
    with tempfile.TemporaryDirectory(prefix="runengine-tests-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)


def readable_by_all(directory: Path) -> None:
    """For PostgreSQL, which may run as a user of its own. What is not of the tests alone stays as it is."""
    temporary = Path(tempfile.gettempdir())
    for each in (directory, *directory.parents):
        if temporary in each.parents:
            each.chmod(0o755)


@asynccontextmanager
async def own_postgres(directory: Path) -> AsyncIterator[tuple[EmbeddedPostgres, str]]:
    """A PostgreSQL that may be stopped and spoilt, and the application's URL of it."""
    readable_by_all(directory)
    postgres = EmbeddedPostgres(directory)
    owner_url, url = await postgres.start()
    try:
        await migrate(owner_url, url)
        yield postgres, url
    finally:
        postgres.stop()


class Stack:
    """Any of serve, gateway and worker on one database. A gateway beside a serve that serves REST too is at
    `gateway_address`.
    """

    def __init__(self, database_url: str, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.grpc_address = free_address()
        self.rest_address = free_address()
        self.gateway_address = free_address()
        self.settings = {
            "DATABASE_URL": database_url,
            "STATE_DIR": str(state_dir),
            "GRPC_ADDRESS": self.grpc_address,
            "REST_ADDRESS": self.rest_address,
            "CLERK_ISSUER": development.ISSUER,
            "CLERK_JWT_KEY": development.public_pem(state_dir),
            "WORKFLOWS": WORKFLOWS,
        }
        self._children: list[Child] = []

    async def start(
        self, *commands: str, module: str | None = None, rest_by: str = "gateway", **settings: str
    ) -> list[Child]:
        """Starts processes, with settings that differ, and returns when they are ready: all, or none.
        `rest_by`: which of them serves REST, "serve" or "gateway".
        """
        module = module or (UNDER_TEST if MUTANT in os.environ else "runengine_server")
        environ = environment(**{**self.settings, **settings})
        without_rest = {key: value for key, value in environ.items() if key != "RUNENGINE_REST_ADDRESS"}
        of_serve = environ if rest_by == "serve" else without_rest
        children = [
            Child(each, of_serve if each.startswith("serve") else environ, module) for each in commands
        ]
        self._children += children
        try:
            for child in children:
                await child.until_ready()
        except BaseException:
            # And not those that other tests use.
            await asyncio.gather(*(child.stop() for child in children))
            raise
        return children

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children))

    def token(self, organisation: str) -> str:
        return development.sign(self.state_dir, organisation, "user_test", ttl_seconds=3600)

    def client(self, token: str) -> RunEngineClient:
        return RunEngineClient(self.grpc_address, token, timeout_seconds=SECONDS)

    def rest(self, token: str | None = None, address: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        url = f"http://{address or self.rest_address}"
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=SECONDS)
