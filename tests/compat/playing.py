"""Plays the calls of a test through a worker."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from langgraph._internal._constants import RESERVED
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphInterrupt
from langgraph.types import Command
from pydantic import BaseModel
from runengine.v1.run_service_pb2 import GetRunOutputResponse
from runengine_server.database.database import Database

from tests.compat import explained
from tests.compat.forms import NotJson, payload_of, without_ids
from tests.compat.outcomes import Difference, Outcome, differences, order_of, outcome_of, without_notes
from tests.compat.recording import UPDATES, Call
from tests.support.own_worker import NO_TIMEOUTS, Engine, Run

_LEASE_SECONDS = 3600.0
_WORDS = {"completed": "completed", "failed": "failed", "running": "waiting"}


class LeftOut(Exception):
    """The call has no counterpart among what a run can do; the message is a row of the documented table."""


@dataclass
class Played:
    """One call of a test, played: `differences` from the plain one, or why it was not."""

    call: int
    graph_number: int
    left_out: str | None = None
    differences: list[Difference] = field(default_factory=list)


@dataclass
class _Thread:
    """A thread of the test, and the run that stands for it."""

    engine: Engine | None = None
    run: Run | None = None
    context: Any = None
    steps: dict[str, str] = field(default_factory=dict)
    # Ids of interrupts in the plain execution → those that the run waits for.
    ids: dict[str, str] = field(default_factory=dict)
    left_out: str | None = None


class Player:
    """Plays one execution of one test. Each thread is a run, each graph a workflow of a tenant of its own."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database, self._directory = database, directory
        self._threads: dict[Any, _Thread] = {}
        self._engines: dict[int, Engine] = {}
        # Which graph each workflow is now, and with what config.
        self._deployed: dict[str, tuple[int, Any]] = {}
        self._beginning = asyncio.Lock()
        self.played: list[Played] = []

    async def play(self, number: int, plain: Call, call: Call) -> bool:
        """The plain call, as `call`, through a worker. False where the test is to execute it by itself."""
        played = Played(number, plain.graph_number)
        self.played.append(played)
        thread = self._thread_of(call)
        try:
            if thread.left_out:
                raise LeftOut(thread.left_out)
            extra = _extra_of(call)
            _check(plain)
            with call.active():
                outcome = await self._execute(thread, plain, call, extra)
        except LeftOut as reason:
            thread.left_out = thread.left_out or _for_the_rest(str(reason))
            played.left_out = str(reason)
            return thread.run is not None
        except Exception as error:
            thread.left_out = explained.NOT_REACHED
            played.differences = [Difference("engine", "", f"{type(error).__name__}: {error}")]
        else:
            played.differences = differences(outcome_of(plain, thread.steps), outcome)
            if any(each.what in ("status", "interrupts") for each in played.differences):
                thread.left_out = explained.NOT_REACHED
        return True

    def is_played(self, call: Call) -> bool:
        """Whether the thread that a call reads, or changes by itself, is played."""
        thread = self._thread_of(call)
        if call.method in UPDATES:
            thread.left_out = explained.UPDATE_STATE
        if call.method in ("clear_cache", "aclear_cache"):
            self._engines.pop(call.graph_number, None)
        if call.method in ("batch", "abatch"):
            for each in _threads_of_batch(call):
                self._thread_of(call, each).left_out = explained.SECOND_INPUT
            return False
        return thread.run is not None

    def _thread_of(self, call: Call, thread_id: Any = None) -> _Thread:
        saver = getattr(call.graph, "checkpointer", None)
        if not isinstance(saver, BaseCheckpointSaver):
            return _Thread()
        key = id(saver), thread_id or _thread_id_of(call)
        return self._threads.setdefault(key, _Thread())

    async def _execute(self, thread: _Thread, plain: Call, call: Call, extra: Any) -> Outcome:
        given = call.arguments.get("input")
        context = _context_of(call.arguments.get("context"))
        async with self._beginning:
            engine = await self._deploy(thread, call, extra)
        if thread.run is None:
            if given is None or isinstance(given, Command):
                raise LeftOut(explained.INPUT)
            try:
                payload = payload_of(given)
            except NotJson:
                payload = None
            if not isinstance(payload, dict):
                raise LeftOut(explained.INPUT)
            thread.context = context
            async with self._beginning:  # so that each call gets its own run
                await engine.trigger(payload, context=context)
                run = await engine.claim()
            thread.run = await engine.process(run)
        elif context != thread.context:
            raise LeftOut(explained.CONFIG)
        else:
            thread.run = await self._go_on(engine, thread, thread.run, given)
        return await self._outcome(thread, plain, call)

    async def _go_on(self, engine: Engine, thread: _Thread, run: Run, given: Any) -> Run:
        waiting = [each.id for each in run.waiting_for]
        if isinstance(given, Command):
            if given.update is not None or given.goto:
                raise LeftOut(explained.COMMAND)
            if not waiting:
                raise LeftOut(explained.ENDED)
            values = _values_of(given.resume, waiting, thread.ids)
            return await engine.go_on(run.id, values)
        if given is not None:
            raise LeftOut(explained.SECOND_INPUT)
        if run.status == "failed":
            await engine.retry(run.id)
            return await engine.process(await engine.claim())
        if not waiting:
            raise LeftOut(explained.ENDED)
        if thread.ids:
            raise LeftOut(explained.NO_VALUE)
        return await engine.go_on(run.id, dict.fromkeys(waiting, True))

    async def _deploy(self, thread: _Thread, call: Call, extra: Any) -> Engine:
        """The engine of the thread, with the graph of the call; one that is new has the engine of its graph,
        and so the cache of the runs before.
        """
        graph: Any = call.graph
        graph = graph.with_config(extra) if extra else graph
        engine = thread.engine or self._engines.get(call.graph_number)
        if engine is None:
            engine = Engine(self._database, self._directory, graph, NO_TIMEOUTS, _LEASE_SECONDS)
            self._engines[call.graph_number] = engine
            await engine.queue.register_workflows()
        elif self._deployed[engine.workflow] != (id(call.graph), extra):
            # Not else: a function that closes over a counter is another one for the cache each time.
            engine.deploy(graph)
        self._deployed[engine.workflow] = id(call.graph), extra
        thread.engine = engine
        return engine

    async def _outcome(self, thread: _Thread, plain: Call, call: Call) -> Outcome:
        engine, run = thread.engine, thread.run
        assert engine is not None
        assert run is not None
        outcome = Outcome(_WORDS.get(run.status, run.status), order=order_of(call))
        outcome.state = call.top.state if call.top else None
        outcome.steps = await _steps_of(engine, run.id)
        if run.error is not None:
            outcome.error = without_notes(run.error.message)
        if run.status == "completed":
            stored = await engine.runs.get_output(run.id)
            assert stored is not None
            outcome.output = _output_of(stored.encoded or b"")
        shown = [(each.step_id, _waited(each), each.id) for each in run.waiting_for]
        outcome.interrupts = Counter((step, value) for step, value, _ in shown)
        thread.ids = _paired(plain, shown)
        return outcome


