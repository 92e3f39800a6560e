"""What each process repeats while it runs: it checks the database, and records that it uses its functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import structlog

from runengine_server.database.connecting import NotWritable
from runengine_server.database.database import Database
from runengine_server.database.driver_errors import DENIALS, error_fields
from runengine_server.metrics import DATABASE_UP

# How often the database is checked, and how long a check may take.
WATCH_SECONDS = 1.5

# How often it is checked, with `on_change`, that tables have room to grow, as long as they have.
DISK_SECONDS = 10.0

# How often a process records that it uses the functions of its version, which are kept for a day after that.
_USE_SECONDS = 3600.0

_log = structlog.get_logger()


async def watch_database(
    database: Database,
    on_change: Callable[[bool], None] | None = None,
    *,
    seconds: float = WATCH_SECONDS,
    disk_seconds: float = DISK_SECONDS,
) -> None:
    """Checks every `seconds` that the database responds and takes writes, and logs each change. `on_change`
    gets whether it does; only with it, the disk is checked too.

    The checks also find connections that the network has dropped without a reset, and close them.
    """
    working, disk_is_due = True, time.monotonic()
    DATABASE_UP.set(1)
    while True:
        await asyncio.sleep(seconds)
        try:
            await database.check(WATCH_SECONDS)
            if on_change is not None and (not working or time.monotonic() >= disk_is_due):
                disk_is_due = time.monotonic() + disk_seconds
                await database.check_disk()
            failure = None
        except Exception as error:
            failure = error
        if working == (failure is None):
            continue
        working = failure is None
        DATABASE_UP.set(working)
        if on_change is not None:
            on_change(working)
        _log_change(failure)


def _log_change(failure: Exception | None) -> None:
    if failure is None:
        _log.info("the database is back")
    elif isinstance(failure, DENIALS):
        _log.error("the database does not let us in", **error_fields(failure))
    elif isinstance(failure, NotWritable | asyncpg.DiskFullError):
        _log.error("the database takes no writes", **error_fields(failure))
    else:
        _log.error("the database cannot be reached", **error_fields(failure))


async def record_use(database: Database) -> None:
    """Records every hour that the functions of this version are in use, so that `migrate --prune` of another
    version keeps them.
    """
    while True:
        with suppress(Exception):  # watch_database logs what is wrong with the database
            await database.record_use()
        await asyncio.sleep(_USE_SECONDS)
