"""Whoever follows the pages and the examples literally gets what they promise."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from runengine_server.processes.embedded_postgres import EmbeddedPostgres

from tests.docs.pages import blocks
from tests.docs.reader import Reader, with_ports_of_ones_own
from tests.support.stack import ROOT, Stack, readable_by_all

README, WORKFLOWS = ROOT / "README.md", ROOT / "docs/workflows.md"
DEPLOY, GRPC = ROOT / "docs/deploy.md", ROOT / "docs/reference/grpc.md"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"


@pytest.fixture
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clone")


@pytest.fixture(scope="session")
async def shop(stack: Stack) -> AsyncIterator[None]:
    """A worker for the examples' workflow."""
    (worker,) = await stack.start("worker", WORKFLOWS="examples.shop:WORKFLOWS")
    yield
    await worker.stop()


@pytest.fixture
def reader(clone: Path, stack: Stack, token: str, shop: None) -> Reader:
    return Reader(
        clone,
        RUNENGINE_GRPC_ADDRESS=stack.grpc_address,
        RUNENGINE_REST_ADDRESS=stack.rest_address,
        RUNENGINE_URL=f"http://{stack.rest_address}",
        RUNENGINE_TOKEN=token,
    )


async def test_the_front_page_leads_from_a_clone_to_a_result(clone: Path) -> None:
    reader = Reader(clone, **with_ports_of_ones_own())
    graph, program = (block.text for block in blocks(README, "python"))
    (clone / "greet.py").write_text(graph)
    shell = [block.text for block in blocks(README, "sh")]
    (sample, with_own) = (text for text in shell if "make run" in text)
    assert sample == "make run\n"
    typed = "".join(text for text in shell if "make run" not in text)
    async with reader.running(with_own, until="Ctrl-C"):
        out = await reader.shell(f"{typed}\necho; echo $RUNENGINE_TOKEN")
        assert out.count("✓ completed") >= 3  # the sample, the own graph, and its step
        assert "copywriting" in out
        assert re.search(r"CLAIMED", out)
        reader.environment["RUNENGINE_TOKEN"] = out.splitlines()[-1]
        said = await reader.types(sys.executable, "-W", "error", "-c", reader.here(program))
        assert re.fullmatch(r"(RUN_STATUS_\w+ \d+\n)*RUN_STATUS_COMPLETED \d+\n", said)


async def test_the_page_on_workflows_runs_the_example(clone: Path) -> None:
    reader = Reader(clone, **with_ports_of_ones_own())
    run, trigger = (block.text for block in blocks(WORKFLOWS, "sh"))
    async with reader.running(run, until="Ctrl-C"):
        token = (await reader.shell("runengine-server token --org org_demo")).strip()
        reader.environment["RUNENGINE_TOKEN"] = token
        assert "✓ completed" in await reader.shell(trigger)


async def test_the_tests_of_the_page_on_workflows_pass(clone: Path) -> None:
    reader = Reader(clone)
    examples = [block.text for block in blocks(WORKFLOWS, "python") if "runengine.testing" in block.text]
    for number, example in enumerate(examples):
        (clone / f"test_example_{number}.py").write_text(example)
    files = [f"test_example_{number}.py" for number in range(len(examples))]
    out = await reader.types(
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "/dev/null",
        "-p",
        "no:asyncio",
        "-W",
        "error",
        "-n",
        "2",
        *files,
    )
    assert " 3 passed" in out


async def test_the_client_of_the_examples_follows_a_run_and_saves_its_bundle(reader: Reader) -> None:
    order = '{"item": "kettle"}'
    out = await reader.types(sys.executable, "-W", "error", "examples/follow.py", "praise-order", order)
    assert "  praise completed\n" in out
    assert "  print-label completed\ncompleted \nsaved label.txt 39 bytes\n" in out
    assert (reader.clone / "label.txt").read_text() == "To: the kettle fan\nWhat a fine kettle!\n"


async def test_the_client_of_the_examples_says_what_is_refused(reader: Reader) -> None:
    out = await reader.types(sys.executable, "examples/follow.py", "prase-order", code=1)
    assert out.splitlines()[-1].startswith("INVALID_ARGUMENT: workflow_name: ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_walk_through_rest_arrives_at_the_bundle(reader: Reader) -> None:
    out = await reader.types("sh", "examples/walk.sh", "praise-order", '{"item": "kettle"}')
    assert "\nstatus completed\n" in out
    assert "\nfailed runs of the campaign 0\n" in out
    assert "\na retry of a completed run RUN_NOT_RETRYABLE\n" in out
    assert out.endswith("\nTo: the kettle fan\nWhat a fine kettle!\n")


async def test_the_example_of_the_grpc_reference_runs(reader: Reader) -> None:
    (example,) = blocks(GRPC, "sh")
    (shown,) = blocks(GRPC, "json")
    assert await reader.shell(example.text) == shown.text


def _transcripts() -> list[tuple[str, str]]:
    """(command, what it says) of each prompt of the page that needs no more than is there."""
    found = []
    for block in blocks(TROUBLESHOOTING, "console"):
        for typed in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, said = typed.partition("\n")
            # A server without its database, and a worker that goes on, are not for these.
            if not command.startswith(("curl", "runengine-server worker")):
                found.append((command, said))
    return found


TRANSCRIPTS = _transcripts()


@pytest.mark.parametrize(("command", "said"), TRANSCRIPTS, ids=[command for command, _ in TRANSCRIPTS])
async def test_trouble_looks_as_the_page_shows_it(reader: Reader, command: str, said: str) -> None:
    (reader.clone / "mine.py").write_text(
        "from examples.shop import graph\n\ndef make():\n    graph.compile()\n\nWORKFLOWS = {'mine': make}\n"
    )
    expected = ".*".join(re.escape(part) for part in said.split("…\n"))
    out = await reader.types("sh", "-c", f"{command} 2>&1; true")
    shown = re.sub(" +$", "", out, flags=re.MULTILINE)
    assert re.fullmatch(expected, shown, re.DOTALL), shown


@pytest.mark.skipif(shutil.which("psql") is None, reason="needs psql")
async def test_the_page_on_deploying_leads_to_a_server_that_is_ready(clone: Path) -> None:
    directory = clone / "postgres"
    directory.mkdir()
    readable_by_all(directory)
    postgres = EmbeddedPostgres(directory)
    _, url = await postgres.start()
    host = url.partition("?host=")[2]
    reader = Reader(
        clone, PGHOST=host.replace("%2F", "/"), PGUSER="postgres", PGDATABASE="postgres",
        RUNENGINE_STATE_DIR=str(clone / "state"), **with_ports_of_ones_own(),
    )  # fmt: skip
    try:
        roles, migrate, *processes = (
            block.text.replace("@db/runengine", f"@/deployed?host={host}").replace(
                "runengine OWNER", "deployed OWNER"
            )
            for block in blocks(DEPLOY, "sh")
        )
        await reader.shell(roles)
        await reader.shell(migrate)
        exported = migrate.splitlines()[0]
        address = reader.environment["RUNENGINE_REST_ADDRESS"]
        serve, worker = (f"{exported}\n{text}".replace("0.0.0.0:8080", address) for text in processes)
        async with (
            reader.running(serve, until='"serving gRPC and REST"'),
            reader.running(worker, until='"working"'),
            httpx.AsyncClient() as client,
        ):
            assert (await client.get(f"http://{address}/readyz")).status_code == 200
    finally:
        postgres.stop()
