"""Installs the SQL functions of `functions/*.sql`, and makes the statements that call them.

A call of a function is one round trip and one transaction: the function makes the setting that the row-level
security policies read. Without functions that takes BEGIN with the setting, the statement, and COMMIT: three
round trips.

`migrate` installs the functions in a PostgreSQL schema that is named after a hash of them all, and a server
calls those of its own version, so that servers of two versions can share a database. A function that a server
calls keeps the search_path of its creation (`SET search_path FROM CURRENT`), and so does everything that it
calls in turn: names resolve the same way whatever the caller's path is. It costs PostgreSQL 3 µs a call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import asyncpg

FILES = {
    file.name: file.read_text()
    for file in sorted(files(__package__).joinpath("functions").iterdir(), key=lambda file: file.name)
    if file.name.endswith(".sql")
}

# The functions that tables call, statement by statement: see the file.
ENCODING = files(__package__).joinpath("encoding.sql").read_text().strip().removesuffix(";").split(";\n\n")


# The name of a function, its parameters, and its properties.
_FUNCTION = re.compile(r"^CREATE FUNCTION (\w+)\(([^)]*)\)([^$;]*)", re.MULTILINE)


@dataclass(frozen=True)
class _Function:
    """`is_reading`: it writes and locks nothing, which PostgreSQL ensures for a STABLE function, so its
    commit does not wait for a standby.
    """

    name: str
    parameters: int
    is_reading: bool

    @cached_property
    def call(self) -> str:
        """The statement that calls the function, whatever the search_path is."""
        return _call(self.name, self.parameters)


class TenantFunction(_Function):
    """A function that sees the rows of one tenant, its first parameter."""


class DispatchFunction(_Function):
    """A function that sees the rows of all tenants, for workers."""


@dataclass(frozen=True)
class BatchFunction:
    """A function, and the name of one that does the same for several tenants, or several calls."""

    one: TenantFunction
    many_name: str

    @property
    def name(self) -> str:
        """That of the first."""
        return self.one.name

    @cached_property
    def many(self) -> str:
        """The statement that calls the second."""
        return _call(self.many_name, self.one.parameters)


@dataclass(frozen=True)
class EachCall(BatchFunction):
    """Calls of a function that returns one row for each, as Batcher takes them. The function for several
    takes arrays and returns (place, row) of each, the first at place 1. `taken` are the indices of what it
    takes of the arguments of a call; the others are null in calls that are sent together. `turns` as of
    BatchedFunction.
    """

    taken: tuple[int, ...]
    turns: int

    @cached_property
    def many(self) -> str:
        """The statement that calls the second."""
        return _call(self.many_name, len(self.taken))

    def size(self, call: tuple[Any, ...]) -> int:
        """About so many bytes."""
        return sum(len(each) for each in call if isinstance(each, bytes))

    def statement(self, calls: Sequence[tuple[Any, ...]]) -> tuple[str, Sequence[Any]]:
        """The statement for these arguments of calls, and its own arguments."""
        if len(calls) == 1:
            return self.one.call, calls[0]
        columns = list(zip(*calls, strict=True))
        return self.many, [list(columns[index]) for index in self.taken]

    def results(self, calls: Sequence[object], rows: Sequence[asyncpg.Record]) -> Sequence[asyncpg.Record]:
        """The row of each call."""
        if len(calls) == 1:
            return rows
        results = {row["place"]: row["result"] for row in rows}
        return [results[place] for place in range(1, len(calls) + 1)]


def _call(name: str, parameters: int) -> str:
    numbers = ", ".join(f"${number}" for number in range(1, parameters + 1))
    return f"SELECT * FROM {schema()}.{name}({numbers})"  # noqa: S608 - names of our own


def tenant_function(name: str) -> TenantFunction:
    """The function of that name. Raises KeyError when there is none, or its first parameter is no tenant."""
    parameters, is_reading = _declared()[name]
    if parameters[:1] != ["_tenant text"]:
        raise KeyError(f"{name} takes no tenant")
    return TenantFunction(name, len(parameters), is_reading)


def dispatch_function(name: str) -> DispatchFunction:
    """The function of that name. Raises KeyError when there is none, or its first parameter is a tenant."""
    parameters, is_reading = _declared()[name]
    if parameters and parameters[0].startswith("_tenant text"):
        raise KeyError(f"{name} takes a tenant")
    return DispatchFunction(name, len(parameters), is_reading)


def each_call(one: str, many: str, turns: int = 0) -> EachCall:
    """Of the two functions of these names. Raises KeyError as tenant_function does, and when the second takes
    anything but arrays of what the first takes.
    """
    function = tenant_function(one)
    parameters = {f"{each}[]": index for index, each in enumerate(_declared()[one][0])}
    return EachCall(function, many, tuple(parameters[each] for each in _declared()[many][0]), turns)


def of_tenants(one: str, many: str) -> BatchFunction:
    """Of the two functions of these names, for one tenant and for several. Raises KeyError as tenant_function
    does, and when their parameters differ in more than that.
    """
    function = tenant_function(one)
    if _declared()[many][0] != ["_tenant text[]", *_declared()[one][0][1:]]:
        raise KeyError(f"{many} takes no tenants and what {one} takes")
    return BatchFunction(function, many)


@cache
def _declared() -> dict[str, tuple[list[str], bool]]:
    """The parameters of each function, and whether it is STABLE."""
    return {
        name: ([each.strip() for each in parameters.split(",") if each], "STABLE" in properties)
        for text in FILES.values()
        for name, parameters, properties in _FUNCTION.findall(text)
    }


@cache
def schema() -> str:
    """The name of the PostgreSQL schema with the functions of this version."""
    return f"runengine_{hashlib.sha256(''.join(FILES.values()).encode()).hexdigest()[:12]}"


def search_path() -> str:
    """The search_path of the functions. PostgreSQL's own names come first by default; temporary ones would
    come even before these, so they are put last. Tables and what migrations create are written with `public`.
    """
    return f"{schema()}, public, pg_temp"


# $1 is the name of a schema of functions.
RECORD_USE = """INSERT INTO public.function_schemas (name) VALUES ($1)
ON CONFLICT (name) DO UPDATE SET used_at = excluded.used_at"""

_UNUSED = """SELECT name FROM public.function_schemas
WHERE used_at < statement_timestamp() - interval '1 day' AND name <> $1"""


async def install(connection: asyncpg.Connection[asyncpg.Record], application_role: str | None) -> None:
    """Creates the functions of this version where they are missing, as the owner of the tables, and lets the
    role call them.
    """
    if await connection.fetchval("SELECT to_regnamespace($1)", schema()) is None:
        statements = "\n".join(FILES.values())
        # Without check_function_bodies, because a function may call one of a later file.
        await connection.execute(
            f"BEGIN; CREATE SCHEMA {schema()}; SET LOCAL search_path = {search_path()}; "
            f"SET LOCAL check_function_bodies = off; {statements}; COMMIT"
        )
    await connection.execute(RECORD_USE, schema())
    if application_role is not None:
        await connection.execute(f"GRANT USAGE ON SCHEMA {schema()} TO {application_role}")


async def prune(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """Drops the functions of versions that no server has used for a day, and returns their schemas."""
    unused = [row["name"] for row in await connection.fetch(_UNUSED, schema())]
    for name in unused:
        await connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        await connection.execute("DELETE FROM public.function_schemas WHERE name = $1", name)
    return unused
