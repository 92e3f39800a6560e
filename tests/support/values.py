"""Values of many kinds, made anew each time, and nodes and graphs on whose ways they come."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import re
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import pydantic
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, StateGraph
from runengine_server.worker.graph.stored_values import as_stored

from tests.support.own_worker import Graph

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
