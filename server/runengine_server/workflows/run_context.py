"""What a node may ask of the engine that runs it: `runtime: Runtime[RunContext]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.struct_pb2 import Struct

from runengine_server.domain.struct import to_dict

SaveArtifact = Callable[[str, bytes, str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run as one execution of one node sees it.

    `attempt` is the run's, from 1. `idempotency_key` is the same for every execution of this
    step, whatever starts it again: send it along with each effect on the outside world.
    """

    run_id: UUID
    tenant_id: str
    campaign_id: UUID | None
    _context: Struct | None
    attempt: int
    idempotency_key: str
    _save_artifact: SaveArtifact

    @property
    def context(self) -> dict[str, Any] | None:
        """What the run was triggered with as its context; made anew each time."""
        return None if self._context is None else to_dict(self._context)

    async def save_artifact(self, name: str, data: bytes, media_type: str) -> str:
        """Stores `data` and answers the id of the artifact, a UUID string.

        The id becomes one of the step's `outputArtifactIds`. The artifact whose id the final
        state holds under `bundle_artifact_id` is the bundle of the run.
        Raises ValueError when the name is empty, longer than 255 characters or has a slash.
        """
        return await self._save_artifact(name, data, media_type)
