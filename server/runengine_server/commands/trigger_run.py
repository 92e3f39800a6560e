"""Triggers a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher
from uuid import UUID

import uuid_utils.compat
from runengine.v1.run_service_pb2 import TriggerRunRequest

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import (
    IdempotencyKeyReused,
    InvalidArgument,
    PayloadTooLarge,
    TooManyQueued,
    Violation,
)
from runengine_server.domain.ids import NOT_A_UUID, parse_uuid
from runengine_server.domain.run import NewRun
from runengine_server.domain.struct import is_too_large, violations_of
from runengine_server.repositories.run_repository import (
    IdempotencyKey,
    MutationResult,
    Outcome,
    RunRepository,
)

# So many names of workflows are shown to who has misspelt one, and in so many bytes: errors are sent in
# trailers. To compare two names takes longer the longer both are.
_MAX_NAMES, _MAX_NAMES_BYTES = 20, 1000
_MAX_COMPARED = 64

# In characters.
MAX_THREAD_ID = 255


def check_trigger(request: TriggerRunRequest, violations: Sequence[Violation] = ()) -> NewRun:
    """The run that is requested, with a new id. Makes `context.campaignId` of the request lower case.

    Raises InvalidArgument with every violation, first those that the rules in the protos have found, and
    PayloadTooLarge above 256 KiB.
    """
    found = list(violations)
    if "\0" in request.workflow_name:
        found.append(Violation("workflow_name", "contains \\u0000"))
    structs = []
    if request.HasField("trigger_payload"):
        structs.append(request.trigger_payload)
        found += violations_of(request.trigger_payload, "trigger_payload")
    campaign_id: UUID | None = None
    thread_id: str | None = None
    if request.HasField("context"):
        structs.append(request.context)
        found += violations_of(request.context, "context")
        if "campaignId" in request.context.fields:
            given = request.context.fields["campaignId"]
            campaign_id = parse_uuid(given.string_value)
            if campaign_id is None:
                found.append(Violation("context.campaignId", NOT_A_UUID))
            else:
                given.string_value = str(campaign_id)
        if "threadId" in request.context.fields:
            thread_id = request.context.fields["threadId"].string_value
            if not 0 < len(thread_id) <= MAX_THREAD_ID:
                found.append(
                    Violation("context.threadId", f"must be a text of 1 to {MAX_THREAD_ID} characters")
                )
    if found:
        raise InvalidArgument(found)
    if is_too_large(*structs):
        raise PayloadTooLarge("Trigger payload and context together exceed 256 KiB of JSON.")
    return NewRun(uuid_utils.compat.uuid7(), request, campaign_id, thread_id)


async def trigger_run(
    runs: RunRepository,
    new: NewRun,
    actor: Actor,
    key: IdempotencyKey | None,
    queued_limit: int | None,
    known_workflows: Collection[str] = (),
    *,
    check_campaign: bool = False,
) -> MutationResult:
    """Stores the run and queues it. With `check_campaign` the result says whether its campaign is there.

    Raises IdempotencyKeyReused, InvalidArgument for a workflow that no worker has registered, with those of
    `known_workflows` whose names are the most like it, and TooManyQueued when the tenant has `queued_limit`
    runs queued already.
    """
    result = await runs.trigger(new, actor, key, queued_limit, check_campaign=check_campaign)
    if result.outcome is Outcome.KEY_REUSED:
        raise IdempotencyKeyReused
    if result.outcome is Outcome.UNKNOWN_WORKFLOW:
        raise InvalidArgument([_unknown(new.request.workflow_name, known_workflows)])
    if result.outcome is Outcome.OVER_QUOTA:
        raise TooManyQueued(queued_limit)
    return result


def _unknown(name: str, known: Collection[str]) -> Violation:
    def likeness(other: str) -> float:
        return SequenceMatcher(None, name[:_MAX_COMPARED], other[:_MAX_COMPARED]).ratio()

    description, shown, size = "is not the name of a registered workflow", [], 0
    for each in sorted(known, key=lambda other: (-likeness(other), other))[:_MAX_NAMES]:
        size += len(each.encode())
        if size > _MAX_NAMES_BYTES:
            break
        shown.append(each)
    if shown:
        these = "these are" if len(shown) == len(known) else f"of {len(known)}, the closest are"
        description += f"; {these} {', '.join(shown)}"
    return Violation("workflow_name", description)
