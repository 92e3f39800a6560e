"""The `runengine` command: the client's methods for a terminal and for scripts."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text
from runengine.v1.run_pb2 import Run, RunStatus
from runengine.v1.run_service_pb2 import ListCampaignRunsResponse

from runengine_client import tables
from runengine_client.client import RunEngineClient
from runengine_client.errors import RunEngineError
from runengine_client.json_view import campaign_json, events_json, page_json, run_json, steps_json
from runengine_client.structs import to_struct

DEFAULT_ADDRESS = "127.0.0.1:50051"
NOT_DONE, USAGE, NOT_COMPLETED, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    help="Triggers runs of the run engine, shows how they go, retries and cancels them.",
    epilog="Exit codes: 0 done; 1 refused or out of reach; 2 usage; 3 failed or cancelled, with --wait.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
campaign_app = typer.Typer(help="Creates a campaign, or shows where it stands.", no_args_is_help=True)
app.add_typer(campaign_app, name="campaign")

_PANEL = "Connection and output"
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help=f"Where the run engine listens: else RUNENGINE_GRPC_ADDRESS, else {DEFAULT_ADDRESS}.",
        rich_help_panel=_PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="JWT", help="Who calls, for which tenant: else RUNENGINE_TOKEN.", rich_help_panel=_PANEL
    ),
]
Secure = Annotated[bool, typer.Option("--secure", help="Speak TLS.", rich_help_panel=_PANEL)]
AsJson = Annotated[bool, typer.Option("--json", help="Print what REST answers.", rich_help_panel=_PANEL)]


@dataclass(frozen=True, slots=True)
class Options:
    """What every command takes, before its name or after it."""

    address: str | None
    token: str | None
    secure: bool
    as_json: bool


@app.callback()
def _options(
    ctx: typer.Context,
    address: Address = None,
    token: Token = None,
    secure: Secure = False,
    as_json: AsJson = False,
) -> None:
    ctx.obj = Options(address, token, secure, as_json)


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with: the client, and where its output goes."""

    client: RunEngineClient
    as_json: bool
    out: Console
    err: Console

    def show(self, view: RenderableType, document: dict[str, Any]) -> None:
        """Prints the view for a person, or the document for a program."""
        if self.as_json:
            text = json.dumps(document, indent=2, ensure_ascii=self.out.encoding != "utf-8")
            self.out.out(text, highlight=False)
        else:
            # Plain text wraps in the terminal alone, so that a long URL is copied in one piece.
            self.out.print(view, soft_wrap=isinstance(view, Text))


Body = Callable[..., Awaitable[None]]


def _command(group: typer.Typer, name: str) -> Callable[[Body], Body]:
    """Makes `async def body(session, …)` a command that takes its other parameters and the Options."""

    def register(body: Body) -> Body:
        def run(ctx: typer.Context, **arguments: Any) -> None:
            own = Options(*(arguments.pop(shared) for shared in Options.__slots__))
            outer: Options = ctx.obj
            _run(
                Options(
                    own.address or outer.address,
                    own.token or outer.token,
                    own.secure or outer.secure,
                    own.as_json or outer.as_json,
                ),
                lambda session: body(session, **arguments),
            )

        # Typer reads the options of a command from the signature of its function.
        context, *shared = inspect.signature(_options, eval_str=True).parameters.values()
        _, *parameters = inspect.signature(body, eval_str=True).parameters.values()
        last = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shared]
        run.__signature__ = inspect.Signature([context, *parameters, *last])  # type: ignore[attr-defined]
        run.__doc__ = body.__doc__
        group.command(name)(run)
        return body

    return register


def _run(options: Options, body: Callable[[Session], Awaitable[None]]) -> None:
    err = Console(stderr=True, highlight=False)
    address = options.address or os.environ.get("RUNENGINE_GRPC_ADDRESS") or DEFAULT_ADDRESS
    token = (options.token or os.environ.get("RUNENGINE_TOKEN") or "").strip()
    if not token:
        _complain(
            err, "no token: `runengine-server token --org ORG` makes one for --token or RUNENGINE_TOKEN"
        )
        raise typer.Exit(USAGE)

    async def call() -> None:
        # asyncio.run's own handler has no wake-up descriptor: a Ctrl-C that comes just as the loop goes to
        # sleep would wait there for the call's deadline. Windows has none of this.
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
        async with RunEngineClient(address, token, secure=options.secure) as client:
            await body(Session(client, options.as_json, _stdout(), err))

    try:
        asyncio.run(call())
    except asyncio.CancelledError:
        raise typer.Exit(INTERRUPTED) from None
    except RunEngineError as error:
        _explain(err, error, as_json=options.as_json)
        raise typer.Exit(NOT_DONE) from None
    except ValueError as error:
        _complain(err, str(error))
        raise typer.Exit(USAGE) from None


