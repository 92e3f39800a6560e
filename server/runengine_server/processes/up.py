"""Runs everything on one machine: PostgreSQL, migrations, and one process each for the APIs and for work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import structlog

from runengine_server.auth import development
from runengine_server.processes.addresses import bind
from runengine_server.processes.children import Child, ChildFailed
from runengine_server.processes.embedded_postgres import EmbeddedPostgres
from runengine_server.processes.metrics_server import metrics_environment
from runengine_server.processes.reloaded_worker import ReloadedWorker
from runengine_server.processes.state_directory import lock_state_directory
from runengine_server.processes.watched_files import WatchedFiles
from runengine_server.settings import SAMPLE, Settings, SettingsError

_PROCESSES = ("serve", "worker")
_POSTGRES_CHECK_SECONDS = 0.5

_BRIEF = (
    '{"product": "Solar Kettle", "audience": "campers", "channels": ["email"], "tone": "friendly", '
    '"offer": "20 % off until Sunday", "locale": "en", "paceSeconds": 0.4}'
)

_log = structlog.get_logger()


async def up(settings: Settings, *, reload: bool = False) -> None:
    """Starts everything, prints the addresses, and keeps it running until SIGINT, SIGTERM or SIGHUP. With
    `reload` the worker is replaced when the files of the workflows change.

    Raises SettingsError or ChildFailed when something cannot start; nothing is left running then.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    with lock_state_directory(settings.state_dir):
        for variable, address in (
            ("RUNENGINE_GRPC_ADDRESS", settings.grpc_address),
            ("RUNENGINE_REST_ADDRESS", settings.rest_address),
        ):
            bind(variable, address).close()
        postgres = EmbeddedPostgres(settings.state_dir) if settings.database_url is None else None
        children: list[Child] = []
        # Its standard input reaches end of file when this process ends, even by SIGKILL.
        guard = _start_guard(settings.state_dir) if postgres is not None else None
        try:
            until_stopping = asyncio.create_task(stopping.wait())
            running = asyncio.create_task(_run(settings, postgres, children, reload))
            done, _ = await asyncio.wait([running, until_stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (running, until_stopping):
                task.cancel()
            await asyncio.gather(running, until_stopping, return_exceptions=True)
            if running in done:
                running.result()
        finally:
            await asyncio.gather(*(child.stop() for child in children))
            if postgres is not None:
                postgres.stop()
            if guard is not None:
                guard.kill()
                await asyncio.to_thread(guard.communicate)


def _start_guard(state_dir: Path) -> subprocess.Popen[bytes]:
    module = "runengine_server.processes.postgres_guard"
    command = [sys.executable, "-m", module, str(state_dir.absolute()), str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


async def _prepare(
    settings: Settings, postgres: EmbeddedPostgres | None, children: list[Child]
) -> dict[str, str]:
    """Starts and migrates the database. Returns the environment of the processes."""
    environment = dict(os.environ)
    environment["RUNENGINE_STATE_DIR"] = str(settings.state_dir.absolute())
    environment["RUNENGINE_REST_ADDRESS"] = settings.rest_address
    if postgres is not None:
        try:
            owner_url, url = await postgres.start()
        except (OSError, subprocess.SubprocessError, asyncpg.PostgresError) as error:
            log = settings.state_dir.absolute() / "postgres" / "log"
            raise SettingsError(f"PostgreSQL cannot start ({type(error).__name__}); see {log}") from None
        environment["RUNENGINE_DATABASE_URL"] = url
        environment["RUNENGINE_OWNER_DATABASE_URL"] = owner_url
    await _migrate(environment, children)
    # The worker runs users' code, which must not see the owner's credentials.
    environment.pop("RUNENGINE_OWNER_DATABASE_URL", None)
    if postgres is not None:
        await postgres.delete_workflows()
    if settings.clerk_issuer is None:
        if settings.clerk_jwt_key or settings.clerk_jwks_url:
            raise SettingsError("RUNENGINE_CLERK_ISSUER is missing: without it Clerk's key would be ignored")
        environment["RUNENGINE_CLERK_ISSUER"] = development.ISSUER
        environment["RUNENGINE_CLERK_JWT_KEY"] = development.public_pem(settings.state_dir)
    return environment


async def _migrate(environment: dict[str, str], children: list[Child]) -> None:
    """In a process of its own, which takes what it has imported with it: 29 MiB."""
    migrating = Child("migrate", environment)
    children.append(migrating)  # to be stopped with the others
    if await migrating.until_ended() != 0:
        raise ChildFailed(migrating.command)
    children.remove(migrating)
    await migrating.stop()


async def _run(
    settings: Settings, postgres: EmbeddedPostgres | None, children: list[Child], reload: bool
) -> None:
    environment = await _prepare(settings, postgres, children)
    if not reload:
        await _run_processes(_PROCESSES, settings, postgres, environment, children)
        return
    files = WatchedFiles(settings.workflows)
    # A worker and its successor run beside each other, and cannot have the same port.
    environment.pop("RUNENGINE_METRICS_ADDRESS", None)
    worker = ReloadedWorker(files, environment, children)
    working = asyncio.create_task(worker.work())
    others = [command for command in _PROCESSES if command != "worker"]
    running = asyncio.create_task(_run_processes(others, settings, postgres, environment, children, worker))
    try:
        done, _ = await asyncio.wait({working, running}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        running.cancel()
        await asyncio.gather(working, running, return_exceptions=True)
    for each in done:
        each.result()


async def _run_processes(
    commands: Sequence[str],
    settings: Settings,
    postgres: EmbeddedPostgres | None,
    environment: dict[str, str],
    children: list[Child],
    worker: ReloadedWorker | None = None,
) -> None:
    own: list[Child] = []
    for place, command in enumerate(commands):
        # One at a time: when one fails to start, the ones before it are in `children` and are stopped.
        own.append(Child(command, {**environment, **metrics_environment(settings, place)}))
        children.append(own[-1])
    await asyncio.gather(*(child.until_ready() for child in own))
    if worker is not None:
        await worker.has_tried.wait()
    _print_addresses(settings, worker)
    supervising = [child.supervise() for child in own]
    if postgres is not None:
        supervising.append(_supervise_postgres(postgres))
    await asyncio.gather(*supervising)


async def _supervise_postgres(postgres: EmbeddedPostgres) -> None:
    while True:
        await asyncio.sleep(_POSTGRES_CHECK_SECONDS)
        try:
            if not postgres.is_running():
                _log.warning("PostgreSQL ended; starting it again")
                await postgres.start()
        except Exception as error:
            _log.error("PostgreSQL does not start", error=type(error).__name__)


def _print_addresses(settings: Settings, worker: ReloadedWorker | None) -> None:
    console = f"http://{settings.rest_address}/console"
    lines = [
        "runengine is up.",
        f"  gRPC     {settings.grpc_address}",
        f"  REST     http://{settings.rest_address}",
        f"  Console  {console}",
    ]
    if worker is not None:
        lines += [f"  Reloaded when a .py file changes in  {each}" for each in worker.directories]
    if settings.clerk_issuer is None:
        token = development.sign(settings.state_dir, "org_demo", "user_demo", ttl_seconds=12 * 3600)
        known = SAMPLE in settings.workflows
        workflow, payload = ("campaign-bundle", _BRIEF) if known else ("YOUR-WORKFLOW", "{}")
        body = f'{{"workflowName": "{workflow}", "triggerPayload": {payload}}}'
        lines += [
            "",
            "The console, with a token that is good for 12 hours:",
            "",
            f"{console}#token={token}",
            "",
            "The same token for commands (another: .venv/bin/runengine-server token --org ORG):",
            "",
            f"export RUNENGINE_TOKEN={token}",
            "",
            "Trigger a run, and watch its steps:",
            "",
            f".venv/bin/runengine --address {settings.grpc_address} \\",
            f"  trigger {workflow} --wait --payload '{payload}'",
            "",
            f"The same over REST, whose reference is http://{settings.rest_address}/docs:",
            "",
            f'curl -s http://{settings.rest_address}/runs -H "authorization: Bearer $RUNENGINE_TOKEN" \\',
            f"  -H 'content-type: application/json' -d '{body}'",
        ]
    sys.stdout.write("\n".join(lines) + "\n\nCtrl-C stops everything.\n")
    sys.stdout.flush()
