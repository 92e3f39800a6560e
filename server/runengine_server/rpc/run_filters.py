"""Which runs a ListRunsRequest or a RunFilter asks for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib import import_module
from types import ModuleType
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.bulk_operation_service_pb2 import RunFilter as RunFilterMessage
from runengine.v1.list_runs_pb2 import ListRunsRequest

from runengine_server.domain.errors import Violation
from runengine_server.domain.run import RunStatus
from runengine_server.domain.run_filter import RunFilter
from runengine_server.rpc.messages import run_status_value
from runengine_server.rpc.validation import violations_of

_STATUSES = {run_status_value(status): status for status in RunStatus}

# Of each group one alone: no index has two of them.
_ALTERNATIVES = (("workflow_name", "campaign_id"), ("status", "error_code", "waiting"))


def check_filter(request: ListRunsRequest | RunFilterMessage) -> tuple[RunFilter, list[Violation]]:
    """The filter, and what is wrong with the request; the filter is of use only when nothing is."""
    violations = violations_of(request)
    given = {field.name for field, value in request.ListFields() if value is not False}
    for group in _ALTERNATIVES:
        first, *others = [name for name in group if name in given] or [""]
        violations += [Violation(name, f"goes with no {first}") for name in others]
    times: dict[str, datetime | None] = {}
    for name in ("created_after", "created_before"):
        times[name] = _time(getattr(request, name)) if name in given else None
        if name in given and times[name] is None:
            violations.append(Violation(name, "must be a time in the years 1 to 9999"))
    if violations:
        return RunFilter(), violations
    return RunFilter(
        statuses=tuple(dict.fromkeys(_STATUSES[value] for value in request.status)),
        workflow_name=request.workflow_name or None,
        campaign_id=UUID(request.campaign_id) if request.campaign_id else None,
        error_code=request.error_code or None,
        is_waiting=request.waiting,
        **times,
    ), []


def _time(given: Timestamp) -> datetime | None:
    try:
        return given.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None


async def run_search() -> ModuleType:
    """The module run_search. Imported at the first call, in a thread: with SQLAlchemy it takes 15 MiB, which
    most servers do without, and 0.2 s.
    """
    return await asyncio.to_thread(import_module, "runengine_server.repositories.run_search")
