"""serve, of which each trigger calls pg_notify in its transaction: `migrate` of it first, then `serve`."""

from __future__ import annotations

from runengine_server.__main__ import main as command
from runengine_server.database.channels import QUEUED
from runengine_server.database.notifier import Notifier

from tests.support.rewritten_functions import rewrite


def main() -> None:
    """The command of the product, with those triggers and without a notifier."""
    stored = "result.outcome := 'applied';"
    notifying = f"PERFORM pg_notify('{QUEUED}', '');"
    rewrite("trigger_run", stored, f"{stored} {notifying}")
    first = "    RETURN QUERY WITH call AS"
    rewrite("trigger_runs", first, f"    {notifying}\n{first}")
    Notifier.notify = lambda self, channel, payload="": None  # type: ignore[method-assign]
    command()


if __name__ == "__main__":
    main()
