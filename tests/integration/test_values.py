"""What a node sees of a value is the same on every way that it may come: straight on, after a retry or a
takeover, from the cache, in a Send, a Command, a sub-graph, a reducer's result, an edge, an error's handler.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import re
import threading
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Generic, NamedTuple, TypedDict, TypeVar

import pydantic
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels import UntrackedValue
from langgraph.errors import NodeError
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import CachePolicy, Command, Overwrite, Send
from runengine_server.domain.run import RunStatus
from runengine_server.worker.graph.stored_values import as_stored, is_plain

from tests.support.own_worker import Graph, State, alone, chain, serving

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Frozen:
    size: int
    parts: tuple[Any, ...] = ()


@dataclasses.dataclass(slots=True, kw_only=True)
class Slotted(Generic[Item]):
    item: Item


class Model(pydantic.BaseModel):
    size: int
    parts: tuple[int, ...] = ()
    inner: Frozen | None = None
    _secret: int = pydantic.PrivateAttr(default=0)


class Envelope(pydantic.BaseModel):
    given: Any


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Flags(enum.Flag):
    ONE = 1
    TWO = 2


class Point(NamedTuple):
    x: int
    y: int


class Words(dict[str, Any]): ...


class Text(str):
    __slots__ = ()


class Outer:
    @dataclasses.dataclass
    class Inner:
        size: int


@dataclasses.dataclass
class Counted:
    size: int
    count: int = dataclasses.field(default=0, init=False)


class Broken(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


BERLIN = datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
TOOL = {"name": "look", "args": {"at": (1, 2)}, "id": "1"}
MADE: dict[str, Callable[[], Any]] = {
    "plain": lambda: {"a": [1, 2.5, True, None, "ü", {"b": b"c"}]},
    "frozen": lambda: Frozen(1, (1, (2, 3))),
    "slotted": lambda: Slotted(item=Frozen(1)),
    "model": lambda: Model(size=1, parts=(1, 2), inner=Frozen(3)),
    "enum": lambda: [Colour.RED, Level.HIGH, Flags.ONE | Flags.TWO],
    "named": lambda: Point(1, 2),
    "tuple": lambda: (1, (2, 3)),
    "sets": lambda: [{1, 2}, frozenset("a")],
    "bounded": lambda: deque([1, 2], maxlen=3),
    "default": lambda: collections.defaultdict(list, a=[1]),
    "ordered": lambda: collections.OrderedDict(b=1, a=2),
    "counter": lambda: collections.Counter("aab"),
    "decimal": lambda: decimal.Decimal("1.10"),
    "zoned": lambda: BERLIN,
    "times": lambda: [BERLIN.date(), datetime.time(1, fold=1), datetime.timedelta(1, 2, 3), datetime.UTC],
    "uuid": lambda: uuid.UUID(int=7),
    "path": lambda: pathlib.Path("a/b"),
    "pattern": lambda: re.compile("a+", re.IGNORECASE),
    "bytes": lambda: bytearray(b"a"),
    "buffers": lambda: [bytearray(b"a"), memoryview(b"b")],
    "subclasses": lambda: [Words(a=1), Text("b")],
    "keys": lambda: {1: "int", None: "none", (1, 2): "tuple", uuid.UUID(int=1): "uuid", Level.HIGH: "enum"},
    "numbers": lambda: [2**64 - 1, -(2**63), float("nan"), float("-inf")],
    "surrogate": lambda: "\ud800",
    "messages": lambda: [AIMessage("a", tool_calls=[TOOL]), ToolMessage("b", tool_call_id="1", id="2")],
    "secret": lambda: pydantic.SecretStr("a"),
    "none": lambda: None,
}  # fmt: skip
Values = TypedDict("Values", {**dict.fromkeys(MADE, Any), "asked": Any}, total=False)  # type: ignore[misc]


def made() -> dict[str, Any]:
    return {name: make() for name, make in MADE.items()}


def form(value: Any) -> Any:
    """Types and content of a value, all through."""
    kind = type(value).__qualname__
    if isinstance(value, dict):
        return kind, [(form(name), form(each)) for name, each in value.items()]
    if isinstance(value, list | tuple):
        return kind, [form(each) for each in value]
    if isinstance(value, deque):
        return kind, value.maxlen, [form(each) for each in value]
    if isinstance(value, set | frozenset):
        return kind, sorted(map(repr, value))
    if isinstance(value, pydantic.BaseModel):
        return kind, form(value.__dict__)
    if dataclasses.is_dataclass(value):
        return kind, [form(getattr(value, each.name)) for each in dataclasses.fields(value)]
    return kind, repr(value)


AS_STORED = {name: form(as_stored(value)) for name, value in made().items()}


class Reads:
    """A node that notes what it sees; it fails the first time."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def node(self, state: Any) -> dict[str, Any]:
        self.see(state)
        if len(self.seen) == 1:
            raise RuntimeError("Once.")
        return {}

    def see(self, state: Any) -> None:
        self.seen.append({name: form(state[name]) for name in MADE if name in state})


