"""The commands of runengine-server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    import uvloop

    from runengine_server import logs
    from runengine_server.auth import development
    from runengine_server.processes import app, backup
    from runengine_server.processes.children import ChildFailed
    from runengine_server.processes.start_database import migrate
    from runengine_server.processes.up import up
    from runengine_server.settings import Settings, SettingsError, read_settings
except ModuleNotFoundError as missing:
    sys.exit(f"runengine-server needs {missing.name}: pip install 'runengine[server]'")

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _run(process: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    logs.configure_logging()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(logs.log_unhandled)
            runner.run(process(read_settings()))
    except SettingsError as error:
        logs.say(f"runengine-server: {error}")
        sys.exit(1)
    except ChildFailed:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@cli.command("up")
def _up() -> None:
    """Start everything: PostgreSQL, migrations, gRPC, REST, one worker."""
    _run(up)


@cli.command("serve")
def _serve(
    processes: Annotated[int, typer.Option(help="How many share the port, one for each core.", min=1)] = 1,
    shares_port: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """The gRPC server alone."""
    if processes > 1:
        _run(partial(app.serve_processes, processes=processes))
    else:
        _run(partial(app.serve, shares_port=shares_port))


@cli.command("gateway")
def _gateway() -> None:
    """The REST gateway alone."""
    _run(app.gateway)


@cli.command("worker")
def _worker() -> None:
    """One worker alone."""
    _run(app.worker)


@cli.command("migrate")
def _migrate(
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Drop the functions of versions unused for a day."),
    ] = False,
) -> None:
    """Bring the database to the newest schema."""
    _run(partial(migrate, prune=prune))


@cli.command("backup")
def _backup(file: Path) -> None:
    """Write the database and the artifacts into FILE, while everything goes on."""
    _run(partial(backup.backup, file=file))


@cli.command("restore")
def _restore(file: Path) -> None:
    """Bring what `backup` wrote into an empty database and an empty state directory."""
    _run(partial(backup.restore, file=file))


@cli.command("cache")
def _cache(
    clear: Annotated[bool, typer.Option("--clear", help="Forget what steps have cached.")] = False,
    workflow: Annotated[str | None, typer.Option(help="Of this workflow alone.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this organisation alone.")] = None,
) -> None:
    """Empty the cache of steps, or a part of it."""
    if not clear:
        raise typer.BadParameter("there is nothing to do without it", param_hint="--clear")
    _run(partial(app.clear_cache, workflow=workflow, tenant=tenant))


@cli.command("workflows")
def _workflows() -> None:
    """List the workflows, their workers and how many runs of each are queued."""
    _run(app.list_workflows)


@cli.command("token")
def _token(
    org: Annotated[str, typer.Option(help="The organisation, which is the tenant.")],
    user: Annotated[str, typer.Option(help="The user.")] = "user_development",
    ttl: Annotated[int, typer.Option(help="Seconds until it expires.", min=1)] = 3600,
) -> None:
    """Print a token signed with the development key of the state directory."""
    try:
        token = development.sign(read_settings().state_dir, org, user, ttl)
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"runengine-server: {error}\n")
        sys.exit(1)
    sys.stdout.write(token + "\n")


def main() -> None:
    """The entry point of the `runengine-server` command."""
    cli()


if __name__ == "__main__":
    main()
