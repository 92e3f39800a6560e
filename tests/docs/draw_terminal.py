"""Draws docs/pictures/terminal.svg: what `runengine watch` shows of a run while it goes, on a real server.

$ .venv/bin/python -m tests.docs.draw_terminal
"""

from __future__ import annotations

import asyncio
import io
import operator
import re
import signal
from typing import Annotated, Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, Send
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from runengine_client import RunEngineClient
from runengine_client.command import Session
from runengine_client.run_state import COMPLETED
from runengine_client.watching import WatchedRun
from runengine_server.auth import development

from tests.support.stack import ROOT, open_directory
from tests.support.up import Up

PICTURE = ROOT / "docs/pictures/terminal.svg"
WIDTH, HEIGHT = 84, 24
PAGES = 120


class State(TypedDict, total=False):
    pages: Annotated[list[int], operator.add]


class Page(TypedDict, total=False):
    number: int


async def _brief(state: State) -> State:
    await asyncio.sleep(0.4)
    return {}


_failed = False


async def _copy(state: State) -> State:
    global _failed
    if not _failed:
        _failed = True
        raise TimeoutError("The model did not answer.")
    get_stream_writer()("A kettle that boils water with nothing but sunshine,")
    await asyncio.sleep(0.5)
    get_stream_writer()("for campers who would rather not carry gas.")
    await asyncio.sleep(30)
    return {}


async def _colours(state: State) -> State:
    await asyncio.sleep(0.8)
    return {}


async def _render(state: Page) -> Page:
    await asyncio.sleep(0.4 + 1.6 * (state["number"] % 12) / 12)
    return {}


async def _check(state: Page) -> Page:
    await asyncio.sleep(0.2)
    return {}


def _pages(state: State) -> list[Send]:
    return [Send("pages", {"number": number}) for number in range(PAGES)]


def _graph() -> Any:
    page = StateGraph(Page)
    page.add_node("render", _render)
    page.add_node("check", _check)
    page.add_edge(START, "render")
    page.add_edge("render", "check")
    compiled = page.compile()

    async def _page(state: Page) -> State:
        await compiled.ainvoke(state)
        return {"pages": [state["number"]]}

    graph = StateGraph(State)
    graph.add_node("brief", _brief)
    retry = RetryPolicy(max_attempts=3, initial_interval=0.05, jitter=False, retry_on=TimeoutError)
    graph.add_node("copywriting", _copy, retry_policy=retry)
    graph.add_node("colours", _colours)
    graph.add_node("pages", _page)
    for name in ("approve", "publish"):
        graph.add_node(name, _brief)
    graph.add_edge(START, "brief")
    graph.add_edge("brief", "copywriting")
    graph.add_edge("brief", "colours")
    graph.add_conditional_edges("brief", _pages, ["pages"])
    graph.add_edge(["copywriting", "colours", "pages"], "approve")
    graph.add_edge("approve", "publish")
    return graph


WORKFLOWS = {"shop-window": _graph()}


async def main() -> None:
    """Starts everything, triggers a run, and draws it when half of its pages are there."""
    with open_directory() as directory:
        state_dir = directory / "state"
        up = Up(state_dir, WORKFLOWS="tests.docs.draw_terminal:WORKFLOWS")
        up.cwd = ROOT
        await up.start()
        try:
            await up.greeting()
            token = development.sign(state_dir, "org_demo", "user_demo", 600)
            async with RunEngineClient(up.grpc_address, token) as client:
                lines = await _half_way(client)
        finally:
            await up.end(signal.SIGTERM)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(_svg(lines))


async def _half_way(client: RunEngineClient) -> list[Text]:
    run = await client.trigger_run("shop-window")
    console = Console(file=io.StringIO())
    watched = WatchedRun(Session(client, False, console, console))
    async for message in client.watch_run(run.id):
        await watched.add(message)
        nodes = watched.state.nodes() if watched.state else []
        if sum(node.counts[COMPLETED] for node in nodes if node.name == "pages") >= PAGES // 2:
            break
    prompt = Text.assemble(("$ ", "dim"), f"runengine watch {run.id}")
    return [prompt, Text(), *watched.lines(WIDTH, HEIGHT)]


def _svg(lines: list[Text]) -> str:
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for line in lines:
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title="", theme=MONOKAI, unique_id="terminal")
    # The font that rich asks for would come from another host.
    return re.sub(r"\s*(@font-face \{.*?\}|<!--.*?-->)", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    asyncio.run(main())
