"""What a node may ask of the engine that runs it: `runtime: Runtime[RunContext]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from langgraph._internal._constants import PUSH
from langgraph.config import get_config

from runengine_server.domain.struct import to_dict

SaveArtifact = Callable[[str, bytes, str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run as one execution of one node sees it.

    `attempt` is the run's, from 1.
    """

    run_id: UUID
    tenant_id: str
    campaign_id: UUID | None
    _context: Struct | None
    attempt: int
    _task_id: UUID
    _save_artifact: SaveArtifact

    @property
    def idempotency_key(self) -> str:
        """The same for every execution of this step, whatever starts it again: send it along with each
        effect on the outside world. The nodes of a sub-graph, which share this context, have one each.
        """
        return f"{self.run_id}:{self._task_id}{_within(str(self._task_id))}"

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


def _within(task_id: str) -> str:
    """Which node of a sub-graph in the execution of that task asks; empty for the node of the task itself.
    By its place in the sub-graph, and not by the id of its task, which is another when the sub-graph
    starts anew.
    """
    try:
        config = get_config()
    except RuntimeError:  # asked on a thread of the node's own
        return ""
    _, found, inner = config["configurable"].get("checkpoint_ns", "").partition(f":{task_id}|")
    if not found:
        return ""
    metadata = config["metadata"]
    kind, place, *_ = metadata["langgraph_path"]
    sent = f".{place}" if kind == PUSH else ""
    return f":{inner.rpartition(':')[0]}.{metadata['langgraph_step']}{sent}"
