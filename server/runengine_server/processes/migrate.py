"""Brings the database to the newest schema."""

from __future__ import annotations

import structlog
from sqlalchemy.exc import DBAPIError

from runengine_server.database.driver_errors import TRANSIENT_ERRORS
from runengine_server.database.migrations import migrate as migrations
from runengine_server.processes.open_database import cannot_connect, database_urls, warn_of_ignored_options
from runengine_server.settings import Settings, SettingsError

_log = structlog.get_logger()


async def migrate(settings: Settings, *, prune: bool = False) -> None:
    """Brings the database to the newest schema, as the owner. `prune` also drops the SQL functions of
    versions that no server has used for a day. Raises SettingsError.
    """
    owner_url, url = database_urls(settings)
    has_owner_url = settings.owner_database_url is not None
    variable = "RUNENGINE_OWNER_DATABASE_URL" if has_owner_url else "RUNENGINE_DATABASE_URL"
    warn_of_ignored_options("RUNENGINE_OWNER_DATABASE_URL", settings.owner_database_url)
    try:
        for schema in await migrations.migrate(owner_url, url, prune=prune):
            _log.info("functions of a version that no server uses were dropped", schema=schema)
    except migrations.SessionShared:
        raise SettingsError(
            f"{variable} is that of a pooler which gives a session to others after each transaction, and a "
            "migration needs its own; give the URL of PostgreSQL itself"
        ) from None
    except (DBAPIError, *TRANSIENT_ERRORS) as error:
        cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
        refusal = cannot_connect(variable, owner_url, cause)
        if has_owner_url:
            raise refusal from None
        raise SettingsError(
            f"{refusal} (the schema's owner goes into RUNENGINE_OWNER_DATABASE_URL)"
        ) from None
