"""Which run and which node some code is executed for."""

from __future__ import annotations

from collections.abc import Mapping
from types import FrameType
from uuid import UUID

from runengine_server.worker.graph.recorded_node import EXECUTION, Execution

_MAX_FRAMES = 12


def execution_of(config: object) -> Execution | None:
    """The execution that a node's config belongs to, where it is one of ours."""
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    execution = configurable.get(EXECUTION) if isinstance(configurable, Mapping) else None
    return execution if isinstance(execution, Execution) else None


def of_config(config: object) -> dict[str, str]:
    """`run_id` and `step` of a node's config, for a log line; empty when it is not one of ours."""
    execution = execution_of(config)
    if execution is None or not isinstance(config, Mapping):
        return {}
    metadata = config.get("metadata")
    step = metadata.get("langgraph_node") if isinstance(metadata, Mapping) else None
    return {"run_id": str(execution.held.run.id), **({"step": step} if isinstance(step, str) else {})}


def of_frame(frame: FrameType | None) -> dict[str, str]:
    """As of_config, of what a thread is executing, found in the `config` of LangGraph's frames."""
    while frame is not None:
        if found := of_config(frame.f_locals.get("config")):
            return found
        frame = frame.f_back
    return {}


def run_of(whereabouts: Mapping[str, str]) -> UUID | None:
    """The id of the run, where there is one."""
    return UUID(whereabouts["run_id"]) if "run_id" in whereabouts else None


def place(frame: FrameType | None) -> str:
    """The innermost frames, without values."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MAX_FRAMES:
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return "\n".join(lines)
