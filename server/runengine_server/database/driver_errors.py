"""What the driver raises, in our words; and what was behind it, in the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from runengine_server.database.connecting import NotGranted, sqlstate, words
from runengine_server.domain.errors import Denied, StatementRefused, Unavailable

# What means that the role may not do it (any more): what PostgreSQL says then names roles and tables, and
# quotes no value. Of these the first is a SyntaxOrAccessError too.
DENIALS = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError, NotGranted)

# What PostgreSQL 15 and 18 call the function that refuses a row which a policy does not let in, with the
# code of a missing grant: a fault of ours, and not of whoever grants.
_OF_POLICIES = "ExecWithCheckOptions"

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
    """Raises StatementRefused for a statement that is wrong, Denied for what the role may not do, and
    Unavailable for all else that the database or the way to it does, so that no word of the driver's leaves
    the repositories.
    """
    try:
        yield
    except DENIALS as error:
        if getattr(error, "server_source_function", None) == _OF_POLICIES:
            raise StatementRefused from error
        tell(error)
        raise Denied from error
    except PERMANENT_ERRORS as error:
        raise StatementRefused from error
    except TRANSIENT_ERRORS as error:
        tell(error)
        raise Unavailable from error


def tell(error: BaseException) -> None:
    """Logs what kind of trouble it is, once in a while: a database that is away fails every call."""
    kind = (type(error).__name__, sqlstate(error))
    now = time.monotonic()
    if now - _told.get(kind, -_TELL_SECONDS) >= _TELL_SECONDS:
        _told[kind] = now
        _log.warning("trouble with the database", **trouble(error))


def trouble(error: BaseException) -> dict[str, str | None]:
    """`error`, `sqlstate` and, of a denial, `why`, for a log line. Not what others say, which may quote
    values.
    """
    said = {"why": words(error)} if isinstance(error, DENIALS) else {}
    return {"error": type(error).__name__, "sqlstate": sqlstate(error), **said}
