"""A node of a graph that stores nothing (`checkpointer=False`), of whose end nobody else tells."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_TASK_ID
from langgraph.errors import GraphBubbleUp

from runengine_server.worker.graph.execution import EXECUTION, Execution
from runengine_server.worker.graph.steps import is_part_of_another


class EndingNode(Runnable[Any, Any]):
    """Executes `bound`, a node with its edges, and records how it has ended."""

    def __init__(self, bound: Runnable[Any, Any]) -> None:
        self.bound = bound

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As ainvoke."""
        assert config is not None
        if is_part_of_another(config):
            return self.bound.invoke(input, config, **kwargs)
        execution: Execution = config["configurable"][EXECUTION]
        task_id = UUID(config["configurable"][CONFIG_KEY_TASK_ID])
        try:
            result = self.bound.invoke(input, config, **kwargs)
        except GraphBubbleUp:
            raise
        except Exception as error:
            execution.wait_for(execution.record_task_error(task_id, error, handled=False))
            raise
        execution.wait_for(execution.complete_unsaved(task_id))
        return result

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """What `bound` returns, or raises."""
        assert config is not None
        if is_part_of_another(config):
            return await self.bound.ainvoke(input, config, **kwargs)
        execution: Execution = config["configurable"][EXECUTION]
        task_id = UUID(config["configurable"][CONFIG_KEY_TASK_ID])
        try:
            result = await self.bound.ainvoke(input, config, **kwargs)
        except GraphBubbleUp:
            raise
        except Exception as error:
            await execution.record_task_error(task_id, error, handled=False)
            raise
        await execution.complete_unsaved(task_id)
        return result
