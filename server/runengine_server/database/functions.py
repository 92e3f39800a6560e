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
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

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
class BatchedFunction:
    """`one` is for one call. `many_name` is the name of one for several, which takes arrays of the same and
    returns (place, row) of each, the first at place 1.
    """

    one: TenantFunction
    many_name: str

    @cached_property
    def many(self) -> str:
        """The statement that makes several calls."""
        return _call(self.many_name, self.one.parameters)


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


def batched_function(one: str, many: str) -> BatchedFunction:
    """The two functions of these names. Raises KeyError as tenant_function does, and when their parameters
    differ.
    """
    function = tenant_function(one)
    if _declared()[many][0] != [f"{each}[]" for each in _declared()[one][0]]:
        raise KeyError(f"{many} takes no arrays of what {one} takes")
    return BatchedFunction(function, many)


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
