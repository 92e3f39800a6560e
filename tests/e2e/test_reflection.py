"""An engineer debugs the server with nothing but its address and a token."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from runengine_client import RunEngineClient

from tests.support.stack import Stack

BUF = Path(sys.executable).parent / "buf"


async def buf_curl(
    stack: Stack, token: str, method: str, request: str, *options: str
) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc",
        "--header", f"authorization: Bearer {token}", "--data", request, *options,
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


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
async def test_either_version_of_reflection_is_enough_for_buf_curl(stack: Stack, protocol: str) -> None:
    """And neither needs a token."""
    code, out, err = await buf_curl(
        stack, "", "grpc.health.v1.Health/Check", '{"service": "runengine.v1.RunService"}',
        "--reflect-protocol", protocol,
    )  # fmt: skip
    assert (code, json.loads(out)) == (0, {"status": "SERVING"}), err
