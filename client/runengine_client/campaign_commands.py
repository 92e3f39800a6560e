"""The commands on campaigns."""

from __future__ import annotations

from typing import Annotated

import typer

from runengine_client import tables
from runengine_client.command import Session
from runengine_client.json_view import campaign_json

CampaignId = Annotated[
    str, typer.Argument(metavar="CAMPAIGN", help="Id of the campaign.", show_default=False)
]


async def create(
    session: Session,
    campaign_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="Id of the campaign, a UUID. Default: a new one.", show_default=False
        ),
    ] = None,
) -> None:
    """Creates a draft campaign and shows it; one that is there already is shown as it is."""
    campaign = await session.client.create_campaign(campaign_id)
    session.show(tables.campaign_view(campaign), campaign_json(campaign))


async def get(session: Session, campaign_id: CampaignId) -> None:
    """Shows where a campaign stands."""
    campaign = await session.client.get_campaign(campaign_id)
    session.show(tables.campaign_view(campaign), campaign_json(campaign))
