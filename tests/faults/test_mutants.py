"""The table of mutants, judged without taking anything out."""

from __future__ import annotations

from tests.faults.judging import missing
from tests.faults.mutants import MUTANTS


def test_every_mutant_has_a_name_of_its_own_and_tests_that_are_there() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.tests for mutant in MUTANTS)
    assert missing(test for mutant in MUTANTS for test in mutant.tests) == []


def test_a_test_that_is_not_there_is_missing() -> None:
    gone = ["tests/nowhere.py::test_a", "tests/faults/test_mutants.py::test_b[18]"]
    assert missing(["tests/faults/test_mutants.py::test_a_test_that_is_not_there_is_missing", *gone]) == gone
