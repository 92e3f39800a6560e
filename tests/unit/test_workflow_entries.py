"""What RUNENGINE_WORKFLOWS may list, and what is said of an entry that cannot be used."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from runengine_server.settings import SettingsError, read_settings
from runengine_server.worker.graph.entries import load_workflows
from runengine_server.worker.graph.load import Timeouts, Workflow

HEAD = """
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TypedDict
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    seen: str

def made(name="node"):
    graph = StateGraph(State)
    graph.add_node(name, lambda state: {"seen": name})
    graph.add_edge(START, name)
    return graph
"""

Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Writes files into the current directory, which is a directory of the test's own; those of Python begin
    with HEAD.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules, environment = set(sys.modules), dict(os.environ)

    def write(**files: Any) -> Path:
        for place, content in files.items():
            path = tmp_path / place.replace("__", "/").replace("_json", ".json")
            path = path if path.suffix else path.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content) if path.suffix == ".json" else HEAD + content)
        return tmp_path

    yield write
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    for name in set(os.environ) - environment.keys():
        del os.environ[name]


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def load(*entries: str, skip_unusable: bool = False) -> dict[str, Workflow]:
    async with AsyncExitStack() as opened:
        return await load_workflows(entries, Timeouts(), opened, skip_unusable=skip_unusable)


async def refusal(*entries: str) -> str:
    with pytest.raises(SettingsError) as refused:
        await load(*entries)
    said = str(refused.value)
    assert said.startswith("RUNENGINE_WORKFLOWS: ")
    assert "\n" not in said
    return said.removeprefix("RUNENGINE_WORKFLOWS: ")


def nodes(workflows: dict[str, Workflow]) -> dict[str, list[str]]:
    return {
        name: [each for each in found.graph.nodes if each != "__start__"] for name, found in workflows.items()
    }


FACTORIES = """
calls = []

def plain():
    calls.append("plain")
    return made("plain")

async def awaited():
    calls.append("awaited")
    return made("awaited").compile()

def with_defaults(size=3, *rest, **more):
    return made(f"size-{size}")

def configured(config: RunnableConfig):
    assert config["configurable"] == {}
    return made("configured")

def configured_by_any_name(settings: "RunnableConfig"):
    return made(f"limit-{settings['recursion_limit']}")

FACTORIES = (plain, awaited, with_defaults, configured, configured_by_any_name)
WORKFLOWS = {each.__name__: each for each in FACTORIES}
"""


async def test_a_function_that_returns_a_graph_is_called_once(project: Project) -> None:
    project(shop=FACTORIES)
    assert nodes(await load("shop:WORKFLOWS")) == {
        "plain": ["plain"],
        "awaited": ["awaited"],
        "with_defaults": ["size-3"],
        "configured": ["configured"],
        "configured_by_any_name": ["limit-25"],
    }
    assert sys.modules["shop"].calls == ["plain", "awaited"]


CONTEXT_MANAGERS = """
events = []

@asynccontextmanager
async def asynchronous():
    events.append("open asynchronous")
    yield made("one")
    events.append("close asynchronous")

@contextmanager
def synchronous():
    events.append("open synchronous")
    yield made("two").compile()
    events.append("close synchronous")

WORKFLOWS = {"asynchronous": asynchronous, "synchronous": synchronous}
"""


async def test_a_context_manager_stays_open_until_the_worker_ends(
    project: Project, opened: AsyncExitStack
) -> None:
    project(shop=CONTEXT_MANAGERS)
    workflows = await load_workflows(["shop:WORKFLOWS"], Timeouts(), opened)
    assert nodes(workflows) == {"asynchronous": ["one"], "synchronous": ["two"]}
    events = sys.modules["shop"].events
    assert events == ["open asynchronous", "open synchronous"]
    await opened.aclose()
    assert events[2:] == ["close synchronous", "close asynchronous"]


UNUSABLE = """
def fails():
    raise KeyError("OPENAI_API_KEY")

def wants(store, config):
    return made()

