"""Translates the errors of the database driver into those of the domain, and logs what caused them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from runengine_server.database.connecting import NotGranted, NoUsableHost, describe_error, sqlstate
from runengine_server.domain.errors import Denied, StatementRefused, Unavailable

# The role may not do it, or may not any more. PostgreSQL's messages of these name roles and tables, and quote
# no value. The first is a SyntaxOrAccessError too, so these are caught before PERMANENT_ERRORS.
DENIALS = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError, NotGranted)

# The C function of PostgreSQL 15 to 18 that refuses a row which violates a policy. It does so with the code
# of a missing grant, but here it is a bug of the engine, and no grant would help.
_POLICY_CHECK = "ExecWithCheckOptions"

# The statement, or a value in it, is wrong: it would fail again. The second is asyncpg's own, an
# InterfaceError that has nothing to do with the connection.
PERMANENT_ERRORS = (
    asyncpg.DataError,
    asyncpg.exceptions._base.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.ProgramLimitExceededError,
)
# All other errors: the same statement may succeed later. The last is what asyncpg raises for a connection
# that PostgreSQL ended with an error while it was idle.
TRANSIENT_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
    asyncpg.InternalClientError,
)

DRIVER_ERRORS = (*DENIALS, *PERMANENT_ERRORS, *TRANSIENT_ERRORS)

# How often one kind of error is logged.
_LOG_SECONDS = 30.0

_log = structlog.get_logger()
_last_logged: dict[tuple[str, str | None], float] = {}


@contextmanager
def translate_driver_errors() -> Iterator[None]:
    """Raises StatementRefused for a statement that is wrong, Denied for one that the role may not execute,
    and Unavailable for every other error of the database or the network, so that no message of the driver
    leaves the repositories.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translated(error) from error


def translated(error: Exception) -> Exception:
    """What translate_driver_errors raises in place of the error; the error itself when it is not the
    driver's.
    """
    if isinstance(error, DENIALS) and getattr(error, "server_source_function", None) != _POLICY_CHECK:
        log_driver_error(error)
        return _caused_by(error, Denied())
    if isinstance(error, (*DENIALS, *PERMANENT_ERRORS)):
        return _caused_by(error, StatementRefused())
    if isinstance(error, TRANSIENT_ERRORS):
        log_driver_error(error)
        return _caused_by(error, Unavailable())
    return error


def _caused_by(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


def has_rolled_back(error: BaseException) -> bool:
    """Whether the transaction has changed nothing. After other errors, such as those of a connection that was
    lost or ended (SQLSTATE classes 08 and 57), it may have been committed.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (sqlstate(error) or "")[:2] not in ("08", "57")
    return isinstance(error, (StatementRefused, *PERMANENT_ERRORS))


def log_driver_error(error: BaseException) -> None:
    """Logs the error, each kind once in 30 seconds: a database that is away fails every call."""
    kind = (type(error).__name__, sqlstate(error))
    now = time.monotonic()
    if now - _last_logged.get(kind, -_LOG_SECONDS) >= _LOG_SECONDS:
        _last_logged[kind] = now
        _log.warning("trouble with the database", **error_fields(error))


def error_fields(error: BaseException) -> dict[str, str | None]:
    """The fields of a log line about the error: `error`, its type, `sqlstate`, and `why` for a denial and for
    hosts of which none can be used. The messages of other errors are left out, since they may quote values.
    """
    why = {"why": describe_error(error)} if isinstance(error, (*DENIALS, NoUsableHost)) else {}
    return {"error": type(error).__name__, "sqlstate": sqlstate(error), **why}
