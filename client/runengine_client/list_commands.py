"""The commands that list runs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from runengine.v1.list_runs_pb2 import ListRunsResponse
from runengine.v1.run_service_pb2 import ListCampaignRunsResponse
from runengine.v1.workflow_service_pb2 import ListWorkflowsResponse

from runengine_client import tables
from runengine_client.campaign_commands import CampaignId
from runengine_client.command import Session
from runengine_client.json_view import page_json, runs_json, workflow_json, workflows_json

_DURATION = re.compile("([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class StatusWord(StrEnum):
    """The values of `--status`."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def _moment(text: str) -> datetime:
    """That long ago, or the time; without a time zone it is UTC. Typer shows what a ValueError says."""
    if duration := _DURATION.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[duration[2]]: int(duration[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is neither a duration such as 30m, 12h, 1d or 2w, nor a time such as 2026-01-31"
        raise typer.BadParameter(message) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Statuses = Annotated[
    list[StatusWord] | None,
    typer.Option(
        metavar="STATUS",
        help="Only runs that are queued, running, completed, failed or cancelled. Repeatable.",
    ),
]
OfWorkflow = Annotated[str | None, typer.Option(metavar="WORKFLOW", help="Only runs of that workflow.")]
OfCampaign = Annotated[
    str | None, typer.Option(metavar="CAMPAIGN", help="Only runs of that campaign, by its id.")
]
OfError = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="Only runs that failed with that code, such as STEP_FAILED."),
]
Waiting = Annotated[bool, typer.Option("--waiting", help="Only runs that wait for somebody.")]
Since = Annotated[
    Any,
    typer.Option(
        parser=_moment,
        metavar="WHEN",
        help="Only runs triggered since then: 30m, 12h, 1d or 2w ago, or a time such as 2026-01-31.",
    ),
]
Until = Annotated[Any, typer.Option(parser=_moment, metavar="WHEN", help="Only runs triggered before that.")]
Limit = Annotated[
    int | None, typer.Option(metavar="N", help="Number of runs to show at most, 1 to 100. Default: 20.")
]
All = Annotated[bool, typer.Option("--all", help="Show all runs instead of one page.")]


async def runs(
    session: Session,
    status: Statuses = None,
    workflow: OfWorkflow = None,
    campaign: OfCampaign = None,
    error: OfError = None,
    waiting: Waiting = False,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    all_: All = False,
) -> None:
    """Finds runs of the tenant, most recent first. Takes one of --workflow and --campaign, and one of
    --status, --error and --waiting.
    """
    wanted: dict[str, Any] = {
        "status": status or [],
        "workflow_name": workflow,
        "campaign_id": campaign,
        "error_code": error,
        "waiting": waiting,
        "created_after": since,
        "created_before": until,
    }
    if all_:
        if limit is not None:
            raise ValueError("--all goes without --limit")
        found = [run async for run in session.client.iterate_runs(**wanted)]
        page = ListRunsResponse(runs=found, limit=len(found))
    else:
        page = await session.client.list_runs(**wanted, limit=limit)
    number = f"{len(page.runs)} run{'' if len(page.runs) == 1 else 's'}"
    below = f"the latest {number}; --all shows all" if page.HasField("next_page_token") else number
    session.show(tables.runs_view(page.runs, below, session.out), runs_json(page))


async def workflows(
    session: Session,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="WORKFLOW", help="Show its nodes, and what it takes and returns.", show_default=False
        ),
    ] = None,
) -> None:
    """Shows which workflows there are, and how many workers serve each."""
    found = [each async for each in session.client.iterate_workflows()]
    if name is None:
        document = workflows_json(ListWorkflowsResponse(workflows=found))
        session.show(tables.workflows_view(found, session.out), document)
        return
    named = next((each for each in found if each.name == name), None)
    if named is None:
        raise ValueError(f"there is no workflow {name!r}")
    session.show(tables.workflow_view(named), workflow_json(named))


async def list_(
    session: Session,
    campaign_id: CampaignId,
    status: Statuses = None,
    limit: Limit = None,
    offset: Annotated[
        int | None, typer.Option(metavar="N", help="Number of the most recent runs to skip. Default: 0.")
    ] = None,
    all_: All = False,
) -> None:
    """Shows the runs of a campaign, most recent first."""
    wanted = status or []
    if not all_:
        page = await session.client.list_campaign_runs(campaign_id, status=wanted, limit=limit, offset=offset)
        below = f"{len(page.runs)} of {page.total}, offset {page.offset}"
        session.show(tables.runs_view(page.runs, below, session.out), page_json(page))
        return
    if limit is not None or offset is not None:
        raise ValueError("--all goes without --limit and --offset")
    page = await session.client.list_campaign_runs(campaign_id, status=wanted, limit=1)
    runs = [run async for run in session.client.iterate_campaign_runs(campaign_id, status=wanted)]
    whole = ListCampaignRunsResponse(
        runs=runs, total=len(runs), limit=len(runs), status_counts=page.status_counts
    )
    below = f"{len(runs)} of {len(runs)}, offset 0"
    session.show(tables.runs_view(runs, below, session.out), page_json(whole))