def chain_of_values(**nodes: Any) -> Graph:
    graph: Graph = StateGraph(Values)
    graph.add_sequence(list(nodes.items()))
    graph.add_edge(START, next(iter(nodes)))
    return graph


async def write(state: Any) -> Any:
    return made()


def in_an_update(reads: Reads) -> Graph:
    return chain_of_values(write=write, read=reads.node)


def of_a_sync_node(reads: Reads) -> Graph:
    return chain_of_values(write=lambda state: made(), read=reads.node)


def in_a_command(reads: Reads) -> Graph:
    async def command(state: Any) -> Any:
        return [Command(update=made()), Command(goto="read")]

    graph: Graph = StateGraph(Values)
    graph.add_node("write", command)
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    return graph


def in_the_send_of_a_command(reads: Reads) -> Graph:
    async def command(state: Any) -> Any:
        return Command(goto=[Send("read", made())])

    graph: Graph = StateGraph(Values)
    graph.add_node("write", command)
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    return graph


def in_the_send_of_an_edge(reads: Reads) -> Graph:
    graph: Graph = StateGraph(Values)
    graph.add_node("write", lambda state: {})
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    graph.add_conditional_edges("write", lambda state: [Send("read", made())], ["read"])
    return graph


def out_of_a_sub_graph(reads: Reads) -> Graph:
    return chain_of_values(inner=chain_of_values(write=write).compile(), read=reads.node)


def within_a_sub_graph(reads: Reads) -> Graph:
    return chain_of_values(inner=chain_of_values(write=write, read=reads.node).compile())


def within_a_graph_that_is_called(reads: Reads) -> Graph:
    inner = chain_of_values(write=write, read=reads.node).compile()

    async def call(state: Any) -> Any:
        await inner.ainvoke({"asked": 1})
        return {}

    return chain_of_values(call=call)


def to_a_graph_that_is_called(reads: Reads) -> Graph:
    inner = chain_of_values(read=reads.node).compile()

    async def call(state: Any) -> Any:
        await inner.ainvoke(made())
        return {}

    return chain_of_values(call=call)


def by_a_command_to_the_graph_above(reads: Reads) -> Graph:
    async def command(state: Any) -> Any:
        return Command(graph=Command.PARENT, update=made(), goto="read")

    graph: Graph = StateGraph(Values)
    graph.add_node("inner", chain_of_values(command=command).compile())
    graph.add_node("read", reads.node)
    graph.add_edge(START, "inner")
    return graph


def of_a_task(reads: Reads) -> Graph:
    @task
    async def look() -> Any:
        return made()

    async def ask(state: Any) -> Any:
        return await reads.node(await look())

    return chain_of_values(ask=ask)


def of_a_sync_task(reads: Reads) -> Graph:
    @task
    def look() -> Any:
        return made()

    def ask(state: Any) -> Any:
        found = look().result()
        reads.see(found)
        if len(reads.seen) == 1:
            raise RuntimeError("Once.")
        return {}

    return chain_of_values(ask=ask)


