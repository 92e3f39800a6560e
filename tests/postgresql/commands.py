"""The product's commands that refuse to start."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from runengine_server.auth import development

from tests.support.patience import SECONDS
from tests.support.stack import environment, free_address


async def refusal(command: str, state_dir: Path, **settings: str) -> str:
    """The one line that it ends with."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runengine_server", command,
        env=environment(
            STATE_DIR=str(state_dir),
            GRPC_ADDRESS=free_address(),
            CLERK_ISSUER=development.ISSUER,
            CLERK_JWT_KEY=development.public_pem(state_dir),
            **settings,
        ),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    (line,) = said.decode().splitlines()
    return line.removeprefix("runengine-server: ")
