"""Each client that somebody may call the gRPC server with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.callers import HAS_NODE, NODE, PROTOS, Agent, BufCurl, Caller

CLIENTS = ["grpc-js", "grpc-js, protobufjs 6", "connect", "Python, pure", "buf curl"]


async def generate_for_connect(directory: Path) -> Path:
    """What protoc-gen-es makes of the protos, where the packages that it imports are found."""
    (directory / "node_modules").symlink_to(NODE / "node_modules")
    files = [*PROTOS.glob("runengine/v1/*.proto"), *PROTOS.glob("vendor/*/*/*.proto")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}/vendor", f"-I{PROTOS}",
        f"--plugin={NODE}/node_modules/.bin/protoc-gen-es", f"--es_out={directory}",
        "--es_opt=target=js,import_extension=js", *map(str, files),
    )  # fmt: skip
    assert await process.wait() == 0
    (directory / "package.json").write_text('{"type": "module"}')
    return directory


@pytest.fixture(scope="session")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Caller]]:
    """Those that can be started here."""
    pure = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    agents = {"Python, pure": await Agent.start(sys.executable, "-m", "tests.clients.python_agent", **pure)}
    if HAS_NODE:
        generated = await generate_for_connect(tmp_path_factory.mktemp("generated"))
        grpc_js = "node", NODE / "grpc-js.mjs", PROTOS
        agents["grpc-js"] = await Agent.start(*grpc_js, "@grpc/proto-loader")
        agents["grpc-js, protobufjs 6"] = await Agent.start(*grpc_js, "proto-loader-6")
        agents["connect"] = await Agent.start("node", NODE / "connect.mjs", generated)
    yield {**agents, "buf curl": BufCurl()}
    await asyncio.gather(*(agent.stop() for agent in agents.values()))


@pytest.fixture(params=CLIENTS)
def caller(request: pytest.FixtureRequest, started: dict[str, Caller]) -> Caller:
    if request.param not in started:
        pytest.skip("needs Node, and `make node-packages`")
    return started[request.param]
