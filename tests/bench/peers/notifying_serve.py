"""serve, of which each trigger calls pg_notify in its transaction: `… notifying_serve serve`."""

from __future__ import annotations

from dataclasses import replace

from runengine_server.__main__ import main as command
from runengine_server.repositories import run_repository
from runengine_server.repositories.notifier import Notifier
from runengine_server.repositories.transition_sql import QUEUED

_STORED = "INTO answer FROM run;"

# The product's own, and that statement after what it has stored; under a name of its own.
NOTIFYING_TRIGGER = replace(
    run_repository._TRIGGER,
    query=run_repository._TRIGGER.query.replace(_STORED, f"{_STORED} PERFORM pg_notify('{QUEUED}', '');"),
)
assert NOTIFYING_TRIGGER.name != run_repository._TRIGGER.name, f"no {_STORED!r} in it any more"


def main() -> None:
    """The command of the product, with that trigger and without a notifier."""
    run_repository._TRIGGER = NOTIFYING_TRIGGER
    Notifier.notify = lambda self, channel, payload="": None  # type: ignore[method-assign]
    command()


if __name__ == "__main__":
    main()
