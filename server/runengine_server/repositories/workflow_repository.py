"""The workflows that workers have registered, and how many workers serve each of them now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function

_REGISTER = dispatch_function("register_workflows")
_WITHDRAW = dispatch_function("withdraw_worker")
_SERVED = dispatch_function("served_workflows")
_LIST = dispatch_function("list_workflows")


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


class WorkflowRepository:
    """All workflows, which belong to no tenant."""

    def __init__(self, database: Database) -> None:
        self._dispatch = database.dispatch()

    async def register(self, worker_id: UUID, worker: str, names: Sequence[str], seconds: float) -> None:
        """Lets callers trigger these workflows, and counts the worker process among those that serve them,
        for that many seconds.
        """
        await self._dispatch.call(_REGISTER, worker_id, worker, names, seconds)

    async def withdraw(self, worker_id: UUID) -> None:
        """Removes the worker process from those that serve workflows."""
        await self._dispatch.call(_WITHDRAW, worker_id)

    async def served(self, with_queued: bool) -> list[ServedWorkflow]:
        """All workflows; `has_queued` is false unless `with_queued`."""
        return [ServedWorkflow(**row) for row in await self._dispatch.call(_SERVED, with_queued)]

    async def list(self) -> list[ListedWorkflow]:
        """All workflows, in the order of their names."""
        return [ListedWorkflow(**row) for row in await self._dispatch.call(_LIST)]