def _extra_of(call: Call) -> dict[str, Any]:
    """What is in the config of the call beside its thread."""
    config = dict(call.arguments.get("config") or {})
    configurable = dict(config.pop("configurable", None) or {})
    configurable.pop("thread_id", None)
    for key in ("checkpoint_id", "checkpoint_ns", "checkpoint_map"):
        if configurable.pop(key, None):
            raise LeftOut(explained.TIME_TRAVEL)
    for key in [key for key in configurable if key in RESERVED]:
        del configurable[key]  # how what the call streams is read
    return {**config, "configurable": configurable} if configurable else config


def _threads_of_batch(call: Call) -> list[Any]:
    configs = call.arguments.get("config") or []
    found = [configs] if isinstance(configs, Mapping) else configs
    return [(each.get("configurable") or {}).get("thread_id") for each in found]


def _thread_id_of(call: Call) -> Any:
    configs = (call.arguments.get("config"), getattr(call.graph, "config", None))
    known = (each for each in configs if isinstance(each, Mapping))  # that of batch() is a list
    found = ((each.get("configurable") or {}).get("thread_id") for each in known)
    return next((each for each in found if each is not None), None)


def _check(plain: Call) -> None:
    """Raises LeftOut for a call that no run can be."""
    if not plain.has_ended:
        raise LeftOut(explained.UNREAD)
    if isinstance(plain.error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
        raise LeftOut(explained.CANCELLED)
    if plain.top is None:
        raise LeftOut(explained.REFUSED)
    if any(plain.arguments.get(each) for each in ("interrupt_before", "interrupt_after", "output_keys")):
        raise LeftOut(explained.CONFIG)
    if plain.arguments.get("control") is not None:
        raise LeftOut(explained.CONFIG)


def _for_the_rest(reason: str) -> str | None:
    return None if reason == explained.REFUSED else reason


def _context_of(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    if isinstance(given, BaseModel):
        given = dict(given)
    elif dataclasses.is_dataclass(given) and not isinstance(given, type):
        given = dataclasses.asdict(given)
    try:
        found = payload_of(given)
    except NotJson:
        found = None
    if not isinstance(found, dict):
        raise LeftOut(explained.CONTEXT)
    return found


def _values_of(resume: Any, waiting: list[str], ids: Mapping[str, str]) -> dict[str, Any]:
    try:
        value = payload_of(resume)
    except NotJson:
        raise LeftOut(explained.INPUT) from None
    if isinstance(value, dict) and value and all(key in ids for key in value):
        return {ids[key]: each for key, each in value.items()}
    if len(waiting) > 1:
        raise LeftOut(explained.NO_VALUE)
    return {waiting[0]: value}


def _paired(plain: Call, shown: list[tuple[str, str, str]]) -> dict[str, str]:
    """Ids of plain interrupts with those of the worker that have the same step and value, in order."""
    if plain.top is None or not isinstance(plain.top.error, GraphInterrupt):
        return {}
    left, pairs = list(shown), {}
    for each in plain.top.interrupts:
        same = next((ours for ours in left if ours[:2] == (each.step, str(each.value))), None)
        if same is not None:
            left.remove(same)
            pairs[each.id] = same[2]
    return pairs


def _waited(waiting: Any) -> str:
    if waiting.HasField("note"):
        return "None"
    return without_ids(json.dumps(json.loads(waiting.value), sort_keys=True))


def _output_of(encoded: bytes) -> str | None:
    response = GetRunOutputResponse.FromString(encoded)
    if not response.HasField("output"):
        return None
    return without_ids(json.dumps(json.loads(response.output), sort_keys=True))


async def _steps_of(engine: Engine, run_id: UUID) -> Counter[str]:
    rows = await engine.tenant.fetch(
        "SELECT DISTINCT step_id, id FROM run_steps WHERE run_id = $1 AND parent_id IS NULL", run_id
    )
    return Counter(row["step_id"] for row in rows)
