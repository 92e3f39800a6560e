"""What came of all tests, in figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tests.compat import explained
from tests.compat.outcomes import Difference, differences, outcome_of
from tests.compat.playing import Played
from tests.compat.plugin import Judged
from tests.compat.recording import RUNS, Call

MIN_GRAPHS = 100
_MAX_WORDS = 600

# A graph: the test that makes it, whatever its parameters, and its number among those of the test.
Graph = tuple[str, int]


class Report:
    """Takes each test as it has been judged; `on_file` is told of each file of tests."""

    def __init__(self, on_file: Callable[[str], None] = lambda _: None) -> None:
        self.unread: list[str] = []
        self._on_file, self._file = on_file, ""
        self._tests = self._tests_with_graphs = self._calls = self._own_failures = 0
        self._compared: set[Graph] = set()
        self._shapes: set[Any] = set()
        self._explained: dict[str, set[Graph]] = defaultdict(set)
        self._left_out: dict[str, list[Graph]] = defaultdict(list)
        self._unexplained: list[str] = []

    @property
    def exit_code(self) -> int:
        return 1 if self._unexplained or len(self._shapes) < MIN_GRAPHS else 0

    def add(self, judged: Judged) -> None:
        """Counts what was played of a test."""
        if (file := judged.name.partition("::")[0]) != self._file:
            self._file = file
            self._on_file(file)
        self._tests += 1
        self._tests_with_graphs += bool(judged.calls)
        name = judged.name.partition("[")[0]
        for played in judged.played:
            graph = name, played.graph_number
            if played.left_out is not None:
                self._left_out[played.left_out].append(graph)
                continue
            self._calls += 1
            self._compared.add(graph)
            self._shapes.add(_shape(judged.calls[played.call].graph))
            for each in played.differences:
                self._judge(judged, played, each, graph)
        not_reached = {i for i, call in enumerate(judged.calls) if call.method in RUNS}
        not_reached -= {played.call for played in judged.played}
        for i in not_reached:
            self._left_out[explained.NOT_REACHED].append((name, judged.calls[i].graph_number))
        self._own_failures += judged.plain_end == "passed" and judged.worker_end.startswith("failed")

    def _judge(self, judged: Judged, played: Played, difference: Difference, graph: Graph) -> None:
        plain = judged.calls[played.call]
        kind = explained.explanation_of(difference, plain)
        if kind is None and difference.what in _unsteady(judged, played):
            kind = explained.NOT_THE_SAME_TWICE
        if kind is not None:
            self._explained[kind].add(graph)
            return
        words = (f"  {each[:_MAX_WORDS]}" for each in (difference.plain, difference.worker))
        where = f"{judged.name}, call {played.call + 1} of graph {played.graph_number + 1}: {difference.what}"
        self._unexplained.append("\n".join((where, *words)))

    def text(self) -> str:
        """All figures, and each difference that is unexplained."""
        lines = [
            f"{self._tests} tests, {self._tests_with_graphs} of which call graphs.",
            f"{len(self._compared)} graphs compared, of {len(self._shapes)} shapes, in {self._calls} calls.",
            *_table("explained differences", self._explained),
            *_table("calls left out", self._left_out),
            f"{self._own_failures} tests with assertions of their own that hold plainly alone.",
            *(f"cannot be read: {each}" for each in self.unread),
            f"{len(self._unexplained)} unexplained differences" + (":" if self._unexplained else "."),
            *self._unexplained,
        ]
        if len(self._shapes) < MIN_GRAPHS:
            lines.append(f"Fewer than {MIN_GRAPHS} graphs were compared.")
        return "\n".join(lines)


def _table(title: str, rows: dict[str, Any]) -> Iterable[str]:
    yield f"{title}:"
    for name, graphs in sorted(rows.items()):
        calls = f", {len(graphs)} calls" if isinstance(graphs, list) else ""
        yield f"  {name}: {len(set(graphs))} graphs{calls}"


def _shape(graph: Any) -> Any:
    """What a graph has in common with one that is written twice, with sync and with async nodes, say."""
    nodes = [(name, tuple(sorted(node.triggers))) for name, node in graph.nodes.items()]
    return tuple(sorted(nodes)), tuple(sorted(graph.channels))


def _unsteady(judged: Judged, played: Played) -> set[str]:
    """In what a second plain execution differs from the first at that call."""
    if judged.again is None or played.call >= len(judged.again):
        return set()
    plain, again = judged.calls[played.call], judged.again[played.call]
    if not _has_loop(plain) or not _has_loop(again):
        return set()
    return {each.what for each in differences(outcome_of(plain, {}), outcome_of(again, {}))}


def _has_loop(call: Call) -> bool:
    return call.top is not None
