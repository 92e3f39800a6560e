"""Statements of SQLAlchemy Core, composed at run time, as asyncpg takes them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql import asyncpg

_DIALECT = asyncpg.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


def compiled(statement: ClauseElement) -> tuple[str, Sequence[object]]:
    """The SQL with the arguments $1, $2 and so on."""
    found = statement.compile(dialect=_DIALECT)
    return str(found), [found.params[name] for name in found.positiontup or ()]  # type: ignore[attr-defined]
