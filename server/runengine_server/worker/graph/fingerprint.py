"""Tells whether the code of a node is still that whose result was cached."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from langchain_core.runnables import Runnable, RunnableBinding, RunnableLambda, RunnableSequence
from langgraph._internal._runnable import RunnableCallable, RunnableSeq
from langgraph.pregel import Pregel

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))


def fingerprint(node: Runnable[Any, Any]) -> bytes:
    """A hash of the functions that a node consists of: their instructions, constants, names and defaults,
    what they close over, and the functions of their own module that they name. It is the same in each
    process, and when lines have moved; it is another with another version of Python.
    """
    digest = hashlib.sha256()
    for word in _words(node, set()):
        digest.update(word.encode("utf-8", "backslashreplace") + b"\0")
    return digest.digest()


def _words(value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    yield type(value).__qualname__
    for part in _parts(value):
        yield from _words(part, seen)


def _parts(value: Any) -> Iterator[Any]:
    """What counts of a value, in an order that is the same each time."""
    # Not the items of a list, a dict or a set, which may be others each time.
    if isinstance(value, tuple):
        yield from value
    elif isinstance(value, frozenset):
        yield from sorted(value, key=repr)
    elif isinstance(value, CodeType):
        yield from (value.co_code, value.co_consts, value.co_names, value.co_freevars)
    elif isinstance(value, FunctionType):
        yield from (value.__code__, value.__defaults__, tuple((value.__kwdefaults__ or {}).items()))
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_full(cell))
        named = (value.__globals__.get(name) for name in _names(value.__code__))
        yield from (each for each in named if isinstance(each, FunctionType) and _is_beside(each, value))
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, tuple(value.keywords.items()))
    elif isinstance(value, RunnableCallable):
        yield from (value.func, value.afunc)
    elif isinstance(value, RunnableLambda):
        yield from (getattr(value, "func", None), getattr(value, "afunc", None))
    elif isinstance(value, RunnableSeq | RunnableSequence):
        yield from value.steps
    elif isinstance(value, RunnableBinding):
        yield value.bound
    elif isinstance(value, Pregel):
        yield from ((name, node.bound) for name, node in value.nodes.items())
    elif callable(value) and isinstance(call := type(value).__call__, FunctionType):
        yield call


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _is_beside(named: FunctionType, function: FunctionType) -> bool:
    return named.__module__ == function.__module__


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a function that names itself, not bound yet
        return False
