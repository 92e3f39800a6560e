"""The workflows that workers have registered, and how many workers serve each of them now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function

_REGISTER = dispatch_function("register_workflows")
_WITHDRAW = dispatch_function("withdraw_worker")
_SERVED = dispatch_function("served_workflows")
_LIST = dispatch_function("list_workflows")
_DESCRIBE = dispatch_function("describe_workflows")
_DESCRIBED = dispatch_function("described_workflows")


@dataclass(frozen=True, slots=True)
class ServedWorkflow:
    """A workflow, and how many workers serve it. `has_queued`: none does, and runs of it are queued."""

    name: str
    workers: int
    has_queued: bool


@dataclass(frozen=True, slots=True)
class ListedWorkflow:
    """A workflow, how many workers serve it, and how many runs of it are queued, of all tenants."""

    name: str
    workers: int
    queued: int


@dataclass(frozen=True, slots=True)
class DescribedWorkflow:
    """A workflow, how many workers serve it, and what the one that was started last says of it: fields of a
    runengine.v1.Workflow, None of a worker that says nothing.
    """

    name: str
    workers: int
    registered_at: datetime
    description: bytes | None


class WorkflowRepository:
    """All workflows, which belong to no tenant."""

    def __init__(self, database: Database) -> None:
        self._dispatch = database.dispatch()

    async def register(self, worker_id: UUID, worker: str, names: Sequence[str], seconds: float) -> None:
        """Lets callers trigger these workflows, and counts the worker process among those that serve them,
        for that many seconds.
        """
        await self._dispatch.call(_REGISTER, worker_id, worker, names, seconds)

    async def describe(self, descriptions: Mapping[str, bytes]) -> None:
        """Keeps what a worker says of these workflows, which are registered: fields of a
        runengine.v1.Workflow.
        """
        await self._dispatch.call(_DESCRIBE, list(descriptions), list(descriptions.values()))

    async def described(self, after: str, limit: int) -> list[DescribedWorkflow]:
        """Up to `limit` workflows whose names come after that one, in the order of their names."""
        return [DescribedWorkflow(**row) for row in await self._dispatch.call(_DESCRIBED, after, limit)]

    async def withdraw(self, worker_id: UUID) -> None:
        """Removes the worker process from those that serve workflows."""
        await self._dispatch.call(_WITHDRAW, worker_id)

    async def served(self, with_queued: bool) -> list[ServedWorkflow]:
        """All workflows; `has_queued` is false unless `with_queued`."""
        return [ServedWorkflow(**row) for row in await self._dispatch.call(_SERVED, with_queued)]

    async def list(self) -> list[ListedWorkflow]:
        """All workflows, in the order of their names."""
        return [ListedWorkflow(**row) for row in await self._dispatch.call(_LIST)]
