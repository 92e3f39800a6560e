"""Records what graphs do: each call that a test makes of one, and the supersteps that it led to."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langgraph._internal._constants import INTERRUPT
from langgraph.errors import GraphInterrupt
from langgraph.pregel import Pregel
from langgraph.pregel._io import read_channels
from langgraph.pregel._loop import AsyncPregelLoop, PregelLoop, SyncPregelLoop
from runengine_server.worker.graph.namespaces import namespace_path, step_path

from tests.compat.forms import form_of, json_of

# Those that execute a graph, and those that only read or write its threads.
RUNS = ("invoke", "ainvoke", "stream", "astream")
OTHERS = (
    "batch", "abatch", "get_state", "aget_state", "get_state_history", "aget_state_history", "update_state",
    "aupdate_state", "bulk_update_state", "abulk_update_state", "clear_cache", "aclear_cache",
)  # fmt: skip
UPDATES = ("update_state", "aupdate_state", "bulk_update_state", "abulk_update_state")

# Channels with these beginnings are LangGraph's own.
_OWN = ("branch:", "join:", "__")


class Interrupted(NamedTuple):
    """A call of `interrupt()`: its value as JSON, its id, and the step that made it."""

    value: str | None
    id: str
    step: str


@dataclass
class Loop:
    """One execution of one graph. `supersteps` has the (name, id) of the tasks that each executed, `entered`
    the names of the last one, also of tasks that were done before; `handlers` are the tasks that took the
    errors of others, `pushed` the calls of a `@task`.
    """

    namespace: str
    is_nested: bool
    supersteps: list[list[tuple[str, str]]] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    handlers: list[tuple[str, str]] = field(default_factory=list)
    pushed: list[tuple[str, str]] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    error: BaseException | None = None
    interrupts: list[Interrupted] = field(default_factory=list)
    state: Any = None
    output_json: str | None = None

    @property
    def path(self) -> str:
        return namespace_path(self.namespace)


@dataclass
class Call:
    """A call that a test makes of a graph; `graph_number` counts the graphs of the test."""

    method: str
    graph: Pregel[Any, Any, Any, Any]
    graph_number: int
    arguments: dict[str, Any]
    loops: list[Loop] = field(default_factory=list)
    # Which step has made each call of `interrupt()`, by its id.
    asking: dict[str, str] = field(default_factory=dict)
    result: Any = None
    items: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    has_ended: bool = False

    @property
    def top(self) -> Loop | None:
        return next((loop for loop in self.loops if not loop.is_nested), None)

    @contextmanager
    def active(self) -> Iterator[None]:
        """What happens within, in the threads and tasks that it starts too, belongs to this call."""
        token = CURRENT.set(self)
        try:
            yield
        finally:
            CURRENT.reset(token)

    @contextmanager
    def executed(self) -> Iterator[None]:
        """As active; keeps the error."""
        try:
            with self.active():
                yield
        except (StopIteration, StopAsyncIteration):
            raise
        except BaseException as error:
            self.error, self.has_ended = error, True
            raise


CURRENT: ContextVar[Call | None] = ContextVar("current_call", default=None)


class Pass:
    """One execution of one test. With `plain`, the calls of another execution, `play` executes each call in
    another way, and the call returns what that one has returned; where `play` comes to False, it is executed
    as it is.
    """

    def __init__(
        self,
        plain: Sequence[Call] | None = None,
        play: Callable[[Call, Call], Future[bool]] | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.went_another_way = False
        self._plain, self._play = plain, play
        # Builders, so that a graph compiled twice is one; kept, so that no other gets the id of one.
        self._graphs: list[Any] = []

    def begin(self, method: str, graph: Any, args: Any, kwargs: Any) -> tuple[Call, Call | None]:
        """The call, and the one in the other execution whose result it is to have."""
        builder = getattr(graph, "builder", graph)
        if not any(each is builder for each in self._graphs):
            self._graphs.append(builder)
        number = next(i for i, each in enumerate(self._graphs) if each is builder)
        call = Call(method, graph, number, _arguments(method, graph, args, kwargs))
        self.calls.append(call)
        if self._plain is None or self.went_another_way:
            return call, None
        at = len(self.calls) - 1
        same = self._plain[at] if at < len(self._plain) else None
        if same is None or (same.method, same.graph_number) != (method, number):
            self.went_another_way = True
            return call, None
        return call, same

    def play(self, call: Call, same: Call) -> Future[bool]:
        """Whether the call is played, and so has the result of the other."""
        assert self._play is not None
        return self._play(same, call)


class Recorder:
    """Which pass goes on in this process, if any."""

    current: Pass | None = None


def _arguments(method: str, graph: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    signature = inspect.signature(getattr(type(graph), method))
    try:
        return dict(signature.bind(graph, *args, **kwargs).arguments)
    except TypeError:
        return dict(kwargs)


def _outermost() -> Pass | None:
    return Recorder.current if CURRENT.get() is None else None


def _replayed(same: Call) -> Any:
    if same.error is not None:
        raise same.error.with_traceback(None)
    return same.result


def _function(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def call_it(graph: Any, *args: Any, **kwargs: Any) -> Any:
        if (going := _outermost()) is None:
            return real(graph, *args, **kwargs)
        call, same = going.begin(name, graph, args, kwargs)
        if same is None or not going.play(call, same).result():
            with call.executed():
                call.result = real(graph, *args, **kwargs)
            call.has_ended = True
            return call.result
        return _replayed(same)

    return call_it


def _coroutine(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    async def call_it(graph: Any, *args: Any, **kwargs: Any) -> Any:
        if (going := _outermost()) is None:
            return await real(graph, *args, **kwargs)
        call, same = going.begin(name, graph, args, kwargs)
        if same is None or not await asyncio.wrap_future(going.play(call, same)):
            with call.executed():
                call.result = await real(graph, *args, **kwargs)
            call.has_ended = True
            return call.result
        return _replayed(same)

    return call_it


def _generator(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def call_it(graph: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if (going := _outermost()) is None:
            yield from real(graph, *args, **kwargs)
            return
        call, same = going.begin(name, graph, args, kwargs)
        if same is not None and going.play(call, same).result():
            yield from same.items
            _replayed(same)
            return
        items = real(graph, *args, **kwargs)
        try:
            while True:
                with call.executed():
                    try:
                        item = next(items)
                    except StopIteration:
                        break
                call.items.append(item)
                yield item
            call.has_ended = True
        finally:
            with call.active():
                items.close()

    return call_it


def _async_generator(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    async def call_it(graph: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if (going := _outermost()) is None:
            async for item in real(graph, *args, **kwargs):
                yield item
            return
        call, same = going.begin(name, graph, args, kwargs)
        if same is not None and await asyncio.wrap_future(going.play(call, same)):
            for item in same.items:
                yield item
            _replayed(same)
            return
        items = real(graph, *args, **kwargs)
        try:
            while True:
                with call.executed():
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        break
                call.items.append(item)
                yield item
            call.has_ended = True
        finally:
            with call.active():
                await items.aclose()

    return call_it


def _gated(names: Sequence[str], gates: Any) -> list[str]:
    return sorted({name for name in names if gates == "*" or name in gates})


def _loop_of(call: Call, loop: PregelLoop) -> Loop:
    if "_recorded" not in vars(loop):
        namespace = loop.config["configurable"].get("checkpoint_ns", "")
        vars(loop)["_recorded"] = recorded = Loop(namespace, loop.is_nested)
        call.loops.append(recorded)
    found: Loop = vars(loop)["_recorded"]
    return found


def _finish(call: Call, recorded: Loop, loop: PregelLoop, error: BaseException | None) -> None:
    recorded.error = error
    gates: list[str] = []
    if loop.status == "interrupt_before":
        gates = _gated([task.name for task in loop.tasks.values()], loop.interrupt_before)
    elif loop.status == "interrupt_after":
        gates = _gated(recorded.entered, loop.interrupt_after)
    recorded.gates = [step_path(recorded.namespace, name) for name in gates]
    for task_id, channel, value in getattr(loop, "checkpoint_pending_writes", ()):
        if channel == INTERRUPT and (task := loop.tasks.get(task_id)) is not None:
            step = step_path(recorded.namespace, task.name)
            for each in value:
                call.asking.setdefault(each.id, step)  # the innermost comes first
    if isinstance(error, GraphInterrupt):
        # That of a @task comes twice: from the task, and from the function that called it.
        interrupts = {each.id: each for each in (error.args[0] if error.args else ())}.values()
        recorded.interrupts = [
            Interrupted(json_of(each.value), each.id, call.asking.get(each.id, "")) for each in interrupts
        ]
    if error is None or isinstance(error, GraphInterrupt):
        recorded.state = _state_of(loop)
    if not recorded.is_nested and error is None:
        # Not what the loop returns, which for a stream is the whole state.
        recorded.output_json = json_of(read_channels(loop.channels, call.graph.output_channels))


def _state_of(loop: PregelLoop) -> dict[str, Any]:
    return {
        name: form_of(channel.get())
        for name, channel in loop.channels.items()
        if not name.startswith(_OWN) and channel.is_available()
    }


def install() -> None:
    """Has every graph of this process recorded while there is a pass."""
    for name in (*RUNS, *OTHERS):
        real = getattr(Pregel, name)
        # The engine has put functions around some of them, which return what LangGraph's generators make.
        kind = inspect.unwrap(real)
        if inspect.isasyncgenfunction(kind):
            wrapped = _async_generator(name, real)
        elif inspect.isgeneratorfunction(kind):
            wrapped = _generator(name, real)
        elif inspect.iscoroutinefunction(kind):
            wrapped = _coroutine(name, real)
        else:
            wrapped = _function(name, real)
        setattr(Pregel, name, wrapped)
    _record_loops()


def _record_loops() -> None:
    tick, leave = PregelLoop.tick, PregelLoop._suppress_interrupt
    push = PregelLoop.accept_push
    handle, ahandle = SyncPregelLoop.schedule_error_handler, AsyncPregelLoop.aschedule_error_handler

    def recorded_tick(loop: PregelLoop) -> bool:
        call = CURRENT.get()
        goes_on = tick(loop)
        if call is not None and goes_on:
            recorded, tasks = _loop_of(call, loop), loop.tasks.values()
            recorded.state = _state_of(loop)  # that of a graph that fails in this superstep
            recorded.entered = [task.name for task in tasks]
            recorded.supersteps.append(sorted((task.name, task.id) for task in tasks if not task.writes))
        return goes_on

    def recorded_leave(loop: PregelLoop, kind: Any, error: Any, traceback: Any) -> bool | None:
        suppressed = leave(loop, kind, error, traceback)
        if (call := CURRENT.get()) is not None:
            _finish(call, _loop_of(call, loop), loop, error)
        return suppressed

    def recorded_push(loop: PregelLoop, *args: Any, **kwargs: Any) -> Any:
        task = push(loop, *args, **kwargs)
        if (call := CURRENT.get()) is not None and task is not None and not task.writes:
            _loop_of(call, loop).pushed.append((task.name, task.id))
        return task

    def record_handler(loop: PregelLoop, task: Any) -> None:
        if (call := CURRENT.get()) is not None and task is not None:
            _loop_of(call, loop).handlers.append((task.name, task.id))

    def recorded_handler(loop: Any, *args: Any, **kwargs: Any) -> Any:
        record_handler(loop, task := handle(loop, *args, **kwargs))
        return task

    async def recorded_ahandler(loop: Any, *args: Any, **kwargs: Any) -> Any:
        record_handler(loop, task := await ahandle(loop, *args, **kwargs))
        return task

    PregelLoop.accept_push = recorded_push  # type: ignore[method-assign, assignment]
    PregelLoop.tick = recorded_tick  # type: ignore[method-assign, assignment]
    PregelLoop._suppress_interrupt = recorded_leave  # type: ignore[method-assign, assignment]
    SyncPregelLoop.schedule_error_handler = recorded_handler  # type: ignore[method-assign, assignment]
    AsyncPregelLoop.aschedule_error_handler = recorded_ahandler  # type: ignore[method-assign, assignment]
