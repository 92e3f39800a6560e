"""Has pytest execute each of LangGraph's tests twice: plainly, and with its calls played through a worker."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
from _pytest.runner import runtestprotocol
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from tests.compat.playing import Played, Player
from tests.compat.recording import RUNS, Call, Pass, Recorder

# How long one execution of a test may take.
_SECONDS = 20.0


@dataclass
class Judged:
    """One test: what was played of it, and how it ended plainly and in the worker."""

    name: str
    played: list[Played] = field(default_factory=list)
    plain_end: str = ""
    worker_end: str = ""
    calls: list[Call] = field(default_factory=list)
    again: list[Call] | None = None
    went_another_way: bool = False


class Mocker:
    """What LangGraph's tests use of pytest-mock."""

    Mock = staticmethod(mock.Mock)

    def __init__(self) -> None:
        self._patches: list[Any] = []

    def patch(self, name: str, **named: Any) -> Any:
        patch = mock.patch(name, **named)
        self._patches.append(patch)
        return patch.start()

    def stop(self) -> None:
        for patch in reversed(self._patches):
            patch.stop()


class Equal:
    """Equals everything: a snapshot of a drawing is nothing that a run has."""

    def __call__(self, **_: Any) -> Equal:
        return self

    def __eq__(self, _: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def _on_alarm(*_: object) -> None:
    raise TimeoutError(f"the test took more than {_SECONDS:g} s")


class Plugin:
    """`start` begins to play a call on the thread of the engine; `new_player` makes one for a test."""

    def __init__(
        self, new_player: Callable[[], Player], start: Callable[[Any], Future[bool]], on_judged: Any
    ) -> None:
        self._new_player, self._start, self._on_judged = new_player, start, on_judged
        self.unread: list[str] = []
        signal.signal(signal.SIGALRM, _on_alarm)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool:
        path, _, name = item.nodeid.partition("::")
        judged = Judged(f"{path.rpartition('/')[2]}::{name}")
        plain = Pass()
        judged.plain_end = self._run(item, nextitem, plain)
        judged.calls = plain.calls
        if plain.calls:
            player = self._new_player()

            def play(same: Call, call: Call) -> Future[bool]:
                if call.method in RUNS:
                    number = next(i for i, each in enumerate(worker.calls) if each is call)
                    return self._start(player.play(number, same, call))
                known: Future[bool] = Future()
                known.set_result(player.is_played(call))
                return known

            worker = Pass(plain.calls, play)
            judged.worker_end = self._run(item, nextitem, worker)
            judged.played, judged.went_another_way = player.played, worker.went_another_way
            if any(each.differences for each in judged.played):
                again = Pass()
                self._run(item, nextitem, again)
                judged.again = again.calls
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._on_judged(judged)
        return True

    def _run(self, item: Any, nextitem: Any, each: Pass) -> str:
        Recorder.current = each
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        try:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            Recorder.current = None
        failed = [report for report in reports if report.outcome == "failed"]
        if failed:
            crash = getattr(failed[0].longrepr, "reprcrash", None)
            return f"failed {crash.message if crash else failed[0].longrepr}"
        return "skipped" if any(report.skipped for report in reports) else "passed"

    @pytest.hookimpl
    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.unread.append(f"{report.nodeid}: {str(report.longrepr).splitlines()[-1]}")

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def mocker(self) -> Iterator[Mocker]:
        mocker = Mocker()
        yield mocker
        mocker.stop()

    @pytest.fixture
    def deterministic_uuids(self, mocker: Mocker) -> Any:
        ids = (uuid.UUID(f"00000000-0000-4000-8000-{i:012}", version=4) for i in range(10000))
        return mocker.patch("uuid.uuid4", side_effect=ids)

    @pytest.fixture
    def snapshot(self) -> Equal:
        return Equal()

    @pytest.fixture
    def durability(self) -> str:
        return "sync"

    @pytest.fixture
    def cache(self) -> InMemoryCache[Any]:
        return InMemoryCache()

    @pytest.fixture
    def sync_store(self) -> InMemoryStore:
        return InMemoryStore()

    @pytest.fixture
    def async_store(self) -> InMemoryStore:
        return InMemoryStore()

    @pytest.fixture
    def sync_checkpointer(self) -> InMemorySaver:
        return InMemorySaver()

    @pytest.fixture
    def async_checkpointer(self) -> InMemorySaver:
        return InMemorySaver()
