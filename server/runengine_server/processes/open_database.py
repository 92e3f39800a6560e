"""How a process comes to its database, and sees that it stays there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import structlog

from runengine_server.database.connecting import NotWritable, words
from runengine_server.database.damage import damage
from runengine_server.database.database import Database
from runengine_server.database.driver_errors import DENIALS, TRANSIENT_ERRORS, trouble
from runengine_server.database.postgres_url import parse_postgres_url
from runengine_server.domain.errors import Unavailable
from runengine_server.processes.embedded_postgres import running_urls
from runengine_server.settings import Settings, SettingsError

# How often a process looks whether the database is there, and how long that may take to answer.
_WATCH_SECONDS = 1.5

# How often a process that tells others looks whether there is room on the disk, while there is.
_DISK_SECONDS = 10.0

# How often a process says that it uses the functions of its version, which are kept for a day after that.
_USE_SECONDS = 3600.0

_log = structlog.get_logger()


def database_urls(settings: Settings) -> tuple[str, str]:
    """(owner's, application's) URL. Raises SettingsError when there is no database to be found."""
    if settings.database_url is not None:
        return settings.owner_database_url or settings.database_url, settings.database_url
    if (running := running_urls(settings.state_dir)) is not None:
        return running
    raise SettingsError(
        "there is no database: set RUNENGINE_DATABASE_URL, or run `runengine-server up`, which brings its own"
    )


def cannot_connect(variable: str, url: str, error: Exception) -> SettingsError:
    """One line that names the place, without the password."""
    parsed = parse_postgres_url(url)
    reason = words(error)
    if parsed.password:
        reason = reason.replace(parsed.password, "***")
    return SettingsError(f"{variable}: cannot use the database at {parsed.place}: {reason}")


def _say_what_is_ignored(variable: str, url: str | None) -> None:
    if url is not None and (ignored := parse_postgres_url(url).ignored):
        _log.warning("options of a database URL have no effect here", variable=variable, options=ignored)


async def open_database(
    settings: Settings, process: str, connections: int, kept_for_reads: int = 0
) -> Database:
    """The application's connections, one of them open, to a database that `migrate` of this version has
    been at, with a role that row-level security binds. Raises SettingsError.
    """
    _, url = database_urls(settings)
    _say_what_is_ignored("RUNENGINE_DATABASE_URL", settings.database_url)
    _say_what_is_ignored("RUNENGINE_LISTEN_DATABASE_URL", settings.listen_database_url)
    database = Database(
        url,
        connections,
        kept_for_reads=kept_for_reads,
        listen_url=settings.listen_database_url,
        process=process,
    )
    try:
        await database.open()
        flaw = await database.check()
        is_current = await database.has_functions()
        damaged = await damage(database) if is_current else None
    except asyncpg.UndefinedTableError:
        raise SettingsError("the database has no schema yet: run `runengine-server migrate`") from None
    except (Unavailable, *TRANSIENT_ERRORS) as error:
        raise cannot_connect("RUNENGINE_DATABASE_URL", url, error) from None
    if not is_current:
        raise SettingsError("the database was migrated by another version: run `runengine-server migrate`")
    if flaw is not None:
        raise SettingsError(
            f"RUNENGINE_DATABASE_URL: {flaw}, so tenants would see each other's rows; give a role of the "
            "application's own, and the owner in RUNENGINE_OWNER_DATABASE_URL, and run `migrate`"
        )
    if damaged is not None:
        raise SettingsError(f"the database is damaged: {damaged}; restore it from a backup")
    return database


async def ensure_hearing(settings: Settings, database: Database) -> None:
    """Raises SettingsError where LISTEN would not work: nothing would be heard, and nobody would know."""
    variable, url = "RUNENGINE_LISTEN_DATABASE_URL", settings.listen_database_url
    try:
        hears = await database.hears()
    except TRANSIENT_ERRORS as error:
        if url is None:
            variable, url = "RUNENGINE_DATABASE_URL", database_urls(settings)[1]
        raise cannot_connect(variable, url, error) from None
    if not hears:
        raise SettingsError(
            f"{variable} is {'that' if url else 'missing, and RUNENGINE_DATABASE_URL is that'} of a pooler "
            "which gives a session to others after each transaction, so a worker would hear of nothing; "
            "give the URL of PostgreSQL itself, or of a pooler in session mode"
        )


async def note_use(database: Database) -> None:
    """Keeps what `migrate` of this version has made from being pruned, for as long as it runs."""
    while True:
        with suppress(Exception):  # watch() tells of what is wrong with the database
            await database.note_use()
        await asyncio.sleep(_USE_SECONDS)


async def watch(database: Database, tell: Callable[[bool], None] | None = None) -> None:
    """Looks whether the database answers and takes writes, and tells when that changes: with `tell`, also
    whether it has room for them. Also what makes it drop connections that the network has forgotten without
    a word.
    """
    working, disk_is_due = True, time.monotonic()
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        try:
            await database.check(_WATCH_SECONDS)
            if tell is not None and (not working or time.monotonic() >= disk_is_due):
                disk_is_due = time.monotonic() + _DISK_SECONDS
                await database.check_disk()
            failure = None
        except Exception as error:
            failure = error
        if working == (failure is None):
            continue
        working = failure is None
        if tell is not None:
            tell(working)
        if failure is None:
            _log.info("the database is back")
        elif isinstance(failure, DENIALS):
            _log.error("the database does not let us in", **trouble(failure))
        elif isinstance(failure, NotWritable | asyncpg.DiskFullError):
            _log.error("the database takes no writes", **trouble(failure))
        else:
            _log.error("the database cannot be reached", **trouble(failure))


async def migrate(settings: Settings, *, prune: bool = False) -> None:
    """Brings the database to the newest schema; `prune` as in migrations.migrate."""
    from sqlalchemy.exc import DBAPIError

    from runengine_server.database.migrations.migrate import SessionShared
    from runengine_server.database.migrations.migrate import migrate as run_migrations

    owner_url, url = database_urls(settings)
    _say_what_is_ignored("RUNENGINE_OWNER_DATABASE_URL", settings.owner_database_url)
    try:
        for schema in await run_migrations(owner_url, url, prune=prune):
            _log.info("functions of a version that no server uses were dropped", schema=schema)
    except SessionShared:
        raise SettingsError(
            f"{'RUNENGINE_OWNER_DATABASE_URL' if settings.owner_database_url else 'RUNENGINE_DATABASE_URL'} "
            "is that of a pooler which gives a session to others after each transaction, and a migration "
            "needs its own; give the URL of PostgreSQL itself"
        ) from None
    except (DBAPIError, *TRANSIENT_ERRORS) as error:
        cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
        if settings.owner_database_url is not None:
            raise cannot_connect("RUNENGINE_OWNER_DATABASE_URL", owner_url, cause) from None
        flaw = cannot_connect("RUNENGINE_DATABASE_URL", owner_url, cause)
        raise SettingsError(f"{flaw} (the schema's owner goes into RUNENGINE_OWNER_DATABASE_URL)") from None
