"""Which database the settings name, and whether a process may work on it."""

from __future__ import annotations

import asyncpg
import structlog

from runengine_server.database.connecting import describe_error
from runengine_server.database.database import Database
from runengine_server.database.driver_errors import TRANSIENT_ERRORS
from runengine_server.database.integrity import find_damage
from runengine_server.database.postgres_url import parse_postgres_url
from runengine_server.domain.errors import Unavailable
from runengine_server.processes.embedded_urls import running_urls
from runengine_server.settings import Settings, SettingsError

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
    """The error of a database that cannot be used: one line with its host, without the password."""
    parsed = parse_postgres_url(url)
    reason = describe_error(error)
    if parsed.password:
        reason = reason.replace(parsed.password, "***")
    return SettingsError(f"{variable}: cannot use the database at {parsed.place}: {reason}")


def warn_of_ignored_options(variable: str, url: str | None) -> None:
    """Logs the options of the URL that have no effect here."""
    if url is not None and (ignored := parse_postgres_url(url).ignored):
        _log.warning("options of a database URL have no effect here", variable=variable, options=ignored)


async def open_database(
    settings: Settings, process: str, connections: int, kept_for_reads: int = 0
) -> Database:
    """The application's connections, the first of them open. Raises SettingsError unless `migrate` of this
    version has run, nothing is damaged, and row-level security binds the role.
    """
    _, url = database_urls(settings)
    warn_of_ignored_options("RUNENGINE_DATABASE_URL", settings.database_url)
    warn_of_ignored_options("RUNENGINE_LISTEN_DATABASE_URL", settings.listen_database_url)
    database = Database(
        url,
        connections,
        kept_for_reads=kept_for_reads,
        listen_url=settings.listen_database_url,
        process=process,
    )
    try:
        await database.open()
        bypass = await database.check()
        is_current = await database.has_functions()
        damage = await find_damage(database) if is_current else None
    except asyncpg.UndefinedTableError:
        raise SettingsError("the database has no schema yet: run `runengine-server migrate`") from None
    except (Unavailable, *TRANSIENT_ERRORS) as error:
        raise cannot_connect("RUNENGINE_DATABASE_URL", url, error) from None
    if not is_current:
        raise SettingsError("the database was migrated by another version: run `runengine-server migrate`")
    if bypass is not None:
        raise SettingsError(
            f"RUNENGINE_DATABASE_URL: {bypass}, so tenants would see each other's rows; give a role of the "
            "application's own, and the owner in RUNENGINE_OWNER_DATABASE_URL, and run `migrate`"
        )
    if damage is not None:
        raise SettingsError(f"the database is damaged: {damage}; restore it from a backup")
    return database


async def ensure_listening_works(settings: Settings, database: Database) -> None:
    """Raises SettingsError where LISTEN would receive nothing, without an error, because a pooler gives the
    session to other clients.
    """
    variable, url = "RUNENGINE_LISTEN_DATABASE_URL", settings.listen_database_url
    try:
        can_listen = await database.can_listen()
    except TRANSIENT_ERRORS as error:
        if url is None:
            variable, url = "RUNENGINE_DATABASE_URL", database_urls(settings)[1]
        raise cannot_connect(variable, url, error) from None
    if not can_listen:
        raise SettingsError(
            f"{variable} is {'that' if url else 'missing, and RUNENGINE_DATABASE_URL is that'} of a pooler "
            "which gives a session to others after each transaction, so a worker would hear of nothing; "
            "give the URL of PostgreSQL itself, or of a pooler in session mode"
        )
