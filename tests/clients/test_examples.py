"""The examples for gRPC in docs/clients.md run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest
from runengine_client import RunEngineClient

from tests.clients.callers import HAS_NODE, NODE, PROTOS
from tests.support.stack import ROOT, Stack

GRPC = (ROOT / "docs/clients.md").read_text().partition("\n## REST")[0]
BLOCKS = re.findall(r"```(python|js|sh)\n(?:// (\S+)\n)?(.*?)```", GRPC, re.DOTALL)
NEEDS_NODE = pytest.mark.skipif(not HAS_NODE, reason="needs Node, and `make node-packages`")
QUEUED = "RUN_STATUS_QUEUED { product: 'Kettle' }"


class Folder:
    """Where somebody tries the examples."""

    def __init__(self, directory: Path, stack: Stack, token: str) -> None:
        self.directory = directory
        self._address = stack.grpc_address
        self._environment = {**os.environ, "RUNENGINE_TOKEN": token}
        (directory / "protos").symlink_to(PROTOS)
        (directory / ".venv").symlink_to(sys.prefix)
        (directory / "node_modules").symlink_to(NODE / "node_modules")
        (directory / "package.json").write_text('{"type": "module"}')
        for language, name, text in BLOCKS:
            if language == "js":
                (directory / name).write_text(self._here(text))

    def _here(self, text: str) -> str:
        return text.replace("127.0.0.1:50051", self._address)

    async def run(self, *command: str, **environment: str) -> str:
        """What it says. It has to succeed."""
        process = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=STDOUT, cwd=self.directory, env={**self._environment, **environment}
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    async def shell(self, word: str) -> str:
        """What the one shell example with this word in it says."""
        (text,) = (text for language, _, text in BLOCKS if language == "sh" and word in text)
        return await self.run("sh", "-ec", self._here(text))

    async def python(self, **environment: str) -> str:
        (text,) = (text for language, _, text in BLOCKS if language == "python")
        return await self.run(sys.executable, "-W", "error", "-c", self._here(text), **environment)


@pytest.fixture
def folder(tmp_path: Path, stack: Stack, token: str) -> Folder:
    return Folder(tmp_path, stack, token)


@pytest.mark.parametrize("runtime", ["upb", "python"])
async def test_the_example_in_python_runs_on_either_runtime_of_protobuf(folder: Folder, runtime: str) -> None:
    out = await folder.python(PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=runtime)
    ended, refused = out.splitlines()
    assert " STEP_FAILED " in ended
    assert refused.startswith("[Violation(field='run_id', ")


@NEEDS_NODE
async def test_the_example_for_grpc_js_runs(folder: Folder, client: RunEngineClient) -> None:
    run = await client.wait((await client.trigger_run("large-bundle")).id)
    (step,) = await client.list_run_steps(run.id)
    out = await folder.run("node", "grpc-js.mjs", ARTIFACT_ID=step.output_artifact_ids[0])
    assert out.startswith(f"{QUEUED}\nRUN_STATUS_FAILED BriefError: ")
    assert "\nINVALID_ARGUMENT INVALID_ARGUMENT [\n  {\n    field: 'run_id',\n" in out
    assert out.endswith("\nlarge.bin application/octet-stream 256000\n256000\n")


@NEEDS_NODE
async def test_the_example_for_connect_runs(folder: Folder) -> None:
    assert await folder.shell("protoc-gen-es") == ""
    assert (await folder.run("node", "connect.mjs")).splitlines() == [
        "replayed: null",
        "QUEUED { product: 'Kettle' }",
        "InvalidArgument INVALID_ARGUMENT run_id undefined",
    ]


async def test_the_examples_for_buf_curl_run(folder: Folder) -> None:
    out = await folder.shell("TriggerRun")
    assert '"status": "RUN_STATUS_QUEUED"' in out
    assert '"product": "Kettle"' in out
    assert await folder.shell("Health/Check") == '{\n  "status": "SERVING"\n}\n'


@NEEDS_NODE
def test_structs_of_the_tests_are_made_as_the_examples_make_them() -> None:
    (shown,) = (text for language, name, text in BLOCKS if (language, name) == ("js", "struct.mjs"))
    assert (NODE / "struct.mjs").read_text().endswith(shown)
