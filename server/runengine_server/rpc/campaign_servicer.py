"""CampaignService."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import grpc
import uuid_utils.compat
from runengine.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc

from runengine_server.database.database import Database
from runengine_server.domain.errors import CampaignNotFound
from runengine_server.domain.run import Campaign
from runengine_server.repositories.artifact_repository import ArtifactRepository
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.rpc.interceptor import caller
from runengine_server.rpc.messages import campaign_message
from runengine_server.rpc.validation import require_valid

Context = grpc.aio.ServicerContext[Any, Any]


class CampaignServicer(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Each method makes a response of the campaign, whose bundle may have a URL that expires."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._database = database
        self._artifacts = artifacts

    def _campaigns(self) -> CampaignRepository:
        return CampaignRepository(self._database.tenant(caller().tenant_id))

    async def CreateCampaign(  # noqa: N802, D102
        self, request: campaign_service_pb2.CreateCampaignRequest, context: Context
    ) -> campaign_service_pb2.CreateCampaignResponse:
        require_valid(request)
        given = UUID(request.id) if request.HasField("id") else uuid_utils.compat.uuid7()
        campaign = await self._campaigns().insert(given)
        return campaign_service_pb2.CreateCampaignResponse(campaign=await self._message(campaign))

    async def GetCampaign(  # noqa: N802, D102
        self, request: campaign_service_pb2.GetCampaignRequest, context: Context
    ) -> campaign_service_pb2.GetCampaignResponse:
        require_valid(request)
        campaign = await self._campaigns().get(UUID(request.campaign_id))
        if campaign is None:
            raise CampaignNotFound
        return campaign_service_pb2.GetCampaignResponse(campaign=await self._message(campaign))

    async def _message(self, campaign: Campaign) -> campaign_pb2.Campaign:
        """The campaign as callers see it. A URL that expires is made as often as it is read."""
        message = campaign_message(campaign)
        if campaign.bundle_url is not None and self._artifacts.presigns:
            bundle_id = UUID(campaign.bundle_url.rpartition("/")[2])
            bundle = await ArtifactRepository(self._database.tenant(caller().tenant_id)).get(bundle_id)
            if bundle is not None and (url := await self._artifacts.presigned(bundle.key)) is not None:
                message.bundle_url = url
        return message
