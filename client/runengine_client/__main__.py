"""The `runengine` command: the client's methods for a terminal and for scripts."""

from __future__ import annotations

import io
import sys

import typer

from runengine_client import (
    artifact_commands,
    bulk_commands,
    campaign_commands,
    list_commands,
    log_command,
    run_commands,
    schedule_commands,
    watch_command,
    webhook_commands,
)
from runengine_client.command import Body, add_command, read_global_options

app = typer.Typer(
    help="Triggers runs of the run engine, shows how they go, resumes, retries and cancels them.",
    epilog="Exit codes: 0 done; 1 refused or out of reach; 2 usage; 3 failed or cancelled (--wait, --watch, "
    "watch); 130 Ctrl-C, which ends no run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Typer's own tables cut long options at 60 columns: `--idempotency-k…`.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(read_global_options)
for _name, _body in (
    ("trigger", run_commands.trigger),
    ("get", run_commands.get),
    ("steps", run_commands.steps),
    ("step-data", run_commands.step_data),
    ("events", run_commands.events),
    ("logs", log_command.logs),
    ("watch", watch_command.watch),
    ("output", run_commands.output),
    ("runs", list_commands.runs),
    ("list", list_commands.list_),
    ("workflows", list_commands.workflows),
    ("retry", run_commands.retry),
    ("resume", run_commands.resume),
    ("cancel", run_commands.cancel),
    ("artifacts", artifact_commands.artifacts),
    ("download", artifact_commands.download),
):
    add_command(app, _name, _body)

_GROUPS: tuple[tuple[str, str, dict[str, Body]], ...] = (
    (
        "campaign",
        "Creates a campaign, or shows where it stands.",
        {"create": campaign_commands.create, "get": campaign_commands.get},
    ),
    (
        "bulk",
        "Retries or cancels many runs by one operation.",
        {
            "retry": bulk_commands.retry,
            "cancel": bulk_commands.cancel,
            "list": bulk_commands.list_,
            "show": bulk_commands.show,
            "items": bulk_commands.items,
            "abort": bulk_commands.abort,
        },
    ),
    (
        "webhooks",
        "Has transitions of runs and campaigns sent to URLs.",
        {
            "create": webhook_commands.create,
            "list": webhook_commands.list_,
            "show": webhook_commands.show,
            "update": webhook_commands.update,
            "rotate": webhook_commands.rotate,
            "delete": webhook_commands.delete,
            "deliveries": webhook_commands.deliveries,
            "retry": webhook_commands.retry,
        },
    ),
    (
        "schedules",
        "Triggers runs by the clock.",
        {
            "create": schedule_commands.create,
            "list": schedule_commands.list_,
            "show": schedule_commands.show,
            "update": schedule_commands.update,
            "delete": schedule_commands.delete,
        },
    ),
)

for _group, _help, _commands in _GROUPS:
    _app = typer.Typer(help=_help, short_help=_help, no_args_is_help=True)
    for _name, _command in _commands.items():
        add_command(_app, _name, _command)
    app.add_typer(_app, name=_group)


def main() -> None:
    """Runs the command and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="runengine")


if __name__ == "__main__":
    main()
