"""Judges whether the tests of a guard fail when it is taken out."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.support import patience
from tests.support.stack import MUTANT, ROOT

# A net under what hangs for good: no verdict comes from it.
_SECONDS = 1800
# Of a line in pytest's summary. What is waited for in vain, or cannot be set up, tells nothing of a guard.
_ASSERTION = re.compile(r" - (assert |AssertionError|Failed: DID NOT RAISE)")


@dataclass(frozen=True)
class Mutant:
    """A guard taken out, and the tests that have to fail then, each of them by an assertion of its own."""

    name: str
    apply: Callable[[], None]
    tests: tuple[str, ...]


def mutant_of(name: str, apply: Callable[[], None], *tests: str) -> Mutant:
    """Its tests are named from `tests/` on."""
    return Mutant(name, apply, tuple(f"tests/{test}" for test in tests))


def run_pytest(tests: Iterable[str], mutant: str | None) -> subprocess.CompletedProcess[str]:
    """Raises subprocess.TimeoutExpired."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNENGINE_")}
    if mutant is not None:
        environment[MUTANT] = mutant
        environment[patience.VARIABLE] = "30"  # what a test waits for may never come
    environment["COLUMNS"] = "300"  # room for the reasons in pytest's summary
    at_once = "2" if mutant is None else "0"
    command = [sys.executable, "-m", "pytest", "-x", "-n", at_once, "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
    )


def judge(mutant: Mutant) -> tuple[str, list[str]]:
    """("killed", by which tests and why), or ("SURVIVED" or "BROKEN", what pytest said)."""
    killers = []
    for test in mutant.tests:
        try:
            done = run_pytest([test], mutant.name)
        except subprocess.TimeoutExpired:
            return "BROKEN", [f"{test} has no end"]
        if done.returncode == 0:
            return "SURVIVED", [test]
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
        if done.returncode != 1 or not failed or not _ASSERTION.search(failed[0]):
            return "BROKEN", [test, (done.stdout + done.stderr)[-2000:]]
        killers.append(failed[0].partition("::")[2])
    return "killed", killers


def missing(tests: Iterable[str]) -> list[str]:
    """Those that name a file or a function that does not exist."""
    return [test for test in tests if test.partition("[")[0].partition("::")[2] not in _functions_of(test)]


def _functions_of(test: str) -> set[str]:
    path = ROOT / test.partition("::")[0]
    body = ast.parse(path.read_text()).body if path.is_file() else []
    return {each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
