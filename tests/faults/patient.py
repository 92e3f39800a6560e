"""A process of the product whose calls wait for as long as it takes."""

from __future__ import annotations

from typing import Any


def be_patient() -> None:
    """For tests that hold a lock until something has happened, which may take longer on a busy machine."""
    from runengine_gateway.app import create_gateway
    from runengine_server.database.connecting import CALL_SETTINGS
    from runengine_server.database.database import Database

    connection: Any = Database.connection
    connection.__defaults__ = (3600,)
    CALL_SETTINGS["statement_timeout"] = "0"
    gateway: Any = create_gateway
    gateway.__kwdefaults__["deadline_seconds"] = 3600
