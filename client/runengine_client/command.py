"""What the commands of `runengine` share: their common options, the client, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from runengine_client import tables
from runengine_client.client import RunEngineClient
from runengine_client.errors import RunEngineError

DEFAULT_ADDRESS = "127.0.0.1:50051"
NOT_DONE, USAGE, NOT_COMPLETED, INTERRUPTED = 1, 2, 3, 130

Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help=f"Address of the run engine. Default: RUNENGINE_GRPC_ADDRESS, or else {DEFAULT_ADDRESS}.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="JWT",
        help="Token of the caller, which also names the tenant. Default: RUNENGINE_TOKEN.",
    ),
]
Secure = Annotated[bool, typer.Option("--secure", help="Use TLS.")]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print the JSON that REST returns, not a table."),
]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of every command, which may stand before its name or after it."""

    address: str | None
    token: str | None
    secure: bool
    as_json: bool


def _show_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"runengine {version('runengine')}\n")
        raise typer.Exit


def read_global_options(
    ctx: typer.Context,
    address: Address = None,
    token: Token = None,
    secure: Secure = False,
    as_json: AsJson = False,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """The callback of the app, for options before the name of the command."""
    read_options(ctx, address, token, secure, as_json)


def read_options(
    ctx: typer.Context,
    address: Address = None,
    token: Token = None,
    secure: Secure = False,
    as_json: AsJson = False,
) -> None:
    """The options that stand before the name of a command, or after it."""
    ctx.obj = Options(address, token, secure, as_json)


@dataclass(frozen=True, slots=True)
class Session:
    """What a command gets: the client, and where its output goes."""

    client: RunEngineClient
    as_json: bool
    out: Console
    err: Console

    def show(self, view: RenderableType, document: dict[str, Any]) -> None:
        """Prints the view for a person, or the document for a program."""
        if self.as_json:
            text = json.dumps(document, indent=2, ensure_ascii=self.out.encoding != "utf-8")
            self.out.out(text, highlight=False)
        elif isinstance(view, Text):
            print_words(self.out, view)
        else:
            self.out.print(view)

    def note(self, line: str) -> None:
        """Prints what a person should know beside the output."""
        print_words(self.err, tables.plain(line))


Body = Callable[..., Awaitable[None]]


def add_command(group: typer.Typer, name: str, body: Body) -> None:
    """Adds `async def body(session, …)` as a command with the body's other parameters and the Options."""

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
    context, *shared = inspect.signature(read_options, eval_str=True).parameters.values()
    _, *parameters = inspect.signature(body, eval_str=True).parameters.values()
    last = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shared]
    run.__signature__ = inspect.Signature([context, *parameters, *last])  # type: ignore[attr-defined]
    run.__doc__ = body.__doc__
    # Click would cut the first sentence, so that it fits on a line.
    summary = inspect.getdoc(body) or ""
    group.command(name, short_help=" ".join(summary.split()).partition(". ")[0].removesuffix(".") + ".")(run)


def _run(options: Options, body: Callable[[Session], Awaitable[None]]) -> None:
    err = Console(stderr=True, highlight=False)
    address = options.address or os.environ.get("RUNENGINE_GRPC_ADDRESS") or DEFAULT_ADDRESS
    token = (options.token or os.environ.get("RUNENGINE_TOKEN") or "").strip()
    if not token:
        print_error(
            err, "no token: `runengine-server token --org ORG` makes one for --token or RUNENGINE_TOKEN"
        )
        raise typer.Exit(USAGE)

    async def call() -> None:
        # asyncio.run's own handler has no wake-up descriptor: a Ctrl-C just before the loop begins to wait
        # for I/O would take effect only at the call's deadline. Windows has no add_signal_handler.
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
        _print_refusal(err, error, as_json=options.as_json)
        raise typer.Exit(NOT_DONE) from None
    except ValueError as error:
        print_error(err, str(error))
        raise typer.Exit(USAGE) from None


def _stdout() -> Console:
    # A pipe has no width of its own, and grep and awk expect one line a row.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    return Console(highlight=False, width=width)


def print_words(console: Console, text: Text) -> None:
    """Prints the text, in lines that end between words where it is known how long these are.

    A line with a longer word, such as a URL, and a text that has `no_wrap`, are left to the terminal: it
    breaks them so that they are copied in one piece.
    """
    is_pipe = not console.is_terminal and "COLUMNS" not in os.environ
    for line in text.split(allow_blank=True):
        is_long = any(cell_len(word) > console.width for word in line.plain.split())
        console.print(line, soft_wrap=is_pipe or is_long or bool(text.no_wrap))


def print_error(err: Console, sentence: str) -> None:
    """Prints an error in one sentence."""
    print_words(err, Text.assemble(("error: ", "bold red"), tables.plain(sentence)))


def _print_refusal(err: Console, error: RunEngineError, *, as_json: bool) -> None:
    violations = [f"{each.field}: {each.description}" for each in error.violations]
    # The server's own sentence lists the violations, which are printed one a line here.
    listed = violations and all(each in error.detail for each in violations)
    print_error(err, f"{'The request is malformed.' if listed else error.detail} ({error.reason})")
    for violation in violations:
        print_words(err, tables.plain(f"  {violation}"))
    if error.retry_after_seconds is not None:
        print_words(err, Text(f"  try again in {error.retry_after_seconds:g} s"))
    if as_json:
        document = {
            "reason": error.reason,
            "detail": error.detail,
            "metadata": error.metadata,
            "violations": [asdict(violation) for violation in error.violations],
        }
        err.out(json.dumps(document), highlight=False)