WORKFLOWS = {
    "fails": {"fails": fails},
    "returns_none": {"returns-none": lambda: None},
    "wants": {"wants": wants},
    "text": {"text": "made"},
    "empty": {"empty": StateGraph(State)},
    "name": {"": made()},
    "no_dict": made(),
    "twice": {"good": made()},
}
for name, each in WORKFLOWS.items():
    globals()[name] = each
GOOD = {"good": made()}
"""

WHAT_TO_GIVE = "it must be a StateGraph, compiled or not, an @entrypoint, or a function that returns one"
WHAT_TO_NAME = "must be a dict from name to a graph, or to a function that returns one"
REFUSALS = {
    "fails": "'fails' of shop:fails could not be made: its function raised KeyError: 'OPENAI_API_KEY'",
    "returns_none": f"'returns-none' of shop:returns_none is a NoneType; {WHAT_TO_GIVE}",
    "wants": "'wants' of shop:wants is a function that takes 'store'; "
    "one that makes a graph takes nothing, or a RunnableConfig as `config`",
    "text": f"'text' of shop:text is a str; {WHAT_TO_GIVE}",
    "name": f"shop:name {WHAT_TO_NAME}",
    "no_dict": f"shop:no_dict {WHAT_TO_NAME}",
    "twice": "the workflow 'good' is named twice",
}


@pytest.mark.parametrize("entry", REFUSALS)
async def test_an_entry_that_cannot_be_used_is_named_with_what_to_do(project: Project, entry: str) -> None:
    project(shop=UNUSABLE)
    assert await refusal("shop:GOOD", f"shop:{entry}") == REFUSALS[entry]


async def test_a_graph_that_does_not_compile_is_named(project: Project) -> None:
    project(shop=UNUSABLE)
    assert (await refusal("shop:empty")).startswith("'empty' does not compile: ")


async def test_entries_that_cannot_be_used_are_skipped_where_that_is_set(project: Project) -> None:
    project(shop=UNUSABLE)
    entries = ["shop:GOOD", *(f"shop:{each}" for each in REFUSALS), "no.such:WORKFLOWS"]
    with structlog.testing.capture_logs() as said:
        workflows = await load(*entries, skip_unusable=True)
    assert list(workflows) == ["good"]
    lines = [line["event"] for line in said if line["log_level"] == "error"]
    assert lines[:-1] == [
        f"RUNENGINE_WORKFLOWS: {each}; the worker goes on without it" for each in REFUSALS.values()
    ]
    assert "cannot import no.such:WORKFLOWS" in lines[-1]


async def test_a_worker_with_no_workflow_at_all_does_not_start(project: Project) -> None:
    project(shop=UNUSABLE)
    with pytest.raises(SettingsError, match="there is no workflow that can be used"):
        await load("shop:text", skip_unusable=True)


AGENT = """
from tools import TOOL
TONE = os.environ.get("SHOP_TONE")
graph = made(f"{TOOL}-{TONE}")
compiled = made("compiled").compile()

async def make_graph(config: RunnableConfig):
    return made("factory")
