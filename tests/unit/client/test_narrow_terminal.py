"""At 60 columns `runengine` cuts no id and breaks no word, whichever command it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from runengine_client.__main__ import app

from tests.support.answering_server import serving
from tests.support.client_command import (
    CAMPAIGN,
    COMPLETED,
    FAILED,
    QUEUED,
    WAITING,
    Command,
    Engine,
    uuid,
)

NARROW, WIDE = 60, 250
SHOWN = [
    ["trigger", "campaign-bundle"],
    ["get", FAILED.id],
    ["get", WAITING.id],
    ["steps", FAILED.id],
    ["step-data", COMPLETED.id, "render_bundle"],
    ["events", FAILED.id],
    ["logs", FAILED.id],
    ["output", "shown"],
    ["runs"],
    ["list", uuid(12)],
    ["workflows"],
    ["workflows", "campaign-bundle"],
    ["retry", FAILED.id, QUEUED.id],
    ["cancel", FAILED.id, QUEUED.id],
    ["resume", WAITING.id, "--value", "null"],
    ["artifacts", uuid(2)],
    ["download", uuid(31), "-o", "there"],
    ["campaign", "get", uuid(12)],
    ["campaign", "create"],
    ["get", "0"],
    ["trigger", "unknown"],
]


@pytest.fixture
async def runengine(tmp_path: Path) -> AsyncIterator[Command]:
    async with serving(Engine()) as address:
        yield Command(address, tmp_path)


def words(text: str) -> set[str]:
    return {word for word in text.split() if not set(word) <= set("─")}


def names_of(command: Any, *before: str) -> Iterator[list[str]]:
    yield [*before]
    for name, each in getattr(command, "commands", {}).items():
        yield from names_of(each, *before, name)


def headers(text: str) -> set[str]:
    """The words above the line of a table, which the narrow form may do without."""
    lines = text.splitlines()
    return {word for at, line in enumerate(lines) if "──" in line for word in lines[at - 1].split()}


@pytest.mark.parametrize("arguments", SHOWN, ids=" ".join)
async def test_no_id_is_cut_and_no_word_broken(runengine: Command, arguments: list[str]) -> None:
    narrow, wide = await asyncio.gather(
        *(runengine(*arguments, COLUMNS=str(columns)) for columns in (NARROW, WIDE))
    )
    assert narrow.code == wide.code
    missing = words(wide.out + wide.err) - words(narrow.out + narrow.err) - headers(wide.out)
    assert missing <= {"yes", "no", "0", "→"}
    longest = [line for line in (narrow.out + narrow.err).splitlines() if len(line) > NARROW]
    assert all(CAMPAIGN.bundle_url in line for line in longest)


@pytest.mark.parametrize("command", list(names_of(typer.main.get_command(app))), ids=" ".join)
def test_the_help_of_each_command_is_whole(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for columns in (NARROW, WIDE):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit, match=r"^0$"):
            app([*command, "--help"], prog_name="runengine")
        texts.append(capsys.readouterr().out)
    narrow, wide = texts
    assert narrow != wide
    assert words(narrow) == words(wide)
    assert "…" not in narrow
    assert "..." not in narrow.partition("\n\n")[2]
    assert max(map(len, narrow.splitlines())) <= NARROW
