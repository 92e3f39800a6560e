"""The pages of the documentation, taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.stack import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """What stands between two fences; `language` is empty where none is named."""

    language: str
    text: str


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str | None = None) -> list[Block]:
    found = [Block(*match.groups()) for match in _FENCE.finditer(page.read_text())]
    return [block for block in found if language in (None, block.language)]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text())


def commands(page: Path) -> list[str]:
    """Whatever a reader may type: inline code, lines of shell, and lines after a prompt."""
    found = re.findall(r"`([^`\n]+)`", prose(page))
    for language, text in blocks(page):
        lines = text.replace("\\\n", " ").splitlines()
        found += lines if language == "sh" else [line[2:] for line in lines if line.startswith("$ ")]
    return found


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below the heading, without those of its head."""
    _, _, below = f"\n{page.read_text()}".partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table, f"no table below {heading!r} in {name(page)}"
    lines = table[0].splitlines()[2:]
    return [
        [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]


def code(cell: str) -> list[str]:
    """All that the cell has in backticks."""
    return re.findall("`([^`]+)`", cell)
