"""`runengine-server dev`: the worker follows the files of the workflows, and no run is lost over it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from runengine.v1.run_pb2 import Run
from runengine_client import RunEngineClient
from runengine_server.auth import development

from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.up import Up

SHOP = """
import asyncio
from typing import TypedDict

from langgraph.graph import START, StateGraph

from helper.words import WORD


class State(TypedDict, total=False):
    gate: str
    firsts: int
    said: str


def first(state: State) -> State:
    return {"firsts": state.get("firsts", 0) + 1}


async def second(state: State) -> State:
    if "gate" in state:
        reader, writer = await asyncio.open_unix_connection(state["gate"])
        writer.write(b"second\\n")
        await reader.readline()
        writer.close()
    return {"said": WORD}


graph = StateGraph(State).add_sequence([first, second])
graph.add_edge(START, "first")
WORKFLOWS = {"shop": graph}
"""
RELOADED = "the workflows were reloaded"


class Dev:
    """A `runengine-server dev` in the directory of a workflow, and what it says on stderr."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.words = directory / "helper" / "words.py"
        self.words.parent.mkdir()
        (directory / "shop.py").write_text(SHOP)
        (directory / "langgraph.json").write_text(json.dumps({"graphs": {"by-file": "./shop.py:graph"}}))
        self.up = Up(directory / "state", "dev", WORKFLOWS="shop:WORKFLOWS,langgraph.json", DRAIN_SECONDS="0")
        self.up.cwd = directory
        self.said: list[str] = []
        self._has_said = asyncio.Event()

    async def start(self) -> str:
        await self.up.start()
        self._reading = asyncio.create_task(self._read())
        return await self.up.greeting()

    async def _read(self) -> None:
        assert self.up.process.stderr is not None
        while line := await self.up.process.stderr.readline():
            self.said.append(line.decode())
            self._has_said.set()

    async def says(self, words: str, after: int = 0) -> str:
        """The first line with the words, of those after so many."""
        async with asyncio.timeout(SECONDS):
            while not (found := [line for line in self.said[after:] if words in line]):
                self._has_said.clear()
                await self._has_said.wait()
        return found[0]

    async def change(self, path: Path, text: str, says: str = RELOADED) -> str:
        after = len(self.said)
        await asyncio.to_thread(path.write_text, text)
        return await self.says(says, after)

    def client(self) -> RunEngineClient:
        token = development.sign(self.up.state_dir, "org_dev", "user", 3600)
        return RunEngineClient(self.up.grpc_address, token)

    async def trigger(self, **payload: Any) -> Run:
        async with self.client() as client:
            return await client.trigger_run("shop", trigger_payload=payload)

    async def output_of(self, run: Run) -> Any:
        async with self.client() as client:
            await client.wait(run.id, timeout_seconds=SECONDS)
            return (await client.get_run_output(run.id)).value

    async def says_now(self) -> Any:
        return (await self.output_of(await self.trigger()))["said"]


@asynccontextmanager
async def developing(directory: Path, words: str) -> AsyncIterator[Dev]:
    dev = Dev(directory)
    dev.words.write_text(words)
    try:
        greeting = await dev.start()
        assert f"Reloaded when a .py file changes in  {directory}\n" in greeting
        yield dev
    finally:
        assert await dev.up.end(signal.SIGINT) == 0
        assert dev.up.processes() == []
        shutil.rmtree(directory / "state")


@pytest.fixture(scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    async with developing(tmp_path_factory.mktemp("dev"), "WORD = 'begin'") as dev:
        yield dev


async def test_a_run_that_is_under_way_goes_on_in_the_new_worker(dev: Dev, gates: Gates) -> None:
    run = await dev.trigger(gate=gates.path)
    before = await gates.next()
    line = json.loads(await dev.change(dev.words, "WORD = 'changed'"))
    assert (line["changed"], line["level"]) == (["helper/words.py"], "info")
    await asyncio.wait_for(before.left.wait(), SECONDS)
    (await gates.next()).open()
    assert await dev.output_of(run) == {"gate": gates.path, "firsts": 1, "said": "changed"}
    async with dev.client() as client:
        steps = await client.list_run_steps(run.id)
        assert (await client.get_run(run.id)).attempt == 1
    assert [(step.step_id, step.attempt) for step in steps] == [("first", 1), ("second", 2)]


async def test_a_file_that_is_wrong_stops_nothing_and_one_line_says_why(dev: Dev) -> None:
    await dev.change(dev.words, "WORD = 'right'")
    after = len(dev.said)
    line = await dev.change(dev.words, "WORD = (", "SyntaxError")
    assert line.startswith("runengine-server: RUNENGINE_WORKFLOWS: cannot import shop:WORKFLOWS (SyntaxError")
    assert await dev.says_now() == "right"
    others = [each for each in dev.said[after:] if each != line and '"run completed"' not in each]
    assert others == [], "".join(dev.said[after:])
    assert dev.said[after:].count(line) == 1
    await dev.change(dev.words, "WORD = 'mended'")
    assert await dev.says_now() == "mended"


async def test_a_langgraph_json_and_a_new_directory_are_followed(dev: Dev) -> None:
    file = dev.directory / "langgraph.json"
    graphs = {"graphs": {"by-file": "./shop.py:graph", "renamed": "./shop.py:graph"}}
    line = json.loads(await dev.change(file, json.dumps(graphs)))
    assert line["changed"] == ["langgraph.json"]
    async with dev.client() as client:
        run = await client.trigger_run("renamed", trigger_payload={})
    assert (await dev.output_of(run))["firsts"] == 1
    after = len(dev.said)
    (dev.directory / "fresh").mkdir()
    await dev.says("fresh", after)
    line = json.loads(await dev.change(dev.directory / "fresh" / "more.py", "MORE = 1"))
    assert line["changed"] == ["fresh/more.py"]


async def test_a_start_with_a_wrong_file_waits_until_it_is_mended(tmp_path: Path) -> None:
    async with developing(tmp_path, "WORD = )") as dev:
        assert "unmatched ')'" in dev.said[0]
        await dev.change(dev.words, "WORD = 'mended'")
        assert await dev.says_now() == "mended"
