"""How values look in the output of a run."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter, OrderedDict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import orjson
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from pydantic import BaseModel, SecretStr, field_serializer
from runengine_server.worker.graph.output import to_json

Place = namedtuple("Place", "row column")
UUID_1 = "00000000-0000-0000-0000-000000000001"


class Colour(Enum):
    RED = "red"
    PRICE = Decimal("1.50")


class Level(IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    colour: Any


class Order(BaseModel):
    item: str
    price: Decimal = Decimal("1.10")
    raw: bytes = b"\xff\x00"
    key: SecretStr = SecretStr("hidden")
    messages: list[BaseMessage] = []


class Shouted(BaseModel):
    word: str

    @field_serializer("word")
    def loudly(self, word: str) -> str:
        return word.upper()


class Opaque:
    pass


class Raising(BaseModel):
    word: str = ""

    @field_serializer("word")
    def fails(self, word: str) -> str:
        raise KeyError("no such word")


AI: dict[str, Any] = {
    "type": "ai", "content": "Hello", "additional_kwargs": {}, "response_metadata": {}, "name": None,
    "id": "m1",
    "tool_calls": [{"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}],
    "invalid_tool_calls": [], "usage_metadata": None,
}  # fmt: skip
MESSAGE = AIMessage("Hello", id="m1", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        ({"b": 1, "a": [True, 1.5, "ü\0"]}, {"b": 1, "a": [True, 1.5, "ü\0"]}),
        (2**53 + 1, 2**53 + 1),
        ([float("nan"), float("inf")], [None, None]),
        (MESSAGE, AI),
        ([HumanMessage("Hi", name="ann")], [{"type": "human", "content": "Hi", "additional_kwargs": {},
            "response_metadata": {}, "name": "ann", "id": None}]),
        (Order(item="kettle", messages=[MESSAGE]), {"item": "kettle", "price": "1.10", "raw": "/wA=",
            "key": "**********", "messages": [AI]}),
        (Shouted(word="hi"), {"word": "HI"}),
        (Point(1, Colour.RED), {"x": 1, "colour": "red"}),
        (Place(1, 2), {"row": 1, "column": 2}),
        ((1, (2,)), [1, [2]]),
        ([Colour.PRICE, Level.HIGH], ["1.50", 3]),
        (datetime(2026, 1, 31, 9, 30, 0, 123000, UTC), "2026-01-31T09:30:00.123000Z"),
        (datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T09:30:00+02:00"),
        (datetime(2026, 1, 31, 9, 30), "2026-01-31T09:30:00"),
        ([date(2026, 1, 31), time(9, 30)], ["2026-01-31", "09:30:00"]),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        (UUID(UUID_1), UUID_1),
        ([b"\xff\x00", bytearray(b"a"), memoryview(b"a")], ["/wA=", "YQ==", "YQ=="]),
        ([{1}, frozenset([2]), deque([3])], [[1], [2], [3]]),
        ([Counter("aab"), OrderedDict(a=1)], [{"a": 2, "b": 1}, {"a": 1}]),
        ([PurePosixPath("/a"), re.compile("a+"), ipaddress.ip_address("::1")], ["/a", "a+", "::1"]),
        ({1: "a", UUID(UUID_1): "b", Colour.RED: "c", date(2026, 1, 31): "d", None: "e"},
            {"1": "a", UUID_1: "b", "red": "c", "2026-01-31": "d", "null": "e"}),
    ],
    ids=lambda value: re.sub(r"\W+", "-", str(value))[:30],
)  # fmt: skip
def test_a_value_is_shown_as_people_expect_it(value: Any, shown: Any) -> None:
    assert json.loads(to_json(value)) == shown


def test_the_keys_keep_their_order() -> None:
    assert to_json({"b": 1, "a": 2}) == b'{"b":1,"a":2}'


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def test_the_deepest_value_that_is_kept_is_shown_by_rest_too() -> None:
    deepest = max(levels for levels in range(200, 260) if _shown(nested(levels)))
    assert orjson.dumps({"output": json.loads(to_json(nested(deepest)))})


def _shown(value: Any) -> bool:
    try:
        to_json(value)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize(
    "value",
    [Opaque(), Raising(), {(1, 2): 3}, 2**64, "\ud800", ValueError("text"), lambda: 1, nested(300)],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_form_in_json_is_an_error(value: Any) -> None:
    assert not _shown(value)
