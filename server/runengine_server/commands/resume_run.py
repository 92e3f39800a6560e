"""Resumes a run that waits for somebody."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from runengine.v1.run_service_pb2 import ResumeRunRequest

from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import (
    IdempotencyKeyReused,
    InvalidArgument,
    PayloadTooLarge,
    RunNotFound,
    Violation,
)
from runengine_server.domain.run import Resumption
from runengine_server.domain.struct import is_too_large, violations_of
from runengine_server.domain.transitions import not_waiting
from runengine_server.repositories.run_repository import (
    IdempotencyKey,
    MutationResult,
    Outcome,
    RunRepository,
)


def check_resume(request: ResumeRunRequest, violations: Sequence[Violation] = ()) -> Resumption:
    """What is given to the run.

    Raises InvalidArgument with every violation, first those that the rules in the protos have found, and
    PayloadTooLarge above 256 KiB.
    """
    found = list(violations)
    values = Struct()
    for key in request.values:
        values.fields[key].CopyFrom(request.values[key])
    found += violations_of(values, "values")
    if request.HasField("value"):
        found += violations_of(request.value, "value")
    if found:
        raise InvalidArgument(found)
    if is_too_large(values, request.value):
        raise PayloadTooLarge("What is given to the run exceeds 256 KiB of JSON.")
    if request.HasField("value"):
        return Resumption(request.value.SerializeToString())
    return Resumption(None, values.SerializeToString(), tuple(request.values))


async def resume_run(
    runs: RunRepository, run_id: UUID, given: Resumption, actor: Actor, key: IdempotencyKey | None
) -> MutationResult:
    """Lets a run go on that waits for somebody; a worker gives its nodes what is given here.

    Raises IdempotencyKeyReused, RunNotFound, RunNotWaiting, and InvalidArgument for an id that the run does
    not wait for, and for one value when it waits for more than one thing; nothing has happened then.
    """
    result = await runs.resume(run_id, given, actor, key)
    if result.outcome is Outcome.KEY_REUSED:
        raise IdempotencyKeyReused
    if result.outcome is Outcome.RUN_NOT_FOUND:
        raise RunNotFound
    if result.outcome in (Outcome.WRONG_STATUS, Outcome.NOT_WAITING):
        raise not_waiting(result.status, result.attempt)
    if result.outcome is Outcome.UNKNOWN_ID:
        raise InvalidArgument([Violation("values", "has an id that the run does not wait for")])
    if result.outcome is Outcome.AMBIGUOUS:
        several = "is one, and the run waits for more than one thing; give values by id"
        raise InvalidArgument([Violation("value", several)])
    return result
