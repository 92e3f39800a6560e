"""Values in forms that can be compared: without ids and addresses that are others each time."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import deque
from enum import Enum
from typing import Any

from pydantic import BaseModel
from runengine_server.worker.graph.output import to_json

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HASH = re.compile(r"\b[0-9a-f]{32}\b")
_ELAPSED = re.compile(r"elapsed: [0-9.]+s")
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


class NotJson(Exception):
    """The value has parts that JSON has no form for."""


def without_ids(text: str) -> str:
    """The text with one word for each kind of id."""
    text = _ELAPSED.sub("elapsed: <time>", text)
    return _ADDRESS.sub("<address>", _HASH.sub("<hash>", _UUID.sub("<uuid>", text)))


def json_of(value: Any) -> str | None:
    """The value as a caller of the engine sees it, with sorted keys; None where JSON has no form for it."""
    try:
        return without_ids(json.dumps(json.loads(to_json(value)), sort_keys=True))
    except Exception:
        return None


def form_of(value: Any) -> Any:
    """The value as lists and dicts, with the names of its types."""
    try:
        return _form(value, 0)
    except Exception as error:
        return f"<{type(error).__name__} while it was read>"


def _form(value: Any, depth: int) -> Any:
    if value is None or (isinstance(value, bool | int | float) and type(value) in (bool, int, float)):
        return value
    if depth > 60:
        return "<deep>"
    if isinstance(value, Enum):
        return f"<{type(value).__qualname__} {value.name}>"
    if type(value) is str:
        return without_ids(value)
    if type(value) is dict:
        return {without_ids(str(key)): _form(each, depth + 1) for key, each in value.items()}
    if type(value) is list:
        return [_form(each, depth + 1) for each in value]
    if isinstance(value, tuple | deque):
        return {f"<{type(value).__qualname__}>": [_form(each, depth + 1) for each in value]}
    if isinstance(value, set | frozenset):
        return {f"<{type(value).__qualname__}>": sorted(map(repr, value))}
    name = f"<{type(value).__qualname__}>"
    if isinstance(value, str):
        return {name: without_ids(str(value))}
    if isinstance(value, list):
        return {name: [_form(each, depth + 1) for each in value]}
    if isinstance(value, dict):
        return {name: _form(dict(value), depth + 1)}
    if isinstance(value, BaseModel):
        fields = {each: getattr(value, each, None) for each in type(value).model_fields}
        return {name: _form(fields, depth + 1)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: getattr(value, each.name, None) for each in dataclasses.fields(value)}
        return {name: _form(fields, depth + 1)}
    return f"{name} {without_ids(repr(value))}"


def plainer(form: Any) -> Any:
    """The form with the plain type in place of each tuple, and of what is derived from str, list or dict."""
    if isinstance(form, dict):
        if len(form) == 1 and (name := next(iter(form))).startswith("<"):
            inner = form[name]
            if name == "<tuple>" or isinstance(inner, str | list):
                return plainer(inner)
        return {key: plainer(each) for key, each in form.items()}
    return [plainer(each) for each in form] if isinstance(form, list) else form


def payload_of(value: Any) -> Any:
    """The value, made of JSON's types alone. Raises NotJson for what is not, and would arrive as another."""
    if value is None or type(value) in (bool, str):
        return value
    if type(value) in (int, float) and abs(value) <= 2**53:
        return value
    if type(value) is list:
        return [payload_of(each) for each in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: payload_of(each) for key, each in value.items()}
    raise NotJson(type(value).__name__)
