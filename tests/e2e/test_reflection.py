"""An engineer debugs the server with nothing but its address and a token."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from runengine_client import RunEngineClient

from tests.stack import Stack

BUF = Path(sys.executable).parent / "buf"


async def buf_curl(stack: Stack, token: str, method: str, request: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc",
        "--header", f"authorization: Bearer {token}", "--data", request,
        f"http://{stack.grpc_address}/{method}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=stack.state_dir,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_server_describes_itself_to_buf_curl(
    stack: Stack, token: str, client: RunEngineClient
) -> None:
    code, out, err = await buf_curl(
        stack, token, "runengine.v1.RunService/TriggerRun", '{"workflow_name": "bundling"}'
    )
    assert code == 0, err
    run = json.loads(out)["run"]
    assert (await client.wait(run["id"])).workflow_name == "bundling"

    code, _, err = await buf_curl(stack, token, "runengine.v1.RunService/GetRun", '{"run_id": "x"}')
    assert code != 0
    assert json.loads(err)["code"] == "invalid_argument"
