"""Clients that others' generators make of the document, compiled, and two of them against the product."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.stack import ROOT, Stack

NODE = ROOT / "tests" / "node" / "openapi"
VENV = ROOT / ".venv-generators" / "bin"

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="needs Node, and `make node-packages`",
)
needs_python_client = pytest.mark.skipif(
    not (VENV / "openapi-python-client").exists(), reason="needs `make node-packages`"
)

TSC = ("--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable")
BUNDLER = ("--module", "esnext", "--moduleResolution", "bundler")


async def run(directory: Path, *command: str | Path, **environment: str) -> str:
    """What the command prints; it must exit with 0."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=directory,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A directory as a front-end developer has it: their code, and Node packages."""
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    for source in NODE.glob("*.ts"):
        shutil.copy(source, tmp_path)
    return tmp_path


def write_example(path: Path, beginning: str) -> Path:
    """The example in docs/clients.md that begins so."""
    text = (ROOT / "docs" / "clients.md").read_text("utf-8")
    (code,) = (
        each for each in re.findall(r"```\w+\n(.*?)```", text, re.DOTALL) if each.startswith(beginning)
    )
    path.write_text(code, "utf-8")
    return path


def document_url(stack: Stack) -> str:
    return f"http://{stack.rest_address}/openapi.json"


def assert_text(directory: Path) -> None:
    """Every generated file is text: UTF-8, without a control character but those of lines."""
    files = [path for path in directory.rglob("*") if path.suffix in (".ts", ".py")]
    assert files
    for path in files:
        unfit = {each for each in path.read_text("utf-8") if each < " " and each not in "\n\t"}
        assert unfit == set(), path


async def assert_bundle(rest: httpx.AsyncClient, told: str) -> None:
    """The bundle that a client has downloaded is the one that the gateway serves."""
    bundle = json.loads(told)
    served = await rest.get(f"/artifacts/{bundle['artifactId']}")
    assert served.content.startswith(b"PK")
    assert bytes.fromhex(bundle["bundle"]) == served.content


@needs_node
async def test_types_of_openapi_typescript_compile_and_are_what_one_expects(
    workshop: Path, stack: Stack
) -> None:
    binaries = workshop / "node_modules" / ".bin"
    await run(workshop, binaries / "openapi-typescript", document_url(stack), "-o", "schema.d.ts")
    example = write_example(workshop / "example.ts", "import createClient from")
    await run(workshop, binaries / "tsc", "--noEmit", *TSC, *BUNDLER, "types.ts", example)
    assert_text(workshop)


@needs_node
async def test_a_run_lives_through_the_client_of_hey_api(
    workshop: Path, stack: Stack, token: str, rest: httpx.AsyncClient
) -> None:
    binaries = workshop / "node_modules" / ".bin"
    await run(workshop, binaries / "openapi-ts", "-i", document_url(stack), "-o", "client")
    assert_text(workshop)
    example = write_example(workshop / "example.ts", "import { downloadArtifact")
    await run(workshop, binaries / "tsc", "--noEmit", *TSC, *BUNDLER, example)
    node = ("--module", "commonjs", "--moduleResolution", "node10", "--outDir", "built")
    await run(workshop, binaries / "tsc", *TSC, *node, "life.ts")
    told = await run(workshop, "node", "built/life.js", f"http://{stack.rest_address}", token)
    await assert_bundle(rest, told)


@needs_python_client
async def test_a_run_lives_through_the_client_of_openapi_python_client(
    tmp_path: Path, stack: Stack, token: str, rest: httpx.AsyncClient
) -> None:
    path = f"{VENV}:{os.environ['PATH']}"  # it formats with the ruff that it finds
    generate = (VENV / "openapi-python-client", "generate", "--url", document_url(stack))
    said = await run(tmp_path, *generate, "--output-path", "generated", "--fail-on-warning", PATH=path)
    assert "WARNING" not in said
    assert_text(tmp_path)
    life = shutil.copy(ROOT / "tests" / "clients" / "openapi_life.py", tmp_path)
    generated = str(tmp_path / "generated")
    example = write_example(tmp_path / "example.py", "import os\n\nfrom runengine_rest_client")
    strictly = ("-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "types")
    await run(tmp_path, sys.executable, *strictly, life, example, MYPYPATH=generated)
    url = f"http://{stack.rest_address}"
    told = await run(tmp_path, VENV / "python", life, url, token, PYTHONPATH=generated)
    await assert_bundle(rest, told)
    environment = {"PYTHONPATH": generated, "RUNENGINE_URL": url, "RUNENGINE_TOKEN": token}
    assert "workflow_name='campaign-bundle'" in await run(tmp_path, VENV / "python", example, **environment)