"""
DESCRIBED = {
    "dependencies": ["langchain_openai", ".", "./libs"],
    "graphs": {
        "graph": "./src/agent.py:graph",
        "compiled": {"path": "./src/agent.py:compiled", "description": "Compiled."},
        "factory": "src/agent.py:make_graph",
        "module": "src.agent:graph",
    },
    "env": {"SHOP_TONE": "bold"},
    "python_version": "3.12",
    "store": {"index": {}},
}


async def test_a_langgraph_json_gives_its_graphs_with_its_environment_and_its_directories(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(
        shop__langgraph_json=DESCRIBED, shop__src__agent=AGENT, shop__libs__tools="TOOL = 'kettle'\n"
    )
    with structlog.testing.capture_logs() as said:
        workflows = await load("shop/langgraph.json")
    assert nodes(workflows) == {
        "graph": ["kettle-bold"],
        "compiled": ["compiled"],
        "factory": ["factory"],
        "module": ["kettle-bold"],
    }
    assert [line["keys"] for line in said if "keys" in line] == [["store"]]
    assert {str(root / "shop"), str(root / "shop/libs")} <= set(sys.path)


async def test_the_environment_of_a_langgraph_json_may_be_a_file_and_replaces_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TONE", "plain")
    root = project(langgraph_json={**DESCRIBED, "env": ".env"}, src__agent=AGENT, libs__tools="")
    (root / "libs/tools.py").write_text("import os\nTOOL = os.environ['SHOP_TOOL']\n")
    (root / ".env").write_text("# the shop's\nSHOP_TOOL='kettle'\nSHOP_TONE=bold\n")
    assert nodes(await load(str(root / "langgraph.json")))["graph"] == ["kettle-plain"]


async def test_files_of_one_name_in_two_projects_are_two_modules(project: Project) -> None:
    described = {"graphs": {"one": "./agent.py:graph"}}
    project(
        one__langgraph_json=described,
        one__agent="graph = made('one')",
        two__langgraph_json={"graphs": {"two": "./agent.py:graph"}},
        two__agent="graph = made('two')",
    )
    assert nodes(await load("one/langgraph.json", "two/langgraph.json")) == {"one": ["one"], "two": ["two"]}


BAD_JSON: list[tuple[Any, str]] = [
    ([], "langgraph.json must have `graphs`, an object from name to ./file.py:attribute"),
    ({"graphs": {"a": 1}}, "'a' of langgraph.json must be ./file.py:attribute or module:attribute"),
    (
        {"graphs": {"a": "./agent.py"}},
        "'a' of langgraph.json must be ./file.py:attribute or module:attribute",
    ),
    (
        {"graphs": {"a": "./agent.ts:graph"}},
        "'a' of langgraph.json is ./agent.ts; only graphs in Python run here",
    ),
    ({"graphs": {"a": "./none.py:graph"}}, "'a' of langgraph.json cannot be imported (FileNotFoundError"),
    ({"graphs": {"a": "./agent.py:none"}}, "'a' of langgraph.json cannot be imported (AttributeError"),
    ({"graphs": {"a": "./agent.py:START"}}, "'a' of langgraph.json is a str; it must be a StateGraph"),
    ({"graphs": {}, "env": ".env"}, "langgraph.json names the file .env as its `env`, and there is none"),
    ({"graphs": {}, "env": 1}, "langgraph.json must have the path of a file or an object as its `env`"),
    (
        {"graphs": {}, "dependencies": ["./none"]},
        "langgraph.json names the directory ./none among its `dependencies`, and there is none",
    ),
    ({"graphs": {}, "dependencies": "."}, "langgraph.json must have a list of strings as its `dependencies`"),
]


@pytest.mark.parametrize(("described", "says"), BAD_JSON)
async def test_a_langgraph_json_that_cannot_be_followed_is_named(
    project: Project, described: Any, says: str
) -> None:
    project(langgraph_json=described, agent="graph = made()")
    assert (await refusal("langgraph.json")).startswith(says)


async def test_a_langgraph_json_that_cannot_be_read_is_named(project: Project) -> None:
    root = project()
    assert (await refusal("langgraph.json")).startswith("cannot read langgraph.json (FileNotFoundError")
    (root / "langgraph.json").write_text("{")
    assert (await refusal("langgraph.json")).startswith("cannot read langgraph.json (JSONDecodeError")


def test_the_setting_takes_attributes_and_paths_of_json_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNENGINE_WORKFLOWS", "shop.graphs:WORKFLOWS, ./my agents/langgraph.json")
    assert read_settings().workflows == ("shop.graphs:WORKFLOWS", "./my agents/langgraph.json")
    assert read_settings().skip_unusable_workflows is False
    monkeypatch.setenv("RUNENGINE_WORKFLOWS", "langgraph.yaml")
    with pytest.raises(SettingsError, match="must be module:attribute"):
        read_settings()
