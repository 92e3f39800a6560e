"""What the driver raises, in our words; and what was behind it, in the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from runengine_server.domain.errors import StatementRefused, Unavailable
from runengine_server.repositories.connecting import sqlstate

# What means that the statement, or a value in it, is wrong; anything else that PostgreSQL says is a
# state of it that will pass. The second is asyncpg's own, an InterfaceError that says nothing of the
# connection.
PERMANENT_ERRORS = (
    asyncpg.DataError,
    asyncpg.exceptions._base.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.ProgramLimitExceededError,
)
# The last is what asyncpg says of a connection that PostgreSQL ended with an error while it was idle.
TRANSIENT_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
    asyncpg.InternalClientError,
)

# How often one kind of trouble is told of.
_TELL_SECONDS = 30.0

_log = structlog.get_logger()
_told: dict[tuple[str, str | None], float] = {}


@contextmanager
def translate_driver_errors() -> Iterator[None]:
    """Raises StatementRefused for a statement that is wrong, and Unavailable for all else that the
    database or the way to it does, so that no word of the driver's leaves the repositories.
    """
    try:
        yield
    except PERMANENT_ERRORS as error:
        raise StatementRefused from error
    except TRANSIENT_ERRORS as error:
        tell(error)
        raise Unavailable from error


def tell(error: BaseException) -> None:
    """Logs what kind of trouble it is, once in a while: a database that is away fails every call. Not
    what it says, which may quote values.
    """
    kind = (type(error).__name__, sqlstate(error))
    now = time.monotonic()
    if now - _told.get(kind, -_TELL_SECONDS) >= _TELL_SECONDS:
        _told[kind] = now
        _log.warning("trouble with the database", error=kind[0], sqlstate=kind[1])
