"""Everything on one machine, as one command starts it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.patience import SECONDS
from tests.support.stack import free_address


class Up:
    """One `runengine-server up`, or `dev`, in a state directory."""

    # Where it is started, unless in the current directory.
    cwd: Path | None = None

    def __init__(self, state_dir: Path, command: str = "up", **settings: str) -> None:
        self.state_dir = state_dir
        self._command = command
        self.grpc_address = settings.setdefault("GRPC_ADDRESS", free_address())
        settings.setdefault("REST_ADDRESS", free_address())
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RUNENGINE_")}
        self._environment = {**inherited, "RUNENGINE_STATE_DIR": str(state_dir)}
        self._environment |= {f"RUNENGINE_{key}": value for key, value in settings.items()}

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runengine_server", self._command,
            env=self._environment, cwd=self.cwd,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def greeting(self) -> str:
        assert self.process.stdout is not None
        try:
            greeting = await asyncio.wait_for(self.process.stdout.readuntil(b"Ctrl-C"), SECONDS)
        except asyncio.IncompleteReadError:
            _, said = await self.process.communicate()
            raise AssertionError(said.decode()) from None
        return greeting.decode()

    async def end(self, number: int) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), SECONDS)

    async def refusal(self) -> str:
        """The one line with which it gives up."""
        await self.start()
        out, err = await asyncio.wait_for(self.process.communicate(), SECONDS)
        assert self.process.returncode not in (0, None)
        assert out == b""
        assert err.count(b"\n") == 1, err.decode()
        return err.decode()

    def processes(self) -> list[str]:
        """The command lines of all that runs with, or in, the state directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
                    environment = (entry / "environ").read_text(errors="replace")
                except OSError:
                    continue
                if str(self.state_dir) in command or f"RUNENGINE_STATE_DIR={self.state_dir}" in environment:
                    found.append(command)
        return found


@asynccontextmanager
async def running(up: Up) -> AsyncIterator[str]:
    await up.start()
    try:
        yield await up.greeting()
    finally:
        if up.process.returncode is None:
            await up.end(signal.SIGTERM)
