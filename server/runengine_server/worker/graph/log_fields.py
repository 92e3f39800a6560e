"""Which run and which step some code is executed for, as fields of a log line."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import FrameType
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_TASK_ID,
    NS_END,
    NS_SEP,
)

from runengine_server.worker.graph.execution import EXECUTION, Execution
from runengine_server.worker.graph.run_log import fields_of_run

# How many frames of a stack are logged.
_MAX_FRAMES = 12

# The config of the innermost node that is recorded. LangChain's variable has the config of whatever is being
# executed, which knows nothing of the run where a node has called it with a `configurable` of its own.
CONFIG_OF_NODE: ContextVar[object] = ContextVar("config of the node", default=None)


def execution_of(config: object) -> Execution | None:
    """The execution that a node's config belongs to; None when it is no config of a recorded node."""
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    execution = configurable.get(EXECUTION) if isinstance(configurable, Mapping) else None
    return execution if isinstance(execution, Execution) else None


def task_of(config: object) -> UUID | None:
    """The task that a node's config belongs to, if any."""
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    task_id = configurable.get(CONFIG_KEY_TASK_ID) if isinstance(configurable, Mapping) else None
    return None if task_id is None else UUID(task_id)


def fields_of_config(config: object) -> dict[str, object]:
    """Those of fields_of_run, with `step` and `step_attempt`, of a node's config; empty when it is no config
    of a recorded node.
    """
    execution = execution_of(config)
    if execution is None or not isinstance(config, Mapping):
        return {}
    fields = fields_of_run(execution.run)
    configurable = config["configurable"]
    task_id = task_of(config)
    if task_id is not None and (step := execution.step_of_task(task_id)) is not None:
        fields["step"] = step
        fields["step_attempt"] = execution.attempt_of_task(task_id)
    elif namespace := configurable.get(CONFIG_KEY_CHECKPOINT_NS):
        # A node of a graph within a node: a part that is a number counts the graphs that the node calls.
        parts = [part.partition(NS_END)[0] for part in namespace.split(NS_SEP) if not part.isdigit()]
        fields["step"] = ":".join(parts)
    return fields


def fields_of_node() -> dict[str, object]:
    """As fields_of_config, of the node in whose context this is called."""
    return fields_of_config(var_child_runnable_config.get()) or fields_of_config(CONFIG_OF_NODE.get())


def fields_of_frame(frame: FrameType | None) -> dict[str, object]:
    """As fields_of_config, of what a thread executes, found in the `config` of LangGraph's frames."""
    while frame is not None:
        if found := fields_of_config(frame.f_locals.get("config")):
            return found
        frame = frame.f_back
    return {}


def run_id_of(fields: Mapping[str, object]) -> UUID | None:
    """The id of the run in such fields, if there is one."""
    return UUID(str(fields["run_id"])) if "run_id" in fields else None


def stack_of(frame: FrameType | None) -> str:
    """The innermost frames, a line each, without values."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MAX_FRAMES:
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return "\n".join(lines)
