"""The command that shows runs while they are executed."""

from __future__ import annotations

from typing import Annotated

import typer

from runengine_client.campaign_watching import watch_campaign
from runengine_client.command import Session
from runengine_client.watching import watch_run


async def watch(
    session: Session,
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)
    ] = None,
    campaign: Annotated[
        str | None,
        typer.Option(
            metavar="CAMPAIGN",
            help="Show the runs of that campaign instead, by its id, until none is queued or running.",
        ),
    ] = None,
) -> None:
    """Shows how a run goes, until it has ended: its steps, what its nodes tell, what its chat models say, and
    what it waits for. Exits with 3 unless it completed, and with --campaign if one of its runs failed or was
    cancelled. Ctrl-C ends the view alone.
    """
    if campaign is not None and run_id is None:
        await watch_campaign(session, campaign)
    elif run_id is not None and campaign is None:
        await watch_run(session, run_id)
    else:
        raise ValueError("give either RUN or --campaign CAMPAIGN")
