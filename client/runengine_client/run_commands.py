"""The commands on runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from runengine.v1.run_pb2 import Run, RunStatus

from runengine_client import tables
from runengine_client.command import NOT_COMPLETED, NOT_DONE, Session
from runengine_client.errors import Overloaded, QuotaExceeded, RunEngineError
from runengine_client.json_argument import json_object, json_value
from runengine_client.json_view import events_json, run_json, step_data_json, steps_json
from runengine_client.step_tables import step_data_view, steps_view
from runengine_client.structs import struct_to_dict
from runengine_client.watch_lines import Lines
from runengine_client.watching import watch_run

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]
RunIds = Annotated[
    list[str], typer.Argument(metavar="RUN", help="Id of the run, or of several.", show_default=False)
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until the run has ended, and exit with 3 unless it completed.")
]
Watch = Annotated[
    bool,
    typer.Option("--watch", help="Show how the run goes, as `runengine watch` does, until it has ended."),
]


Workflow = Annotated[
    str | None,
    typer.Argument(
        metavar="WORKFLOW",
        help="Name of the workflow. With --from the one of that run is the default.",
        show_default=False,
    ),
]
Payload = Annotated[
    Any,
    typer.Option(
        parser=json_object,
        metavar="JSON|@FILE|-",
        help="Input of the workflow: a JSON object; @FILE reads a file, - reads stdin.",
    ),
]
Context = Annotated[
    Any,
    typer.Option(
        parser=json_object,
        metavar="JSON|@FILE|-",
        help="What the run belongs to: a JSON object; @FILE reads a file, - reads stdin.",
    ),
]
Priority = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Priority, -100 to 100: queued runs of the tenant with a greater one start first. Default: 0.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Makes the call safe to repeat: the same key and request return the same run.",
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Trigger one like that run: with its workflow, payload, context and priority, where they "
        "are not given.",
    ),
]


async def trigger(
    session: Session,
    workflow: Workflow = None,
    payload: Payload = None,
    campaign: Annotated[
        str | None, typer.Option(metavar="CAMPAIGN", help="Id of the campaign that the run works for.")
    ] = None,
    context: Context = None,
    priority: Priority = None,
    idempotency_key: Key = None,
    like: Like = None,
    wait: Wait = False,
    watch: Watch = False,
) -> None:
    """Triggers a run and shows it."""
    _refuse_both(wait, watch)
    if like is not None:
        model = await session.client.get_run(like)
        workflow = workflow or model.workflow_name
        if payload is None and model.HasField("trigger_payload"):
            payload = struct_to_dict(model.trigger_payload)
        if context is None and model.HasField("context"):
            context = struct_to_dict(model.context)
        priority = model.priority if priority is None else priority
    if workflow is None:
        raise ValueError("give a WORKFLOW, or --from RUN")
    run = await session.client.trigger_run(
        workflow,
        trigger_payload=payload,
        context=context,
        campaign_id=campaign,
        priority=priority or 0,
        idempotency_key=idempotency_key,
        on_no_worker=lambda: session.note(
            f"no worker serves {workflow} at the moment: the run waits for one"
        ),
        on_no_campaign=lambda: session.note("there is no such campaign: the run updates none"),
    )
    await _show_run(session, run, wait=wait, watch=watch)


async def get(session: Session, run_id: RunId) -> None:
    """Shows a run."""
    await _show_run(session, await session.client.get_run(run_id))


async def steps(
    session: Session,
    run_id: RunId,
    attempt: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Show each step as of its Nth execution. Steps with fewer executions are left out.",
        ),
    ] = None,
) -> None:
    """Shows the steps of a run, with their errors and artifacts."""
    found = await session.client.list_run_steps(run_id, attempt=attempt)
    session.show(steps_view(found, session.out), steps_json(found))


async def step_data(
    session: Session,
    run_id: RunId,
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP",
            help="Name of the step, or the id of one of those that have the name.",
            show_default=False,
        ),
    ],
    attempt: Annotated[
        int | None,
        typer.Option(metavar="N", help="Show its Nth execution. Default: its current one."),
    ] = None,
) -> None:
    """Shows what a step was called with and what it wrote, as JSON."""
    executed = await session.client.list_run_steps(run_id, attempt=attempt)
    named = [each for each in executed if step in (each.step_id, each.id)]
    if not named:
        raise ValueError(f"the run has no step {step!r}{'' if attempt is None else ' with that attempt'}")
    found = [(each, await session.client.get_step_data(run_id, each.id, attempt=attempt)) for each in named]
    view = step_data_view(found, ensure_ascii=session.out.encoding != "utf-8")
    session.show(view, step_data_json(found))


async def events(session: Session, run_id: RunId) -> None:
    """Shows the timeline of a run: when it went from which status to which, by whom and why."""
    found = await session.client.list_run_events(run_id)
    session.show(tables.events_view(found, session.out), events_json(found))


async def output(session: Session, run_id: RunId) -> None:
    """Shows what the graph of a completed run has returned, as JSON."""
    found = await session.client.get_run_output(run_id)
    document = {"output": found.value, "artifactId": found.artifact_id, "note": found.note}
    if found.artifact_id is not None:
        view = f"The output is larger than 1 MiB. `runengine download {found.artifact_id}` saves it."
    else:
        view = found.note or json.dumps(found.value, indent=2, ensure_ascii=session.out.encoding != "utf-8")
    session.show(tables.as_it_is(tables.plain(view)), document)


async def retry(session: Session, run_ids: RunIds, wait: Wait = False, watch: Watch = False) -> None:
    """Queues failed or cancelled runs again; their completed steps are kept."""
    _refuse_both(wait, watch)
    if len(run_ids) == 1:
        run = await session.client.retry_run(run_ids[0])
        await _show_run(session, run, wait=wait, watch=watch)
    elif wait or watch:
        raise ValueError("--wait and --watch go with one run")
    else:
        await _show_each(session, run_ids, session.client.retry_run)


async def resume(
    session: Session,
    run_id: RunId,
    value: Annotated[
        Any,
        typer.Option(
            parser=json_value,
            metavar="JSON|@FILE|-",
            help="What the run goes on with, where it waits for one thing: any JSON value; @FILE reads a "
            "file, - reads stdin.",
        ),
    ] = None,
    values: Annotated[
        Any,
        typer.Option(
            parser=json_object,
            metavar="JSON|@FILE|-",
            help="The same for each thing that it waits for: a JSON object with a value under each id.",
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Makes the call safe to repeat: it takes effect once."),
    ] = None,
    wait: Wait = False,
    watch: Watch = False,
) -> None:
    """Lets a run go on that waits for somebody."""
    _refuse_both(wait, watch)
    if (value is None) == (values is None):
        raise ValueError("give either --value or --values")
    given = {"values": values} if isinstance(values, dict) else {"value": value.value}
    run = await session.client.resume_run(run_id, **given, idempotency_key=idempotency_key)
    await _show_run(session, run, wait=wait, watch=watch)


async def cancel(session: Session, run_ids: RunIds) -> None:
    """Cancels queued or running runs."""
    if len(run_ids) == 1:
        await _show_run(session, await session.client.cancel_run(run_ids[0]))
    else:
        await _show_each(session, run_ids, session.client.cancel_run)


async def _show_each(session: Session, run_ids: Sequence[str], act: Callable[[str], Awaitable[Run]]) -> None:
    """Does it with each run, and shows what came of it; one that is refused keeps no other from it."""
    done: list[Run] = []
    refused: dict[str, RunEngineError] = {}
    for run_id in dict.fromkeys(run_ids):
        try:
            done.append(await act(run_id))
        except RunEngineError as error:
            refused[run_id] = error
    document: dict[str, list[dict[str, Any]]] = {
        "runs": [run_json(run) for run in done],
        "refused": [
            {"id": run_id, "reason": error.reason, "detail": str(error)} for run_id, error in refused.items()
        ],
    }
    below = f"{len(done)} done, {len(refused)} refused"
    session.show(tables.runs_view(done, below, session.out), document)
    for each in document["refused"]:
        session.note(f"{each['id']}: {each['detail']} ({each['reason']})")
    if refused:
        raise typer.Exit(NOT_DONE)


async def _show_run(session: Session, run: Run, *, wait: bool = False, watch: bool = False) -> None:
    if watch:
        await watch_run(session, run.id)
        return
    if wait:
        run = await _wait(session, run.id)
    session.show(tables.run_view(run), run_json(run))
    if wait and run.status != RunStatus.RUN_STATUS_COMPLETED:
        raise typer.Exit(NOT_COMPLETED)


async def _wait(session: Session, run_id: str) -> Run:
    try:
        if session.err.is_terminal:
            with suppress(QuotaExceeded, Overloaded):  # it can be waited for without being watched
                await _show_steps(session, run_id)
        is_waiting = False
        async for run in session.client.follow_run(run_id):
            if run.waiting_for and not is_waiting:
                _note_waiting(session, run_id)
            is_waiting = bool(run.waiting_for)
    except asyncio.CancelledError:
        session.note(f"The run goes on. `runengine watch {run_id}` shows it.")
        raise
    return run


async def _show_steps(session: Session, run_id: str) -> None:
    """Prints each step as it happens, until the run has ended."""
    session.err.print(f"run {run_id}", style="dim")
    lines = Lines(session.err)
    async for message in session.client.watch_run(run_id):
        if message.HasField("step"):
            lines.show_step(message.step)
        elif message.HasField("step_transition"):
            lines.show_step(message.step_transition)
        elif message.transition.reason == "WAITING" or message.run.waiting_for:
            _note_waiting(session, run_id)
    session.err.print()


def _note_waiting(session: Session, run_id: str) -> None:
    session.note(
        f"run {run_id} waits for somebody: `runengine get` says for what, `runengine resume` goes on"
    )


def _refuse_both(wait: bool, watch: bool) -> None:
    if wait and watch:
        raise ValueError("--watch goes without --wait")
