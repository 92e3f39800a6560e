"""Every target, command, option, setting and test that a page names is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from runengine_client.__main__ import app
from runengine_server.__main__ import cli
from runengine_server.settings import Settings

from tests.docs.pages import PAGES, commands, name
from tests.support.stack import ROOT

PROGRAMS = {"runengine": typer.main.get_command(app), "runengine-server": typer.main.get_command(cli)}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# Read by the client, by an example of a generated client, and by tests.
NOT_SETTINGS = {"TOKEN", "URL", "MUTANT"}

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


@every_page
def test_the_make_targets_of_a_page_are_there(page: Path) -> None:
    named = {target for text in commands(page) for target in re.findall(r"(?:^|\s)make ([a-z-]+)", text)}
    assert named <= TARGETS


@every_page
def test_the_settings_of_a_page_are_there(page: Path) -> None:
    named = set(re.findall(r"RUNENGINE_([A-Z_]*[A-Z])", page.read_text()))
    assert named - {field.upper() for field in Settings.model_fields} <= NOT_SETTINGS


def _calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """(program, its words) of each call in a line of shell."""
    for match in re.finditer(r"(?:^|\$\(|\.venv/bin/|[A-Z]=\S+ )(runengine(?:-server)?) ([^|;)#&>]+)", text):
        try:
            yield match[1], shlex.split(match[2])
        except ValueError:  # a quoted argument that goes on in the next line
            yield match[1], match[2].split("'")[0].split()


def _unknown(program: str, words: list[str]) -> str | None:
    """The first word of the call that the program does not know."""
    command: Any = PROGRAMS[program]
    known = {"--help", *_options(command)}
    for word in (word.strip("[]") for word in words):
        if word in getattr(command, "commands", ()):
            command = command.commands[word]
            known |= _options(command)
        elif word.startswith("--") and word not in known:
            return word
    # A group of commands does nothing by itself.
    return words[0] if hasattr(command, "commands") else None


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@every_page
def test_the_commands_of_a_page_are_there(page: Path) -> None:
    calls = [call for text in commands(page) for call in _calls(text)]
    assert [(program, words) for program, words in calls if _unknown(program, words)] == []


def _tests_of_the_table() -> list[Path]:
    """The modules and folders that the table of tests names, by the folder of the column and the word."""
    lines = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")]
    start = next(number for number, line in enumerate(lines) if line.startswith("| | `unit/`"))
    folders = re.findall(r"`(\w+)/`", lines[start])
    cells = [
        (folder, word)
        for line in lines[start + 1 :]
        for folder, cell in zip(folders, line.split("|")[2:-1], strict=True)
        for word in re.findall(r"`([\w/]+)`", cell)
    ]
    return [
        ROOT / "tests" / folder / (word if word.endswith("/") else f"test_{word}.py")
        for folder, word in cells
    ]


def test_the_table_of_tests_has_every_module_once() -> None:
    named = _tests_of_the_table()
    modules = [each for path in named for each in (path.glob("test_*.py") if path.is_dir() else [path])]
    there = [path for path in (ROOT / "tests").rglob("test_*.py") if ROOT / "tests/docs" not in path.parents]
    assert sorted(modules) == sorted(there)


def test_the_tests_that_a_page_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+(?:\.py|/))`", (ROOT / "CONTRIBUTING.md").read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert named


def test_the_name_of_a_test_begins_with_its_subject() -> None:
    """And not with what, it, when, or with a verb in the infinitive."""
    defined = re.compile(r"def (test_(?:what|whatever|who|whoever|it|its|when|where|how|if|to|is|has)_\w+)")
    modules = (ROOT / "tests").rglob("*.py")
    assert [name for path in modules for name in defined.findall(path.read_text())] == []
