"""A node of a run that nobody traces is executed without callback managers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph._internal._runnable import RunnableSeq, set_config_context


class UntracedSequence(RunnableSeq):
    """A node and its edges, which LangGraph executes as a chain of callbacks: for each node it makes four
    callback managers and copies their tags and metadata, a tenth of what a worker does for a run of no-op
    nodes. Where no handler listens they tell nobody, and are left out. Handlers that the node itself gives
    to what it calls have the graph as their parent then, instead of the node.
    """

    def __init__(self, sequence: RunnableSeq, steps: Sequence[Runnable[Any, Any]]) -> None:
        vars(self).update(vars(sequence))
        self.steps = list(steps)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As RunnableSeq.ainvoke of langgraph 1.2.22."""
        if config is None or _is_traced(config):
            return await super().ainvoke(input, config, **kwargs)
        # These name what a callback manager would begin.
        config = config.copy()
        config.pop("run_name", None)
        config.pop("run_id", None)
        with set_config_context(config) as context:
            # A task, because what the node sets in its context is its own.
            node = self.steps[0].ainvoke(input, config, **kwargs)
            output = await asyncio.create_task(node, context=context)
        for edge in self.steps[1:]:
            output = await edge.ainvoke(output, config)
        return output


def _is_traced(config: RunnableConfig) -> bool:
    callbacks = config.get("callbacks")
    return type(callbacks) is not AsyncCallbackManager or bool(callbacks.handlers)