def beside_a_node_that_fails(reads: Reads) -> Graph:
    """Where the writes themselves are read from the store, and go through an edge and the channels."""
    failures = [RuntimeError("Once.")]
    written = asyncio.Event()

    def look(state: Any) -> str:
        reads.see(state)
        written.set()
        return "read"

    async def fail(state: Any) -> Any:
        await written.wait()
        if failures:
            raise failures.pop()
        return {}

    graph: Graph = StateGraph(Values)
    graph.add_node("write", write)
    graph.add_node("fail", fail)
    graph.add_node("read", reads.node)
    graph.add_edge(START, "write")
    graph.add_edge(START, "fail")
    graph.add_conditional_edges("write", look, ["read"])
    return graph


WAYS = [
    in_an_update,
    of_a_sync_node,
    in_a_command,
    in_the_send_of_a_command,
    in_the_send_of_an_edge,
    out_of_a_sub_graph,
    within_a_sub_graph,
    within_a_graph_that_is_called,
    to_a_graph_that_is_called,
    by_a_command_to_the_graph_above,
    of_a_task,
    of_a_sync_task,
    beside_a_node_that_fails,
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_value_that_came_straight_on_is_the_one_that_comes_after_a_retry(
    database_url: str, way: Callable[[Reads], Graph]
) -> None:
    reads = Reads()
    async with serving(database_url, way(reads)) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert run.error.message.startswith("RuntimeError: Once.")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert len(reads.seen) == 2
    for seen in reads.seen:
        assert {name: each for name, each in seen.items() if each != AS_STORED[name]} == {}
        assert len(seen) == len(AS_STORED)


@pytest.mark.parametrize("way", [in_an_update, in_the_send_of_a_command, within_a_sub_graph])
async def test_a_value_that_came_straight_on_is_the_one_that_a_successor_sees(
    database_url: str, way: Callable[[Reads], Graph]
) -> None:
    class Stops(Reads):
        async def node(self, state: Any) -> dict[str, Any]:
            self.see(state)
            if len(self.seen) == 1:
                processing.cancel()
                await asyncio.sleep(60)
            return {}

    reads = Stops()
    async with serving(database_url, way(reads)) as engine:
        run_id = await engine.trigger()
        processing = asyncio.create_task(engine.process(await engine.claim()))
        with pytest.raises(asyncio.CancelledError):
            await processing
        run = await engine.process(await engine.take_over(run_id))
        assert run.status is RunStatus.COMPLETED
    assert reads.seen == [AS_STORED, AS_STORED]


@pytest.mark.parametrize("as_model", [False, True])
async def test_a_value_from_the_cache_is_the_one_that_was_put_there(
    database_url: str, as_model: bool
) -> None:
    seen: list[Any] = []

    class Sized(pydantic.BaseModel):
        size: int = 7
        given: Any = None

    class SizedState(TypedDict, total=False):
        size: int
        given: Any

    async def work(state: Any) -> Any:
        return Sized(given=(1, Point(1, 2))) if as_model else {"given": made()}

    async def read(state: Any) -> Any:
        seen.append(form(state))
        return {}

    graph: Graph = StateGraph(SizedState)
    graph.add_node("work", work, cache_policy=CachePolicy(key_func=lambda state: "one"))
    graph.add_node("read", read)
    graph.add_edge(START, "work")
    graph.add_edge("work", "read")
    async with serving(database_url, graph) as engine:
        for _ in range(2):
            run = await engine.execute()
            assert run.status is RunStatus.COMPLETED
    assert len(seen) == 2
    assert seen[0] == seen[1]


# Reducers, whose result is stored and not what was written.


def last_three(left: Any, right: Any) -> Any:
    return deque([*(left or ()), *right], maxlen=3)


def by_name(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    left.update({name: Frozen(len(each), tuple(each)) for name, each in right.items()})
    return left


class Reduced(TypedDict, total=False):
    last: Annotated[Any, last_three]
    named: Annotated[dict[str, Any], by_name]
    messages: Annotated[list[AnyMessage], add_messages]
    overwritten: Annotated[Any, last_three]


@pytest.mark.parametrize("beside", [False, True])
async def test_what_a_reducer_makes_is_the_same_after_a_retry(database_url: str, beside: bool) -> None:
    seen: list[Any] = []

    async def one(state: Any) -> Any:
        return {"last": (1, 2), "named": {"a": "bc"}, "messages": HumanMessage("a", id="1")}

    async def two(state: Any) -> Any:
        return {
            "last": [3, (4, 5)],
            "named": {"b": "c"},
            "messages": [("user", "b")],
            "overwritten": Overwrite((3, (4, 5))),
        }

    async def read(state: Any) -> Any:
        seen.append({name: form(each) for name, each in state.items()})
        if len(seen) == 1:
            raise RuntimeError("Once.")
        return {}

    graph: Graph = StateGraph(Reduced)
    for node in (one, two, read):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "one")
    graph.add_edge(START if beside else "one", "two")
    if beside:
        graph.add_edge(["one", "two"], "read")
    else:
        graph.add_edge("two", "read")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0]["last"] == form(deque([2, 3, [4, 5]]))
    assert seen[0]["named"] == form(
        {"a": as_stored(Frozen(2, ("b", "c"))), "b": as_stored(Frozen(1, ("c",)))}
    )


