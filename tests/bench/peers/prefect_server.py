"""A Prefect server with flow runs under one tag, on PostgreSQL where there is one with pg_trgm.

A hundred flow runs and not a thousand: it takes 30 ms to create each, and fewer are no harder to list.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from tests.bench import data
from tests.bench.load import http_load
from tests.bench.servers import LOAD_CORE, Bench, listening, peer_python, pinned
from tests.support.stack import free_address

_RUNS = 100
_IN_FLIGHT = 16
_SECONDS = 4.0
_TAG = "campaign-1"

# Where Debian has PostgreSQL; the embedded one has no pg_trgm, without which Prefect's schema fails.
_EXTENSIONS = Path("/usr/share/postgresql")
_BINARIES = Path("/usr/lib/postgresql")


def _binaries() -> Path | None:
    found = sorted(_EXTENSIONS.glob("*/extension/pg_trgm.control"))
    binaries = _BINARIES / found[-1].parts[-3] / "bin" if found else None
    return binaries if binaries is not None and (binaries / "initdb").exists() else None


@asynccontextmanager
async def _postgres(binaries: Path, bench: Bench) -> AsyncIterator[str]:
    """A PostgreSQL of its own, on the core where the other one is; answers its URL."""
    directory = tempfile.mkdtemp(prefix="prefect-postgres-", dir=bench.directory)
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    if user is not None:
        shutil.chown(directory, user)

    def run(program: str, *arguments: str) -> None:
        with pinned(LOAD_CORE):
            subprocess.run(
                [str(binaries / program), *arguments], check=True, user=user, cwd=directory,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip

    cluster = f"{directory}/data"
    run("initdb", "-D", cluster, "-U", "postgres", "--auth", "trust", "--no-sync")
    options = f"-h '' -k {directory} -c fsync=on"
    run("pg_ctl", "-w", "-D", cluster, "-o", options, "-l", f"{directory}/log", "start")
    try:
        yield f"postgresql+asyncpg://postgres@/postgres?host={directory}"
    finally:
        run("pg_ctl", "-w", "-D", cluster, "-m", "immediate", "stop")


@asynccontextmanager
async def prefect_server(bench: Bench) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """What answers how many filtered pages a second it serves. Raises Missing."""
    python = peer_python("prefect")
    binaries = _binaries()
    if binaries is None:
        bench.notes.append("Row 12: no PostgreSQL with pg_trgm here, so Prefect is on its own SQLite.")
        async with _started(python, bench, {}) as filtered:
            yield filtered
    else:
        async with (
            _postgres(binaries, bench) as url,
            _started(python, bench, {"PREFECT_API_DATABASE_CONNECTION_URL": url}) as filtered,
        ):
            yield filtered


@asynccontextmanager
async def _started(
    python: str, bench: Bench, environ: dict[str, str]
) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    address = free_address()
    host, _, port = address.rpartition(":")
    command = [python, "-m", "prefect", "server", "start", "--host", host, "--port", port, "--no-services"]
    directory = tempfile.mkdtemp(prefix="prefect-", dir=bench.directory)
    environ = {
        "PREFECT_HOME": directory,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        **environ,
    }
    async with listening(command, address, directory, **environ):
        await _fill(address)
        page = {"limit": 20, "sort": "EXPECTED_START_TIME_DESC", "flow_runs": {"tags": {"all_": [_TAG]}}}

        async def filtered() -> float:
            load = await http_load(
                address, "POST", "/api/flow_runs/filter", _IN_FLIGHT, body=json.dumps(page).encode(),
                containing=_TAG.encode(), seconds=_SECONDS,
            )  # fmt: skip
            return load.rate

        yield filtered


async def _fill(address: str) -> None:
    def create_flow() -> str:
        request = Request(
            f"http://{address}/api/flows/", b'{"name": "bench"}', {"content-type": "application/json"}
        )
        with urlopen(request) as answer:
            return str(json.load(answer)["id"])

    run = {
        "flow_id": await asyncio.to_thread(create_flow),
        "tags": [_TAG],
        "parameters": data.PAYLOAD,
        "state": {"type": "COMPLETED"},
    }
    await http_load(
        address, "POST", "/api/flow_runs/", _IN_FLIGHT, body=json.dumps(run).encode(), calls=_RUNS
    )
