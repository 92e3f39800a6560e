"""The statements that PostgreSQL keeps as functions, so that a call of one is one round trip.

They stand in `functions/*.sql`. `migrate` installs them in a PostgreSQL schema that is named after a hash of
them all, and a server calls those of its own version: so servers of two versions share a database. A function
makes the setting that the row-level security policies read in its own transaction. By itself that is BEGIN
with the setting, the statement, and COMMIT: three round trips.

What a server calls keeps the search_path that it was made with (`SET search_path FROM CURRENT`), and so does
whatever that calls: names mean the same on any path of the caller. It costs PostgreSQL 3 µs a call.
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

# What the tables call, statement by statement: see the file.
ENCODING = files(__package__).joinpath("encoding.sql").read_text().strip().removesuffix(";").split(";\n\n")


# Its name, its parameters, and what else is said of it before its body.
_FUNCTION = re.compile(r"^CREATE FUNCTION (\w+)\(([^)]*)\)([^$;]*)", re.MULTILINE)


@dataclass(frozen=True)
class _Function:
    """`is_reading`: it stores and locks nothing, which PostgreSQL ensures of a STABLE function, and so its
    commit waits for nobody.
    """

    name: str
    parameters: int
    is_reading: bool

    @cached_property
    def call(self) -> str:
        """The statement that calls it, whatever the search_path is."""
        numbers = ", ".join(f"${number}" for number in range(1, self.parameters + 1))
        return f"SELECT * FROM {schema()}.{self.name}({numbers})"  # noqa: S608 - names of our own


class TenantFunction(_Function):
    """One that sees the rows of the tenant that is its first parameter."""


class DispatchFunction(_Function):
    """One that sees the rows of all tenants, for workers."""


def tenant_function(name: str) -> TenantFunction:
    """Raises KeyError unless there is one of that name, for a tenant."""
    parameters, is_reading = _declared()[name]
    if parameters[:1] != ["_tenant text"]:
        raise KeyError(f"{name} is for no tenant")
    return TenantFunction(name, len(parameters), is_reading)


def dispatch_function(name: str) -> DispatchFunction:
    """Raises KeyError unless there is one of that name, for all tenants."""
    parameters, is_reading = _declared()[name]
    if parameters[:1] == ["_tenant text"]:
        raise KeyError(f"{name} is for one tenant")
    return DispatchFunction(name, len(parameters), is_reading)


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
    """The PostgreSQL schema that has the functions of this version."""
    return f"runengine_{hashlib.sha256(''.join(FILES.values()).encode()).hexdigest()[:12]}"


def search_path() -> str:
    """That of the functions: first, as always, what PostgreSQL has, and last what is temporary, which would
    come before all of it if it were not named. Tables and what migrations have made are named with `public`.
    """
    return f"{schema()}, public, pg_temp"


# $1 is a schema of functions.
NOTE_USE = """INSERT INTO public.function_schemas (name) VALUES ($1)
ON CONFLICT (name) DO UPDATE SET used_at = excluded.used_at"""

_UNUSED = """SELECT name FROM public.function_schemas
WHERE used_at < statement_timestamp() - interval '1 day' AND name <> $1"""


async def install(connection: asyncpg.Connection[asyncpg.Record], application_role: str | None) -> None:
    """Makes the functions of this version, as the owner of the tables, unless they are there, and lets the
    role call them.
    """
    if await connection.fetchval("SELECT to_regnamespace($1)", schema()) is None:
        statements = "\n".join(FILES.values())
        await connection.execute(
            f"BEGIN; CREATE SCHEMA {schema()}; SET LOCAL search_path = {search_path()}; {statements}; COMMIT"
        )
    await connection.execute(NOTE_USE, schema())
    if application_role is not None:
        await connection.execute(f"GRANT USAGE ON SCHEMA {schema()} TO {application_role}")


async def prune(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """Drops the functions of versions that no server has used for a day, and returns their schemas."""
    unused = [row["name"] for row in await connection.fetch(_UNUSED, schema())]
    for name in unused:
        await connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        await connection.execute("DELETE FROM public.function_schemas WHERE name = $1", name)
    return unused
