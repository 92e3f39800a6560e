"""Which run and which step some code is executed for, as fields of a log line."""

from __future__ import annotations

from collections.abc import Mapping
from types import FrameType
from uuid import UUID

from runengine_server.worker.graph.execution import EXECUTION, Execution

# How many frames of a stack are logged.
_MAX_FRAMES = 12


def execution_of(config: object) -> Execution | None:
    """The execution that a node's config belongs to; None when it is no config of a recorded node."""
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    execution = configurable.get(EXECUTION) if isinstance(configurable, Mapping) else None
    return execution if isinstance(execution, Execution) else None


def fields_of_config(config: object) -> dict[str, str]:
    """`run_id` and `step` of a node's config; empty when it is no config of a recorded node."""
    execution = execution_of(config)
    if execution is None or not isinstance(config, Mapping):
        return {}
    metadata = config.get("metadata")
    step = metadata.get("langgraph_node") if isinstance(metadata, Mapping) else None
    return {"run_id": str(execution.run.id), **({"step": step} if isinstance(step, str) else {})}


def fields_of_frame(frame: FrameType | None) -> dict[str, str]:
    """As fields_of_config, of what a thread executes, found in the `config` of LangGraph's frames."""
    while frame is not None:
        if found := fields_of_config(frame.f_locals.get("config")):
            return found
        frame = frame.f_back
    return {}


def run_id_of(fields: Mapping[str, str]) -> UUID | None:
    """The id of the run in such fields, if there is one."""
    return UUID(fields["run_id"]) if "run_id" in fields else None


def stack_of(frame: FrameType | None) -> str:
    """The innermost frames, a line each, without values."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MAX_FRAMES:
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return "\n".join(lines)
