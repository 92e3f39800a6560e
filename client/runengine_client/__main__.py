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
from runengine_client.command import add_command, read_global_options

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

_CAMPAIGN_HELP = "Creates a campaign, or shows where it stands."
campaign_app = typer.Typer(help=_CAMPAIGN_HELP, short_help=_CAMPAIGN_HELP, no_args_is_help=True)
add_command(campaign_app, "create", campaign_commands.create)
add_command(campaign_app, "get", campaign_commands.get)
app.add_typer(campaign_app, name="campaign")

_BULK_HELP = "Retries or cancels many runs by one operation."
bulk_app = typer.Typer(help=_BULK_HELP, short_help=_BULK_HELP, no_args_is_help=True)
add_command(bulk_app, "retry", bulk_commands.retry)
add_command(bulk_app, "cancel", bulk_commands.cancel)
add_command(bulk_app, "list", bulk_commands.list_)
add_command(bulk_app, "show", bulk_commands.show)
add_command(bulk_app, "items", bulk_commands.items)
add_command(bulk_app, "abort", bulk_commands.abort)
app.add_typer(bulk_app, name="bulk")

_WEBHOOKS_HELP = "Has transitions of runs and campaigns sent to URLs."
webhooks_app = typer.Typer(help=_WEBHOOKS_HELP, short_help=_WEBHOOKS_HELP, no_args_is_help=True)
add_command(webhooks_app, "create", webhook_commands.create)
add_command(webhooks_app, "list", webhook_commands.list_)
add_command(webhooks_app, "update", webhook_commands.update)
add_command(webhooks_app, "delete", webhook_commands.delete)
add_command(webhooks_app, "deliveries", webhook_commands.deliveries)
add_command(webhooks_app, "retry", webhook_commands.retry)
app.add_typer(webhooks_app, name="webhooks")

_SCHEDULES_HELP = "Triggers runs by the clock."
schedules_app = typer.Typer(help=_SCHEDULES_HELP, short_help=_SCHEDULES_HELP, no_args_is_help=True)
add_command(schedules_app, "create", schedule_commands.create)
add_command(schedules_app, "list", schedule_commands.list_)
add_command(schedules_app, "show", schedule_commands.show)
add_command(schedules_app, "update", schedule_commands.update)
add_command(schedules_app, "delete", schedule_commands.delete)
app.add_typer(schedules_app, name="schedules")


def main() -> None:
    """Runs the command and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="runengine")


if __name__ == "__main__":
    main()
