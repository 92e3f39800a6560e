"""How long a test waits before it takes something to hang."""

from __future__ import annotations

import os
from typing import Any

# Named here and not in pytest's settings, for a mutant's tests are expected to wait for what never comes.
VARIABLE = "RUNENGINE_PATIENCE"

# What is waited for comes within a second, on a machine that has much else to do within many: no test is
# decided by this.
SECONDS = int(os.environ.get(VARIABLE, "120"))


def be_patient() -> None:
    """From now on this process of the product waits for the database and for answers as long as it takes: for
    tests that hold a lock until something has happened, which may take longer on a busy machine.
    """
    from runengine_server.gateway.app import create_gateway
    from runengine_server.repositories.connecting import OF_CALLS
    from runengine_server.repositories.database import Database

    connection: Any = Database.connection
    connection.__wrapped__.__defaults__ = (3600,)
    OF_CALLS["statement_timeout"] = "0"
    gateway: Any = create_gateway
    gateway.__kwdefaults__["deadline_seconds"] = 3600