def _stdout() -> Console:
    # A pipe has no width of its own, and grep and awk expect one line a row.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    return Console(highlight=False, width=width)


def _complain(err: Console, sentence: str) -> None:
    err.print(Text.assemble(("error: ", "bold red"), tables.plain(sentence)), soft_wrap=True)


def _explain(err: Console, error: RunEngineError, *, as_json: bool) -> None:
    violations = [f"{each.field}: {each.description}" for each in error.violations]
    # The server's own sentence is the list of the violations, which have lines of their own here.
    listed = violations and all(each in error.detail for each in violations)
    _complain(err, f"{'The request is malformed.' if listed else error.detail} ({error.reason})")
    for violation in violations:
        err.print(tables.plain(f"  {violation}"), soft_wrap=True)
    if error.retry_after_seconds is not None:
        err.print(f"  try again in {error.retry_after_seconds:g} s", soft_wrap=True)
    if as_json:
        document = {
            "reason": error.reason,
            "detail": error.detail,
            "metadata": error.metadata,
            "violations": [asdict(violation) for violation in error.violations],
        }
        err.out(json.dumps(document), highlight=False)


def _json_object(text: str) -> dict[str, Any]:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_no_duplicates)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}") from None
    try:
        to_struct(value, "$")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return dict(value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two equal keys; the first would vanish unnoticed.
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return value


class StatusWord(StrEnum):
    """What `--status` takes."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]
CampaignId = Annotated[
    str, typer.Argument(metavar="CAMPAIGN", help="Id of the campaign.", show_default=False)
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until the run has ended; exit with 3 unless it completed.")
]


@_command(app, "trigger")
async def trigger(
    session: Session,
    workflow: Annotated[
        str, typer.Argument(metavar="WORKFLOW", help="Name of the workflow.", show_default=False)
    ],
    payload: Annotated[
        Any,
        typer.Option(
            parser=_json_object, metavar="JSON|@FILE|-", help="Input of the workflow, a JSON object."
        ),
    ] = None,
    campaign: Annotated[
        str | None, typer.Option(metavar="CAMPAIGN", help="Id of the campaign that the run is for.")
    ] = None,
    context: Annotated[
        Any,
        typer.Option(
            parser=_json_object, metavar="JSON|@FILE|-", help="What the run belongs to, a JSON object."
        ),
    ] = None,
    priority: Annotated[
        int, typer.Option(metavar="N", help="-100 to 100; the greatest of the tenant's is taken first.")
    ] = 0,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key answers the same run again.")
    ] = None,
    wait: Wait = False,
) -> None:
    """Triggers a run and shows it."""
    run = await session.client.trigger_run(
        workflow,
        trigger_payload=payload,
        context=context,
        campaign_id=campaign,
        priority=priority,
        idempotency_key=idempotency_key,
        on_no_worker=lambda: session.err.print(
            tables.plain(f"no worker serves {workflow} at the moment: the run waits for one"), soft_wrap=True
        ),
    )
    await _show_run(session, run, wait=wait)


@_command(app, "get")
async def get(session: Session, run_id: RunId) -> None:
    """Shows a run."""
    await _show_run(session, await session.client.get_run(run_id))


@_command(app, "steps")
async def steps(
    session: Session,
    run_id: RunId,
    attempt: Annotated[
        int | None, typer.Option(metavar="N", help="Those executed so often, as they were then.")
    ] = None,
) -> None:
    """Shows the steps of a run, with their errors and artifacts."""
    answer = await session.client.list_run_steps(run_id, attempt=attempt)
    session.show(tables.steps_view(answer, session.out), steps_json(answer))


@_command(app, "events")
async def events(session: Session, run_id: RunId) -> None:
    """Shows the timeline of a run: when it went from which status to which, by whom and why."""
    answer = await session.client.list_run_events(run_id)
    session.show(tables.events_view(answer), events_json(answer))


@_command(app, "list")
async def list_(
    session: Session,
    campaign_id: CampaignId,
    status: Annotated[
        list[StatusWord] | None,
        typer.Option(
            metavar="STATUS", help="Only the queued, running, completed, failed or cancelled; repeatable."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many, 1 to 100; 20 if not given.")
    ] = None,
    offset: Annotated[int | None, typer.Option(metavar="N", help="Skip so many; 0 if not given.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All runs, however many.")] = False,
) -> None:
    """Shows the runs of a campaign, most recent first."""
    wanted = status or []
    if not all_:
        page = await session.client.list_campaign_runs(campaign_id, status=wanted, limit=limit, offset=offset)
        view = tables.runs_view(page.runs, page.total, page.offset, session.out)
        session.show(view, page_json(page))
        return
    if limit is not None or offset is not None:
        raise ValueError("--all goes without --limit and --offset")
    page = await session.client.list_campaign_runs(campaign_id, status=wanted, limit=1)
    runs = [run async for run in session.client.iterate_campaign_runs(campaign_id, status=wanted)]
    whole = ListCampaignRunsResponse(
        runs=runs, total=len(runs), limit=len(runs), status_counts=page.status_counts
    )
    session.show(tables.runs_view(runs, len(runs), 0, session.out), page_json(whole))


@_command(app, "retry")
async def retry(session: Session, run_id: RunId, wait: Wait = False) -> None:
    """Queues a failed or cancelled run again; its completed steps are kept."""
    await _show_run(session, await session.client.retry_run(run_id), wait=wait)


@_command(app, "cancel")
async def cancel(session: Session, run_id: RunId) -> None:
    """Cancels a queued or running run."""
    await _show_run(session, await session.client.cancel_run(run_id))


@_command(app, "download")
async def download(
    session: Session,
    artifact_id: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="Id or URL of the artifact.", show_default=False)
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to; - is stdout. If not given: here, under its own name.",
        ),
    ] = None,
) -> None:
    """Saves an artifact to a file."""
    # `campaign get` shows a URL, and that is what gets pasted.
    artifact_id = artifact_id.rpartition("/artifacts/")[2]
    artifact = await session.client.download_artifact(artifact_id)
    if output == "-":
        sys.stdout.buffer.write(artifact.data)
        return
    # The name comes from a workflow: it must lead nowhere but here, and replace nothing.
    path = Path(output or Path(artifact.name).name or artifact_id)
    try:
        _save(path, artifact.data, replace=output is not None)
    except FileExistsError:
        _complain(session.err, f"{path} is there already; -o FILE saves it elsewhere, or over it")
        raise typer.Exit(NOT_DONE) from None
    except OSError as error:
        _complain(session.err, f"cannot write {path}: {error.strerror}")
        raise typer.Exit(NOT_DONE) from None
    size = len(artifact.data)
    session.show(
        tables.plain(f"{path}  {artifact.media_type}  {size:,} bytes"),
        {"file": str(path), "mediaType": artifact.media_type, "size": size},
    )


def _save(path: Path, data: bytes, *, replace: bool) -> None:
    with path.open("wb" if replace else "xb") as file:
        file.write(data)


@_command(campaign_app, "create")
async def campaign_create(
    session: Session,
    campaign_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="UUID; the server makes one if absent.", show_default=False),
    ] = None,
) -> None:
    """Creates a draft campaign and shows it; one that is there already is shown as it is."""
    campaign = await session.client.create_campaign(campaign_id)
    session.show(tables.campaign_view(campaign), campaign_json(campaign))


@_command(campaign_app, "get")
async def campaign_get(session: Session, campaign_id: CampaignId) -> None:
    """Shows where a campaign stands."""
    campaign = await session.client.get_campaign(campaign_id)
    session.show(tables.campaign_view(campaign), campaign_json(campaign))


async def _show_run(session: Session, run: Run, *, wait: bool = False) -> None:
    if wait:
        run = await _wait(session, run.id)
    session.show(tables.run_view(run), run_json(run))
    if wait and run.status != RunStatus.RUN_STATUS_COMPLETED:
        raise typer.Exit(NOT_COMPLETED)


async def _wait(session: Session, run_id: str) -> Run:
    if not session.err.is_terminal:
        return await session.client.wait(run_id)
    shown: dict[str, tuple[int, int]] = {}
    session.err.print(f"run {run_id}", style="dim")
    async for run in session.client.follow_run(run_id):
        for step in await session.client.list_run_steps(run.id):
            if shown.get(step.id) != (step.status, step.attempt):
                shown[step.id] = (step.status, step.attempt)
                session.err.print(tables.step_line(step))
    session.err.print()
    return run


def main() -> None:
    """Runs the command and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="runengine")


if __name__ == "__main__":
    main()
