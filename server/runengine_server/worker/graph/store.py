"""`runtime.store`: LangGraph's store in PostgreSQL, one for each tenant; each write is fenced."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from runengine_server.repositories.held_run_repository import StoreItem
from runengine_server.worker.graph.execution import Execution
from runengine_server.worker.graph.failures import StateTooLarge, ValueNotStorable

# In bytes; the three columns of the key have to fit into 2,704 together. Levels of a filter.
MAX_NAMESPACE, MAX_KEY, MAX_FILTER_DEPTH = 1024, 512, 32

_OPERATORS = frozenset(("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"))


class TenantStore(BaseStore):
    """What the runs of a tenant share, whatever their workflow. It has no vectors: `query` and `index` change
    nothing, as in LangGraph's own stores without an index; and no TTL, which is refused.

    Within a batch all is read before anything is written, and the last write of a key counts; the writes of a
    batch are one transaction. Every method raises ExecutionStopped when the run is no longer this worker's.
    """

    supports_ttl = False

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._held = execution.held
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """As abatch, from another thread than the event loop's, which cannot wait for itself."""
        if threading.get_ident() == self._thread:
            raise asyncio.InvalidStateError(
                "An async node awaits the store: aget, aput, asearch, adelete and alist_namespaces."
            )
        return asyncio.run_coroutine_threadsafe(self.abatch(ops), self._loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The result of each operation. Raises ValueError, TypeError and NotImplementedError for one that
        cannot be, before any of them has an effect.
        """
        asked = list(ops)
        for op in asked:
            _check(op)
        writes = {
            (path_of(op.namespace), op.key): None if op.value is None else self._encoded(op)
            for op in asked
            if isinstance(op, PutOp)
        }
        found = await self._get([op for op in asked if isinstance(op, GetOp)])
        results: list[Result] = []
        for op in asked:
            if isinstance(op, GetOp):
                item = found.get((path_of(op.namespace), op.key))
                results.append(None if item is None else Item(**_fields(item)))
            elif isinstance(op, SearchOp):
                results.append(await self._search(op))
            elif isinstance(op, ListNamespacesOp):
                results.append(await self._list_namespaces(op))
            else:
                results.append(None)
        if writes:
            await self._execution.fenced(self._held.write_items(writes))
        return results

    async def _get(self, ops: Sequence[GetOp]) -> dict[tuple[str, str], StoreItem]:
        if not ops:
            return {}
        keys = {(path_of(op.namespace), op.key) for op in ops}
        items = await self._execution.fenced(self._held.get_items(keys))
        return {(item.namespace, item.key): item for item in items}

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        wanted = json.dumps(op.filter) if op.filter else None
        items = await self._execution.fenced(
            self._held.search_items(path_of(op.namespace_prefix), wanted, op.limit, op.offset)
        )
        return [SearchItem(**_fields(item)) for item in items]

    async def _list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        beginnings = (_literal_labels(each) for each in conditions if each.match_type == "prefix")
        paths = await self._execution.fenced(
            self._held.list_namespaces(
                max((path_of(each) for each in beginnings), key=len, default=path_of(())),
                [_pattern_of(each) for each in conditions],
                op.max_depth,
                op.limit,
                op.offset,
            )
        )
        return [_labels_of(path) for path in paths]

    def _encoded(self, op: PutOp) -> str:
        """The value as JSON. Raises ValueNotStorable and StateTooLarge."""
        value, name = op.value, "/".join((*op.namespace, op.key))
        try:
            flaw = "the value of an item is a dict" if not isinstance(value, Mapping) else _flaw(dict(value))
            encoded = "" if flaw else json.dumps(dict(value or {}), ensure_ascii=False)
        except RecursionError:
            flaw = "it is nested too deep, or holds itself"
        except ValueError as error:  # a number of more than 4,300 digits
            flaw = str(error)
        if flaw is not None:
            raise ValueNotStorable(name, type(value).__qualname__, flaw)
        if (size := len(encoded.encode())) > (limit := self._execution.max_state_bytes):
            raise StateTooLarge(f"The value of {name!r} in the store", size, limit)
        return encoded


def path_of(namespace: Iterable[str]) -> str:
    """A namespace as it is stored: a dot before, between and after its labels."""
    return "." + "".join(f"{label}." for label in namespace)


def _labels_of(path: str) -> tuple[str, ...]:
    return tuple(path.split(".")[1:-1])


def _fields(item: StoreItem) -> dict[str, Any]:
    return {
        "namespace": _labels_of(item.namespace),
        "key": item.key,
        "value": json.loads(item.value),
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }


def _literal_labels(condition: MatchCondition) -> Sequence[str]:
    path = condition.path
    return path[: path.index("*")] if "*" in path else path


def _pattern_of(condition: MatchCondition) -> str:
    """A regular expression of PostgreSQL for the paths that match."""
    labels = "".join(f"{'[^.]+' if label == '*' else re.escape(label)}[.]" for label in condition.path)
    return f"^[.]{labels}" if condition.match_type == "prefix" else f"[.]{labels}$"


def _check(op: Op) -> None:
    """Raises ValueError, TypeError or NotImplementedError for what the store cannot do."""
    if not isinstance(op, GetOp | PutOp | SearchOp | ListNamespacesOp):
        raise ValueError(f"The store knows no operation {type(op).__qualname__}.")
    validate_op_namespace(op)
    if isinstance(op, GetOp | PutOp):
        _check_namespace(op.namespace)
        _check_key(op.key)
        if isinstance(op, PutOp) and op.ttl is not None:
            raise NotImplementedError("The store has no TTL; leave out ttl, and delete what has expired.")
        return
    if op.limit < 0 or op.offset < 0:
        raise ValueError("limit and offset of a search in the store are 0 or more.")
    if isinstance(op, SearchOp):
        _check_namespace(op.namespace_prefix)
        _check_filter(op.filter)
        return
    if op.max_depth is not None and op.max_depth < 0:
        raise ValueError("max_depth is 0 or more.")
    for condition in op.match_conditions or ():
        _check_namespace(condition.path)
        if condition.match_type not in ("prefix", "suffix"):
            raise ValueError(f"A namespace is matched by prefix or suffix, not by {condition.match_type!r}.")


def _check_namespace(namespace: Sequence[str]) -> None:
    if not all(_is_text(label) for label in namespace):
        raise InvalidNamespaceError("A label of a namespace is text that UTF-8 can encode.")
    if len(path_of(namespace).encode()) > MAX_NAMESPACE:
        raise InvalidNamespaceError(f"A namespace has at most {MAX_NAMESPACE:,} bytes, with a dot per label.")


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not _is_text(key) or len(key.encode()) > MAX_KEY:
        raise ValueError(f"The key of an item is text of at most {MAX_KEY} bytes, without NUL.")


def _check_filter(wanted: Any) -> None:
    if wanted is None:
        return
    if not isinstance(wanted, dict):
        raise TypeError("The filter of a search is a dict, from the names of fields to what they must be.")
    if flaw := _flaw(wanted, MAX_FILTER_DEPTH):
        raise ValueError(f"The filter of a search is no JSON: {flaw}.")
    for value in wanted.values():
        _check_operators(value)


def _check_operators(wanted: Any) -> None:
    if isinstance(wanted, list | tuple):
        for each in wanted:
            _check_operators(each)
    elif isinstance(wanted, dict):
        if not any(name.startswith("$") for name in wanted):
            for each in wanted.values():
                _check_operators(each)
        elif unknown := sorted(wanted.keys() - _OPERATORS):
            known = ", ".join(sorted(_OPERATORS))
            raise ValueError(f"The filter of a search has no operator {unknown[0]!r}; it has {known}.")


def _flaw(value: Any, depth: int | None = None) -> str | None:
    """Why the value is not what JSON gives back, tuples as lists; None when it is."""
    if depth is not None and depth < 0:
        return f"it is nested deeper than {MAX_FILTER_DEPTH} levels"
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, Enum):
        return f"a value of type {type(value).__qualname__!r} is not JSON"
    if isinstance(value, str):
        return None if _is_text(value) else "a text has NUL, or what UTF-8 cannot encode"
    if isinstance(value, int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"JSON has no number {value}"
    within = None if depth is None else depth - 1
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            return "a name in a dict is not text"
        inner: Iterable[Any] = (*value, *value.values())
    elif isinstance(value, list | tuple):
        inner = value
    else:
        return f"a value of type {type(value).__qualname__!r} is not JSON"
    return next((flaw for each in inner if (flaw := _flaw(each, within)) is not None), None)


def _is_text(text: str) -> bool:
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False
