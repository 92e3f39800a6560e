"""What a node may ask of the engine that runs it: `runtime: Runtime[RunContext]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run as one execution of one node sees it.

    `attempt` is the run's, from 1.
    """

    run_id: UUID
    tenant_id: str
    campaign_id: UUID | None
    attempt: int
    _context: Callable[[], dict[str, Any] | None]
    _idempotency_key: Callable[[], str]
    _save_artifact: Callable[[str, bytes, str], Awaitable[str]]
    _read_artifact: Callable[[str], Awaitable[bytes]]

    @property
    def idempotency_key(self) -> str:
        """The same for every execution of this step, whatever starts it again: send it along with each
        effect on the outside world. The nodes of a sub-graph, which share this context, have one each.
        """
        return self._idempotency_key()

    @property
    def context(self) -> dict[str, Any] | None:
        """What the run was triggered with as its context; made anew each time."""
        return self._context()

    async def save_artifact(self, name: str, data: bytes, media_type: str) -> str:
        """Stores `data` and returns the id of the artifact, a UUID string.

        The id becomes one of the step's `outputArtifactIds`. The artifact whose id the final
        state holds under `bundle_artifact_id` is the bundle of the run.
        Raises ValueError when the name is empty, longer than 255 characters or has a slash.
        """
        return await self._save_artifact(name, data, media_type)

    async def read_artifact(self, artifact_id: str) -> bytes:
        """The bytes of an artifact, of this run or another of the same tenant.

        Raises ValueError when `artifact_id` is not the id of one.
        """
        return await self._read_artifact(artifact_id)
