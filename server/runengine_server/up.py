"""Everything on one machine: PostgreSQL, migrations, and one process each for gRPC, REST and work."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import structlog

from runengine_server import app
from runengine_server.auth import development
from runengine_server.embedded_postgres import EmbeddedPostgres
from runengine_server.settings import SAMPLE, Settings, SettingsError

_PROCESSES = ("serve", "worker", "gateway")
_STOP_SECONDS = 6.0
_RESTART_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

_EXAMPLE = (
    '{"workflowName": "campaign-bundle", "triggerPayload": {"product": {"name": "Solar Kettle"}, '
    '"audience": "campers", "channels": ["email", "instagram"], "tone": "friendly", '
    '"offer": "20 % off until Sunday", "locale": "en"}}'
)

_OWN_EXAMPLE = '{"workflowName": "YOUR-WORKFLOW", "triggerPayload": {}}'

_log = structlog.get_logger()


class ChildFailed(Exception):
    """A process ended before it was ready."""


class Child:
    """One process of ours, started in a session of its own so that Ctrl-C reaches only `up`.

    `module` is what Python runs; the tests have one that prepares the process before it is the product.
    """

    def __init__(self, command: str, environment: dict[str, str], module: str = "runengine_server") -> None:
        self.command = command
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, command],
                env={**environment, "RUNENGINE_PARENT_FD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def until_ready(self) -> None:
        """Returns once it does its work. Raises ChildFailed when it ended instead."""
        if not await asyncio.get_running_loop().sock_recv(self._socket, 16):
            await self.until_ended()
            raise ChildFailed(self.command)

    async def until_ended(self) -> int:
        """Its exit code. The end of file on its socket is the event; wait() only collects it."""
        while await asyncio.get_running_loop().sock_recv(self._socket, 16):
            pass
        return await asyncio.to_thread(self._process.wait)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when it has ended."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        self._socket.close()


@contextlib.contextmanager
def _state_directory(path: Path) -> Iterator[None]:
    """The directory, ours alone while the block runs."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"RUNENGINE_STATE_DIR: cannot write {path}: {reason}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"runengine already runs in {path}: stop it, or set RUNENGINE_STATE_DIR to another directory"
            ) from None
        yield
    finally:
        os.close(lock)


async def up(settings: Settings) -> None:
    """Starts everything, says where it is, and keeps it running until SIGINT or SIGTERM.

    Raises SettingsError or ChildFailed when something cannot start; nothing is left running then.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    with _state_directory(settings.state_dir):
        for variable, address in (
            ("RUNENGINE_GRPC_ADDRESS", settings.grpc_address),
            ("RUNENGINE_REST_ADDRESS", settings.rest_address),
        ):
            app.bind(variable, address).close()
        postgres = EmbeddedPostgres(settings.state_dir) if settings.database_url is None else None
        children: dict[str, Child] = {}
        try:
            until_stopping = asyncio.create_task(stopping.wait())
            running = asyncio.create_task(_run(settings, postgres, children))
            done, _ = await asyncio.wait([running, until_stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (running, until_stopping):
                task.cancel()
            await asyncio.gather(running, until_stopping, return_exceptions=True)
            if running in done:
                running.result()
        finally:
            await asyncio.gather(*(child.stop() for child in children.values()))
            if postgres is not None:
                postgres.stop()


async def _prepare(settings: Settings, postgres: EmbeddedPostgres | None) -> dict[str, str]:
    """The database up and migrated; answers the environment of the processes."""
    environment = dict(os.environ)
    # The processes run users' code, which has no business with the owner's credentials.
    environment.pop("RUNENGINE_OWNER_DATABASE_URL", None)
    environment["RUNENGINE_STATE_DIR"] = str(settings.state_dir.absolute())
    if postgres is None:
        await app.migrate(settings)
    else:
        try:
            owner_url, url = await postgres.start()
        except (OSError, subprocess.SubprocessError, asyncpg.PostgresError) as error:
            log = settings.state_dir.absolute() / "postgres" / "log"
            raise SettingsError(f"PostgreSQL cannot start ({type(error).__name__}); see {log}") from None
        environment["RUNENGINE_DATABASE_URL"] = url
        await app.migrate(settings.model_copy(update={"database_url": url, "owner_database_url": owner_url}))
        await postgres.forget_workflows()
    if settings.clerk_issuer is None:
        if settings.clerk_jwt_key or settings.clerk_jwks_url:
            raise SettingsError("RUNENGINE_CLERK_ISSUER is missing: without it Clerk's key would be ignored")
        environment["RUNENGINE_CLERK_ISSUER"] = development.ISSUER
        environment["RUNENGINE_CLERK_JWT_KEY"] = development.public_pem(settings.state_dir)
    return environment


async def _run(settings: Settings, postgres: EmbeddedPostgres | None, children: dict[str, Child]) -> None:
    environment = await _prepare(settings, postgres)
    for command in _PROCESSES:
        children[command] = Child(command, environment)
    await asyncio.gather(*(child.until_ready() for child in children.values()))
    _greet(settings)
    keeping = [_keep(command, environment, children) for command in _PROCESSES]
    if postgres is not None:
        keeping.append(_keep_postgres(postgres))
    await asyncio.gather(*keeping)


async def _keep(command: str, environment: dict[str, str], children: dict[str, Child]) -> None:
    pause = _RESTART_SECONDS
    while True:
        started = time.monotonic()
        code = await children[command].until_ended()
        lived = time.monotonic() - started
        pause = _RESTART_SECONDS if lived > _LONGEST_PAUSE_SECONDS else min(pause * 2, _LONGEST_PAUSE_SECONDS)
        _log.warning("process ended; starting it again", command=command, exit_code=code, seconds=pause)
        await children[command].stop()
        await asyncio.sleep(pause)
        children[command] = Child(command, environment)


async def _keep_postgres(postgres: EmbeddedPostgres) -> None:
    while True:
        await asyncio.sleep(_RESTART_SECONDS)
        try:
            if not postgres.is_running():
                _log.warning("PostgreSQL ended; starting it again")
                await postgres.start()
        except Exception as error:
            _log.error("PostgreSQL does not start", error=type(error).__name__)


def _greet(settings: Settings) -> None:
    lines = [
        "runengine is up.",
        f"  gRPC  {settings.grpc_address}",
        f"  REST  http://{settings.rest_address}",
    ]
    if settings.clerk_issuer is None:
        token = development.sign(settings.state_dir, "org_demo", "user_demo", ttl_seconds=12 * 3600)
        known = SAMPLE in settings.workflows
        lines += [
            "",
            "A development token, good for 12 hours (another: .venv/bin/runengine-server token --org ORG):",
            "",
            f"export RUNENGINE_TOKEN={token}",
            "",
            "Trigger a run and look at it:" if known else "Trigger a run of one of your workflows:",
            "",
            f'curl -s http://{settings.rest_address}/runs -H "authorization: Bearer $RUNENGINE_TOKEN" \\',
            f"  -H 'content-type: application/json' -d '{_EXAMPLE if known else _OWN_EXAMPLE}'",
            "",
            'grpcurl -plaintext -H "authorization: Bearer $RUNENGINE_TOKEN" -d \'{"run_id": "…"}\' \\',
            f"  {settings.grpc_address} runengine.v1.RunService/GetRun",
        ]
    sys.stdout.write("\n".join(lines) + "\n\nCtrl-C stops everything.\n")
    sys.stdout.flush()
