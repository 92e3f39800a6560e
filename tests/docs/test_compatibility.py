"""The page on compatibility has a row for each kind of difference, and for all that is left out."""

from __future__ import annotations

import re

from tests.compat import explained
from tests.support.stack import ROOT

PAGE = (ROOT / "docs/compatibility.md").read_text()


def _rows(heading: str) -> list[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)


def test_each_kind_of_difference_has_a_row() -> None:
    kinds = [each.kind for each in explained.EXPLANATIONS]
    assert sorted(_rows("What differs")) == sorted([*kinds, explained.NOT_THE_SAME_TWICE])


def test_each_reason_to_leave_a_call_out_has_a_row() -> None:
    assert sorted(_rows("What is left out")) == sorted(explained.LEFT_OUT)
