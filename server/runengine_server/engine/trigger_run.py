"""Triggers a run."""

from __future__ import annotations

from uuid import UUID

import uuid_utils.compat
from google.protobuf.struct_pb2 import Struct

from runengine_server.domain.errors import InvalidArgument, PayloadTooLarge, Violation
from runengine_server.domain.ids import NOT_A_UUID, parse_uuid
from runengine_server.domain.run import Run
from runengine_server.domain.struct import is_too_large, violations_of
from runengine_server.repositories.run_repository import RunRepository


async def trigger_run(
    runs: RunRepository,
    workflow_name: str,
    trigger_payload: Struct | None,
    context: Struct | None,
    actor: str,
) -> Run:
    """Stores a run and queues it.

    `context.campaignId` is stored in lower case. Raises InvalidArgument with every violation, or
    for a workflow that no worker has registered; PayloadTooLarge above 256 KiB.
    """
    found: list[Violation] = []
    if not workflow_name:
        found.append(Violation("workflow_name", "is required"))
    if trigger_payload is not None:
        found += violations_of(trigger_payload, "trigger_payload")
    campaign_id: UUID | None = None
    if context is not None:
        found += violations_of(context, "context")
        if "campaignId" in context.fields:
            given = context.fields["campaignId"]
            campaign_id = parse_uuid(given.string_value)
            if campaign_id is None:
                found.append(Violation("context.campaignId", NOT_A_UUID))
            else:
                given.string_value = str(campaign_id)
    if found:
        raise InvalidArgument(found)
    encoded_payload = None if trigger_payload is None else trigger_payload.SerializeToString()
    encoded_context = None if context is None else context.SerializeToString()
    if is_too_large(encoded_payload, encoded_context):
        raise PayloadTooLarge("Trigger payload and context together exceed 256 KiB of JSON.")
    run = await runs.insert(
        uuid_utils.compat.uuid7(), workflow_name, encoded_payload, encoded_context, campaign_id, actor
    )
    if run is None:
        raise InvalidArgument([Violation("workflow_name", "is not the name of a registered workflow")])
    return run