async def test_a_message_that_a_reducer_keeps_does_not_go_through_the_store_each_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    create = HumanMessage.__init__

    def count(self: HumanMessage, *arguments: Any, **named: Any) -> None:
        made.append(str(named.get("id")))
        create(self, *arguments, **named)

    class Chat(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    def say(number: int) -> Any:
        return lambda state: {"messages": [HumanMessage("a", id=str(number))]}

    graph: Graph = StateGraph(Chat)
    graph.add_sequence([(f"say{number}", say(number)) for number in range(10)])
    graph.add_edge(START, "say0")
    async with serving(database_url, graph) as engine:
        monkeypatch.setattr(HumanMessage, "__init__", count)
        assert (await engine.execute()).status is RunStatus.COMPLETED
    assert sorted(made) == sorted([str(number) for number in range(10)] * 2)


# What is refused.


def looped() -> Any:
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


def local() -> Any:
    @dataclasses.dataclass
    class Local:
        size: int

    return Local(1)


def local_level() -> Any:
    class Local(enum.IntEnum):
        ONE = 1

    return Local.ONE


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a lambda": (lambda: lambda: 1, "function"),
    "a generator": (lambda: (each for each in "a"), "generator"),
    "a lock": (threading.Lock, "lock"),
    "an error": (lambda: ValueError("a"), "ValueError"),
    "an error in a list": (lambda: [ValueError("a")], "ValueError"),
    "a class": (lambda: Frozen, "type"),
    "a complex": (lambda: 1j, "complex"),
    "too large": (lambda: 2**64, "int"),
    "too small": (lambda: [-(2**63) - 1], "list"),
    "of a function": (local, "local.<locals>.Local"),
    "an enum of a function": (local_level, "local_level.<locals>.Local"),
    "of a class": (lambda: {"a": [Outer.Inner(1)]}, "Outer.Inner"),
    "not in __init__": (lambda: Frozen(1, (Counted(1),)), "Counted"),
    "a set of tuples": (lambda: {(1, 2)}, "set"),
    "a loop": (looped, "list"),
    "in a model": (lambda: Envelope(given=Outer.Inner(1)), "Outer.Inner"),
    "objects for keys": (lambda: {Frozen(1): 1}, "dict"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_value_that_would_come_back_as_another_is_refused_when_it_is_written(
    database_url: str, name: str
) -> None:
    make, kind = REFUSED[name]
    follows: list[str] = []
    written: list[Callable[[], Any]] = [lambda: None, make]

    async def write(state: State) -> Any:
        return {"bundle_artifact_id": written.pop()()}

    async def follow(state: State) -> Any:
        follows.append("follow")
        return {}

    async with serving(database_url, chain(write=write, follow=follow)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.code, run.error.step_id) == ("VALUE_NOT_STORABLE", "write")
        assert "'bundle_artifact_id'" in run.error.message
        assert kind in run.error.message
        assert run.error.retryable is False
        assert await engine.executions(run.id) == ["write 1 failed VALUE_NOT_STORABLE"]
        assert follows == []
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED


async def refused(database_url: str, graph: Graph) -> str:
    async with serving(database_url, graph) as engine:
        first = await engine.execute()
        again = await engine.execute_again(first.id)
        for run in (first, again):
            assert run.error is not None
            assert run.error.code == "VALUE_NOT_STORABLE"
        assert again.error is not None
        return again.error.message


async def test_a_send_with_what_cannot_be_stored_is_refused(database_url: str) -> None:
    async def send(state: State) -> Any:
        return Command(goto=Send("send", {"given": local()}))

    assert "'Send to send: given'" in await refused(database_url, alone("send", send))


async def test_a_task_that_returns_what_cannot_be_stored_is_refused_each_time(database_url: str) -> None:
    @task
    async def look() -> Any:
        return local()

    async def ask(state: State) -> Any:
        await look()
        return {}

    assert "result of a task" in await refused(database_url, alone("ask", ask))


async def test_a_reducer_that_makes_what_cannot_be_stored_fails_its_run(database_url: str) -> None:
    class Locals(TypedDict, total=False):
        made: Annotated[list[Any], lambda left, right: local()]

    graph: Graph = StateGraph(Locals)
    graph.add_node("write", lambda state: {"made": [1]})
    graph.add_edge(START, "write")
    assert "'made'" in await refused(database_url, graph)


async def test_what_is_never_stored_may_be_anything(database_url: str) -> None:
    locked: list[bool] = []

    class Untracked(TypedDict, total=False):
        lock: Annotated[Any, UntrackedValue(Any)]

    async def use(state: Any) -> Any:
        locked.append(state["lock"].locked())
        return {}

    graph: Graph = StateGraph(Untracked)
    graph.add_node("write", lambda state: {"lock": threading.Lock()})
    graph.add_node("use", use)
    graph.add_node("sent", use)
    graph.add_edge(START, "write")
    graph.add_edge("write", "use")
    graph.add_conditional_edges("use", lambda state: [Send("sent", state)], ["sent"])
    async with serving(database_url, graph) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
    assert locked == [False, False]


# Errors, and warnings.


async def test_the_handler_of_an_error_sees_its_type_and_attributes_after_a_takeover_too(
    database_url: str,
) -> None:
    seen: list[Any] = []

    async def fail(state: State) -> Any:
        raise Broken(7, "It is broken")

    async def handle(state: State, error: NodeError) -> Any:
        raised = error.error
        seen.append((type(raised), str(raised), raised.args, getattr(raised, "code", None)))
        if len(seen) == 1:
            raise RuntimeError("Once.")
        return Command(update={"seen": ["handled"]})

    graph = alone("fail", fail, error_handler=handle)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.FAILED
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
    assert seen == [(Broken, "It is broken (7)", ("It is broken (7)",), 7)] * 2


async def test_a_type_of_the_authors_own_is_warned_of_once(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    reads = Reads()
    async with serving(database_url, in_an_update(reads)) as engine:
        run = await engine.execute()
        await engine.execute_again(run.id)
        await engine.execute()
    warned = [record.getMessage() for record in caplog.records if "Slotted" in record.getMessage()]
    assert len(warned) <= 1


@pytest.mark.parametrize("value", [1, "a", "ü", None, True, 1.5, b"a", [{"a": [1, {}]}], {}])
def test_a_plain_value_stays_the_object_that_it_is(value: Any) -> None:
    assert is_plain(value)
    assert as_stored(value) is value
