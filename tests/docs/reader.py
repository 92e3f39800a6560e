"""Somebody who has a clone and follows the pages literally."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support import patience
from tests.support.stack import ROOT, free_address


class Reader:
    """Types what a page says, in a clone of their own, with their own ports."""

    def __init__(self, clone: Path, **environment: str) -> None:
        self.clone = clone
        self.environment = {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("RUNENGINE_", "MAKE", "COLUMNS"))
            },
            # As `pip install` leaves it; and where commands are found that are installed for good.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        }
        for entry in ROOT.iterdir():
            if not entry.name.startswith("."):
                (clone / entry.name).symlink_to(entry)
        (clone / ".venv").symlink_to(sys.prefix)

    def here(self, text: str) -> str:
        """What they type in place of it, because others have the usual ports."""
        for port, variable in (("50051", "GRPC"), ("8080", "REST")):
            address = self.environment.get(f"RUNENGINE_{variable}_ADDRESS", f"127.0.0.1:{port}")
            text = text.replace(f"127.0.0.1:{port}", address)
        # Not to be installed again because a file is newer.
        return text.replace("make run", "make -o .venv/installed run")

    async def types(self, *command: str, code: int = 0) -> str:
        """What comes of it, which has to end with this exit code."""
        process = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=STDOUT, cwd=self.clone, env=self.environment
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), patience.SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == code, out.decode()
        return out.decode()

    async def shell(self, text: str, code: int = 0) -> str:
        return await self.types("sh", "-ec", self.here(text), code=code)

    @asynccontextmanager
    async def running(self, text: str, until: str) -> AsyncIterator[None]:
        """What the shell starts goes on while the block runs; it is up once it has said `until`."""
        process = await asyncio.create_subprocess_exec(
            "sh", "-ec", self.here(text), stdout=PIPE, stderr=STDOUT, cwd=self.clone, env=self.environment,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = b""
        reading = None
        try:
            async with asyncio.timeout(patience.SECONDS):
                while until.encode() not in said:
                    line = await process.stdout.readline()
                    assert line, said.decode()
                    said += line
            reading = asyncio.create_task(process.stdout.read())  # so that nobody waits for room
            yield
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 15)
            await asyncio.wait_for(process.wait(), patience.SECONDS)
            if reading is not None:
                await reading


def with_ports_of_ones_own() -> dict[str, str]:
    return {"RUNENGINE_GRPC_ADDRESS": free_address(), "RUNENGINE_REST_ADDRESS": free_address()}
