"""What CONTRIBUTING promises of files: their length, that of functions, which way imports go, their words."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.previous_version import SOURCE_ROOTS
from tests.support.stack import ROOT

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60


def files(*suffixes: str, roots: tuple[str, ...] = SOURCE_ROOTS) -> list[Path]:
    """Those that people write: not what is generated from the protos, nor the protos of others."""
    found = [path for root in roots for path in (ROOT / root).rglob("*") if path.suffix in suffixes]
    vendor = ROOT / "protos" / "vendor"
    return sorted(path for path in found if "_pb2" not in path.name and vendor not in path.parents)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_too_long() -> None:
    lengths = {
        name_of(path): len(path.read_text().splitlines()) for path in files(".py", ".sql", ".proto", ".css")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE} == {}


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All its lines, except that a text, whether it describes it or is what it fills in, is one."""
    assert function.end_lineno is not None
    texts: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        ):
            assert node.end_lineno is not None
            texts.update(range(node.lineno + 1, node.end_lineno + 1))
    return function.end_lineno - function.lineno + 1 - len(texts)


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{name_of(path)}: {node.name}": lines_of_code(node)
        for path in files(".py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


@cache
def modules() -> dict[str, Path]:
    """Each module of ours by its name."""
    found = {}
    for root in SOURCE_ROOTS:
        for path in files(".py", roots=(root,)):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_by(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports anywhere, also within a function."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            # A module of the package, or a name of the module.
            names = [f"{node.module}.{each.name}" for each in node.names]
            names = [name if name in modules() else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name in modules())


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: set(imported_by(path)) for name, path in modules().items()}
    assert "runengine_server.rpc.run_servicer" in graph["runengine_server.rpc.server"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def names_in(path: Path) -> str:
    """What a file says outside of its comments and texts."""
    text = path.read_text()
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        return " ".join(token.string for token in tokens if token.type == tokenize.NAME)
    return re.sub(r"(--|//).*", "", text)


def test_each_word_of_the_glossary_names_something_in_the_code() -> None:
    rows = re.findall(r"^\| ([a-z -]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    words = [row for row in rows if row != "word"]
    assert "epoch" in words
    names = "\n".join(map(names_in, files(".py", ".sql", ".proto", roots=(*SOURCE_ROOTS, "tests")))).lower()
    patterns = {word: re.sub("[ -]", "[_ ]?", word) for word in words}
    assert [word for word, pattern in patterns.items() if not re.search(pattern, names)] == []
