"""The workflows that workers have registered, and how many workers serve each of them now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from runengine_server.repositories.database import Database
from runengine_server.repositories.functions import Function

# $1 and $2 the worker's id and name, $3 its workflows, $4 for how many seconds it is taken to be there. In
# the order of their names, so that two that register the same new ones do not wait for each other.
_REGISTER = Function(
    "register_workflows",
    "uuid, text, text[], float",
    "registered int",
    """
WITH named AS (
    INSERT INTO public.workflows (name) SELECT name FROM unnest($3) AS name ORDER BY name
    ON CONFLICT DO NOTHING
)
INSERT INTO public.workflow_workers (worker_id, worker, workflow_name, expires_at)
SELECT $1, $2, name, clock_timestamp() + make_interval(secs => $4) FROM unnest($3) AS name
ON CONFLICT (workflow_name, worker_id) DO UPDATE SET expires_at = excluded.expires_at
RETURNING 1
""",
    dispatch=True,
)

_WITHDRAW = Function(
    "withdraw_worker",
    "uuid",
    "withdrawn int",
    "DELETE FROM public.workflow_workers WHERE worker_id = $1 RETURNING 1",
    dispatch=True,
)

_SERVED_BY = """CROSS JOIN LATERAL (SELECT count(*) AS workers FROM public.workflow_workers
    WHERE workflow_name = name AND expires_at > statement_timestamp()) AS there"""

# $1: whether to look for runs too, which takes as long as there are queued ones of all workflows (100,000 in
# 10 ms), once for all.
_WORKERS = Function(
    "served_workflows",
    "boolean",
    "name text, workers bigint, has_queued boolean",
    f"""SELECT name, workers, CASE WHEN $1 AND workers = 0
    THEN name IN (SELECT workflow_name FROM public.runs WHERE status = 'queued') ELSE false END
FROM public.workflows {_SERVED_BY}""",
    dispatch=True,
)

_LIST = Function(
    "list_workflows",
    "",
    "name text, workers bigint, queued bigint",
    f"""SELECT name, workers, coalesce(queued, 0)
FROM public.workflows {_SERVED_BY} LEFT JOIN (SELECT workflow_name, count(*) AS queued FROM public.runs
    WHERE status = 'queued' GROUP BY workflow_name) AS waiting ON workflow_name = name
ORDER BY name""",
    dispatch=True,
)

FORGET_WORKERS = """
DELETE FROM public.workflow_workers WHERE (workflow_name, worker_id) IN (
    SELECT workflow_name, worker_id FROM public.workflow_workers
    WHERE expires_at < statement_timestamp() LIMIT 1000)
RETURNING 1
"""

FUNCTIONS = (_REGISTER, _WITHDRAW, _WORKERS, _LIST)


@dataclass(frozen=True, slots=True)
class ServedWorkflow:
    """A workflow, and how many workers are there for it. `has_queued`: runs of it wait, and none is."""

    name: str
    workers: int
    has_queued: bool


@dataclass(frozen=True, slots=True)
class ListedWorkflow:
    """A workflow, how many workers are there for it, and how many runs of it, of all tenants, are queued."""

    name: str
    workers: int
    queued: int


class WorkflowRepository:
    """All workflows, which belong to no tenant."""

    def __init__(self, database: Database) -> None:
        self._dispatch = database.dispatch()

    async def register(self, worker_id: UUID, worker: str, names: Sequence[str], seconds: float) -> None:
        """Lets callers trigger these workflows, and counts the worker process among those that serve them,
        for so many seconds.
        """
        await self._dispatch.call(_REGISTER, worker_id, worker, names, seconds)

    async def withdraw(self, worker_id: UUID) -> None:
        """The worker process serves nothing any more."""
        await self._dispatch.call(_WITHDRAW, worker_id)

    async def served(self, look_for_queued: bool) -> list[ServedWorkflow]:
        """All of them; `has_queued` is false unless it was to be looked for."""
        return [ServedWorkflow(**row) for row in await self._dispatch.call(_WORKERS, look_for_queued)]

    async def list(self) -> list[ListedWorkflow]:
        """All of them, in the order of their names."""
        return [ListedWorkflow(**row) for row in await self._dispatch.call(_LIST)]
