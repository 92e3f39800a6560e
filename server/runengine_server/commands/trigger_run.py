"""Triggers a run."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import uuid_utils.compat
from google.protobuf.struct_pb2 import Struct

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import InvalidArgument, PayloadTooLarge, TooManyQueued, Violation
from runengine_server.domain.ids import NOT_A_UUID, parse_uuid
from runengine_server.domain.run import NewRun
from runengine_server.domain.struct import is_too_large, violations_of
from runengine_server.repositories.run_repository import Acted, Once, Outcome, RunRepository


def check_trigger(
    workflow_name: str,
    trigger_payload: Struct | None,
    context: Struct | None,
    priority: int = 0,
    violations: Sequence[Violation] = (),
) -> NewRun:
    """The run that these words ask for, with a new id.

    `context.campaignId` becomes lower case. Raises InvalidArgument with every violation, first those that
    the rules in the protos have found, and PayloadTooLarge above 256 KiB.
    """
    found = list(violations)
    if "\0" in workflow_name:
        found.append(Violation("workflow_name", "contains \\u0000"))
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
    new = NewRun(
        id=uuid_utils.compat.uuid7(),
        workflow_name=workflow_name,
        trigger_payload=trigger_payload,
        context=context,
        campaign_id=campaign_id,
        priority=priority,
    )
    if is_too_large(new.trigger_payload, new.context):
        raise PayloadTooLarge("Trigger payload and context together exceed 256 KiB of JSON.")
    return new


async def trigger_run(
    runs: RunRepository, new: NewRun, actor: Actor, once: Once, queued_limit: int | None
) -> Acted:
    """Stores the run and queues it.

    Raises InvalidArgument for a workflow that no worker has registered, and TooManyQueued when the
    tenant has `queued_limit` runs queued already.
    """
    acted = await runs.trigger(new, actor, once, queued_limit)
    if acted.outcome is Outcome.UNKNOWN_WORKFLOW:
        raise InvalidArgument([Violation("workflow_name", "is not the name of a registered workflow")])
    if acted.outcome is Outcome.OVER_QUOTA:
        raise TooManyQueued(queued_limit)
    return acted
